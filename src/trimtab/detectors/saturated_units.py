"""Layers whose activations are all but saturated."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trimtab.detectors import detector
from trimtab.history import History
from trimtab.types import Breach

METRIC = "saturated_units"


@detector("saturated-units", severity="medium", needs=METRIC)
def find_saturated_units(history: History, *, limit: float = 0.9, samples: int = 2) -> Iterator[Breach]:
    """Nearly all activations of a group are at their bounds.

    What it sees:
        A group in which the share of such values was above `limit` at each of the newest `samples` sampled steps (2,
        102, 202 and so on): within half a percent of a bound of a sigmoid, a tanh or another activation that has
        bounds, or above 0.99 of the largest magnitude where there are none.
    Why it matters:
        Where an activation is flat, no gradient passes, and the layers before it stop learning. The usual causes are
        inputs that are not normalized, an initialization that is too large, and a learning rate that was too high.
    Stays silent:
        On the activation of the output, which saturates where a classifier is sure. On functions that are no modules.
    Settings:
        limit: the share that is not remarked on, from 0 to 1.
        samples: sampled steps in a row it takes.
    Default response:
        None; it is advisory. Normalize the inputs, put a normalization before the activation, learning rate ÷ 3.
    """
    shares = history.measured(METRIC, samples)
    if METRIC not in history.newest.values or len(shares) < samples:
        return
    full = np.flatnonzero(shares.min(axis=0) > limit)
    if len(full):
        full = full[np.argsort(-shares[-1, full], kind="stable")]
        groups, share = tuple(history.groups[index] for index in full), float(shares[-1, full[0]])
        rest = f" and {len(full) - 1} more groups" if len(full) > 1 else ""
        message = f"{share:.1%} of the activations of {groups[0]}{rest} are at their bounds, above {limit:.1%}"
        yield Breach(metric=METRIC, value=share, limit=limit, message=message, groups=groups)
