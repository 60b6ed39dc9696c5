"""Activations that vanish or explode with depth."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trimtab.detectors import detector
from trimtab.detectors.depth_gradient import MIN_CORRELATION, MIN_GROUPS, correlate_with_depth
from trimtab.history import History
from trimtab.types import Breach

METRIC = "activation_std"


@detector("depth-activation", severity="low", needs=METRIC)
def find_depth_activation(history: History, *, ratio: float = 1e4, samples: int = 2) -> Iterator[Breach]:
    """The spread of the layers' activations falls or rises with depth by orders of magnitude.

    What it sees:
        At each of the newest `samples` sampled steps (2, 102, 202 and so on), standard deviations of the groups'
        activations between samples, whose rank correlation (Spearman) with depth is beyond 0.9, and of which the
        first and the last differ by more than `ratio`.
    Why it matters:
        What shrinks from layer to layer carries no more of the input at the end, and what grows overflows in half
        precision; each layer multiplies by a factor that the initialization should hold at 1 (Glorot and Bengio 2010;
        He et al. 2015).
    Stays silent:
        With fewer than four groups, and on spreads that differ without order.
    Settings:
        ratio: how far the first and the last group may differ.
        samples: sampled steps in a row it takes.
    Default response:
        None; it is advisory. Normalization, residual paths, or the initialization that fits the activation.
    """
    spreads = history.measured(METRIC, samples)
    if METRIC not in history.newest.values or len(spreads) < samples:
        return
    rises = [_measure_rise(each.astype(np.float64)) for each in spreads]
    is_there = all(rise > ratio for rise in rises) or all(0 < rise < 1 / ratio for rise in rises)
    if is_there:
        spread = max(rises[-1], 1 / rises[-1])
        how = "explode" if rises[-1] > 1 else "vanish"
        there = np.flatnonzero(spreads[-1] > 0)
        first, last = history.groups[there[0]], history.groups[there[-1]]
        message = f"activations {how} towards the last layers: {first} and {last} differ by a factor of {spread:.4g}"
        yield Breach(metric="depth_ratio", value=spread, limit=ratio, message=message, groups=(first, last))


def _measure_rise(spreads: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    """How many times the first group's spread the last one's is, where they are in order; 1 where they are not."""
    known = spreads[np.isfinite(spreads) & (spreads > 0)]
    if len(known) < MIN_GROUPS or not abs(correlate_with_depth(known)) > MIN_CORRELATION:
        return 1.0
    return float(known[-1] / known[0])
