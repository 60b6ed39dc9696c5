"""Updates far too small or too large for their weights."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from trimtab.detectors import detector
from trimtab.history import History
from trimtab.types import Breach

METRIC = "update_ratio"

TINY = 0.1
"""A group whose weight norm is below this share of the largest group's may move by any ratio: the bias of a linear
model is often a twentieth of its weights, crosses 0 now and then, and had ratios of 0.7 and 6."""


@detector("update-ratio", severity="low", needs=METRIC)
def find_update_ratio(
    history: History, *, low: float = 1e-6, high: float = 0.1, samples: int = 3, young: int = 1000
) -> Iterator[Breach]:
    """One update after the other is far too small, or far too large, for a group's weights.

    What it sees:
        A group whose update ratio ‖Δw‖ / ‖w‖ was above `high` at each of its newest `samples` measurements, or, before
        step `young`, below `low` at each. It is measured at a few steps, each time the update of one step.
    Why it matters:
        About 1e-3 is usual. At 1e-6 a group needs a million steps to become another one: the learning rate is too
        small for it. At 0.1 it is another one after ten: the rate is too large, or its weights are tiny.
    Stays silent:
        On groups that do not move at all, such as frozen ones. Large ratios are no matter where the weights are tiny
        beside those of another group, such as a single bias near 0. Small ones are what a schedule asks for while the
        learning rate is 0 or above that of the oldest step at hand, as in a warm-up, and from step `young` on.
    Settings:
        low: the smallest ratio that is not remarked on.
        high: the largest ratio that is not remarked on.
        samples: measurements in a row it takes.
        young: the step from which on a small ratio may be the end of a schedule.
    Default response:
        None; it is advisory. Give the group a learning rate of its own, or look at its initialization.
    """
    if METRIC not in history.newest.values:
        return
    ratios = history.measured(METRIC, samples)
    if len(ratios) < samples:
        return
    least, most = ratios.min(axis=0), ratios.max(axis=0)
    is_high = (least > high) & np.isfinite(most) & ~_is_near_zero(history)
    is_low = (least > 0) & (most < low) & (not _is_small_by_schedule(history, young))
    for side, limit, there in (("above", high, is_high), ("below", low, is_low)):
        found = np.flatnonzero(there)
        if len(found):
            worst = int(found[np.argmax(ratios[-1, found] if side == "above" else -ratios[-1, found])])
            ratio, rest = float(ratios[-1, worst]), f" and {len(found) - 1} more groups" if len(found) > 1 else ""
            message = f"updates are {ratio:.3g} of the weights in {history.groups[worst]}{rest}, {side} {limit:.3g}"
            groups = tuple(history.groups[index] for index in (worst, *found[found != worst]))
            yield Breach(metric=METRIC, value=ratio, limit=limit, message=message, groups=groups)


def _is_near_zero(history: History) -> NDArray[np.bool_]:
    """For each group, whether its weights are tiny beside those of the largest group; shape (groups,)."""
    norms = history.measured("weight_norm", 1)
    if not len(norms):
        return np.zeros(len(history.groups), dtype=np.bool_)
    return np.asarray(norms[-1] < TINY * norms[-1].max(), dtype=np.bool_)


def _is_small_by_schedule(history: History, young: int) -> bool:
    """True in a warm-up, and where the run may be at the end of its schedule."""
    rate = history.newest.values.get("learning_rate")
    if history.newest.step >= young or rate == 0:
        return True
    return isinstance(rate, float) and rate > history.column("learning_rate")[0]
