"""The axis of a panel: logarithmic or not, and up to where, so that one spike does not hide the curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FAR = 2.0
"""Decades above the usual numbers beyond which the axis does not go; on an axis that is not logarithmic, how many times
their range."""

USUAL = 0.75
"""The share of the numbers that are the usual ones; a run that spends a quarter of its time there is drawn in full."""

NUM_FIRST = 10
"""Numbers at the start of a run that are usual too, however far it has come down since."""

WIDE = 20.0
"""How many times its lowest number the highest usual one is, from where on an axis is logarithmic."""


@dataclass(frozen=True, slots=True)
class Axis:
    """What is drawn of some numbers."""

    is_log: bool
    """True if it is logarithmic: not where numbers pass below 0."""

    lowest: float
    """The lowest number that is drawn."""

    limit: float
    """The highest number that is drawn where it is; what is above is marked at the upper edge."""

    num_above: int
    """How many numbers are above."""

    highest: float
    """The highest of all."""


def choose_axis(series: Sequence[NDArray[np.float64]], *, prefers_log: bool = False) -> Axis:
    """The axis on which some series of numbers can be read; what is not finite does not count.

    Args:
        series: the numbers of each, in their order.
        prefers_log: take a logarithmic axis for any positive numbers, not for those alone that span decades.
    """
    finite = [each[np.isfinite(each)] for each in series]
    numbers = np.concatenate([*finite, np.empty(0)])
    is_log = bool((numbers >= 0).all()) and (prefers_log or _spans_decades(numbers))
    if is_log:
        finite, numbers = [each[each > 0] for each in finite], numbers[numbers > 0]
    if not len(numbers):
        return Axis(prefers_log, 1.0, 1.0, 0, 1.0)
    usual = max(float(np.median(each[:NUM_FIRST])) for each in finite if len(each))
    usual = max(usual, float(np.quantile(numbers, USUAL)))
    lowest, highest = float(numbers.min()), float(numbers.max())
    limit = usual * 10**FAR if is_log else usual + FAR * (usual - lowest)
    if highest <= limit or usual <= lowest:
        return Axis(is_log, lowest, highest, 0, highest)
    limit = float(numbers[numbers <= limit].max())
    return Axis(is_log, lowest, limit, int((numbers > limit).sum()), highest)


def _spans_decades(numbers: NDArray[np.float64]) -> bool:
    return len(numbers) > 0 and bool(numbers.min() > 0) and bool(np.quantile(numbers, 0.98) > WIDE * numbers.min())
