"""Gradients that vanish or explode with depth."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trimtab.detectors import detector
from trimtab.history import Column, History
from trimtab.types import Breach

METRIC = "group_grad_norm"

EVERY, AT = 100, 2
"""Judged at the sampled steps 2, 102, 202 and so on: what is slow to change need not be looked at often."""

MIN_GROUPS = 4
"""Fewer groups are in order by chance: of three, one in three."""

MIN_CORRELATION = 0.9
"""Rank correlation with depth from which the order is taken for a trend; of four groups it asks for the exact order, of
ten it allows two neighbours to be swapped here and there."""


@detector("depth-gradient", severity="low")
def find_depth_gradient(history: History, *, ratio: float = 1e4, window: int = 20) -> Iterator[Breach]:
    """The gradient norms of the groups rise or fall with depth by orders of magnitude.

    What it sees:
        At every hundredth step, the medians of the groups' gradient norms over the newest `window` samples, in the
        model's order: their rank correlation (Spearman) with depth is beyond 0.9 and the first and the last differ
        by more than `ratio`.
    Why it matters:
        Where the norm shrinks from the last group to the first, the first layers hardly learn: activations that
        saturate, no residual paths, a small initialization. Where it grows, they set the learning rate for all others.
        Both come from the repeated products of backpropagation (Bengio, Simard and Frasconi 1994; Glorot and Bengio
        2010).
    Stays silent:
        With fewer than four groups that have a gradient, before `window` samples, and on norms that differ without
        order. Three layers of 64 sigmoids lose a factor of about 150, thirteen of them 1e11.
    Settings:
        ratio: how far the first and the last group may differ.
        window: samples that a median rests on.
    Default response:
        None; it is advisory. Residual paths, normalization or another initialization are the remedies.
    """
    if history.newest.step % EVERY != AT or METRIC not in history.newest.values:
        return
    samples = history.samples(METRIC, window)
    if len(samples) < window:
        return
    medians = np.asarray(np.median(samples, axis=0), dtype=np.float64)
    there = np.flatnonzero(medians > 0)
    if len(there) < MIN_GROUPS or not abs(correlate_with_depth(medians[there])) > MIN_CORRELATION:
        return
    first, last = history.groups[there[0]], history.groups[there[-1]]
    rise = float(medians[there[-1]] / medians[there[0]])
    spread = max(rise, 1 / rise)
    if spread > ratio:
        how = "vanish" if rise > 1 else "explode"
        message = f"gradients {how} towards the first layers: {first} and {last} differ by a factor of {spread:.4g}"
        yield Breach(metric="depth_ratio", value=spread, limit=ratio, message=message, groups=(first, last))


def correlate_with_depth(values: Column) -> float:
    """Spearman's rank correlation of some values with their order."""
    ranks = np.argsort(np.argsort(values))
    return float(np.corrcoef(ranks, np.arange(len(values)))[0, 1])
