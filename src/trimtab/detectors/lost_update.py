"""Updates lost to the rounding of half-precision weights."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trimtab.detectors import detector
from trimtab.history import History
from trimtab.types import Breach

METRIC = "lost_updates"

MOST_NAMED = 3
"""Groups that a message names."""


@detector("lost-update", severity="medium", needs=METRIC)
def find_lost_update(history: History, *, limit: float = 0.9) -> Iterator[Breach]:
    """Most of the updates of a group in half precision are rounded away.

    What it sees:
        For each group with bfloat16 or float16 weights, the share of the weights that have a gradient and were left
        exactly as they were by the last update. It has to be above `limit` at the newest two measurements.
    Why it matters:
        A weight of bfloat16 stays what it is unless the update is above a 512th of it. Such a group has stopped
        training, though its gradients and its loss look as they should, and it stops soonest with a small rate.
    Stays silent:
        On groups in float32, at steps at which no update is measured, and while the learning rate is 0. A schedule
        that falls to nearly 0 loses its last updates by design, and is found all the same.
    Settings:
        limit: the share that is too much.
    Default response:
        None: it is recorded only. Keep master weights in float32, or round stochastically.
    """
    shares = history.newest.values.get(METRIC)
    if not isinstance(shares, tuple) or not history.newest.values.get("learning_rate"):
        return
    column = history.column(METRIC)
    now, before = column[-1], column[:-1]
    measured = before[~np.isnan(before).all(axis=1)]
    if not len(measured):
        return
    found = np.flatnonzero((now > limit) & (measured[-1] > limit))
    if not found.size:
        return
    groups = tuple(history.groups[index] for index in found[np.argsort(-now[found], kind="stable")])
    worst = float(now[found].max())
    rest = f" and {len(groups) - MOST_NAMED} more" if len(groups) > MOST_NAMED else ""
    message = (
        f"up to {worst:.0%} of the weights of {', '.join(groups[:MOST_NAMED])}{rest} were left unchanged by an update: "
        "keep float32 master weights or use stochastic rounding"
    )
    yield Breach(metric=METRIC, value=worst, limit=limit, message=message, groups=groups)
