"""Stretches of a loss of exactly 0: whether it fell there, or was suddenly no loss at all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trimtab.diagnosis.evidence import Evidence

LEAST_ZEROS = 100
"""Records in a row with a loss of exactly 0; single batches may be learned to the last digit, or have no labels."""

LEVEL = 10
"""Records whose median is the level right before a stretch, and at the start of the run."""

NEARLY = 1e-3
"""The share of the first level below which a loss that is known by heart may be rounded to 0."""

SMALL, FALLEN = 0.05, 0.7
"""Or the share below which it may, where the newest level is below 0.7 of that of five times as many records before."""


OFTEN = 0.25
"""The share of zeros in the 50 records before from which more and more batches have no loss left, as of a hinge."""


@dataclass(frozen=True, slots=True)
class Zeros:
    """A stretch of a loss of exactly 0 that it did not fall to."""

    first: int
    """The first step."""

    last: int
    """The last step."""

    num: int
    """How many records."""

    before: float
    """The median loss of the records right before; NaN where there are none."""

    is_at_end: bool
    """True if it lasts to the end of the record."""


def find_zeros(evidence: Evidence) -> tuple[Zeros, ...]:
    """Every long stretch of a loss of exactly 0, but one that the loss fell to smoothly."""
    losses = evidence.metric("loss").finite
    is_zero = np.concatenate(([False], losses.values == 0, [False]))
    firsts, ends = np.flatnonzero(np.diff(is_zero.astype(np.int8)).reshape(-1)).reshape(-1, 2).T
    found = []
    for first, end in zip(firsts.tolist(), ends.tolist(), strict=True):
        before = losses.values[:first][losses.values[:first] != 0]
        is_often = first > 0 and np.mean(losses.values[max(first - 5 * LEVEL, 0) : first] == 0) >= OFTEN
        if end - first >= LEAST_ZEROS and not is_often and not _fell(before):
            level = float(np.median(before[-LEVEL:])) if len(before) else float("nan")
            steps = losses.steps[[first, end - 1]].tolist()
            found.append(Zeros(steps[0], steps[1], end - first, level, end == len(losses)))
    return tuple(found)


def _fell(before: NDArray[np.float64]) -> bool:
    """True if the losses that are not 0, before a stretch of zeros, fell to nearly 0 and so may be rounded to it."""
    if not len(before):
        return False
    start, newest = float(np.median(np.abs(before[:LEVEL]))), float(np.median(np.abs(before[-LEVEL:])))
    lowest = float(np.min(np.abs(before[-LEVEL:])))
    if lowest <= NEARLY * start:
        return True
    earlier = np.abs(before[-6 * LEVEL : -LEVEL])
    return lowest <= SMALL * start and (not len(earlier) or newest < FALLEN * float(np.median(earlier)))
