"""A schedule of the learning rate that moves at the wrong clock."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from trimtab.detectors import detector
from trimtab.history import Column, History
from trimtab.types import Breach

METRIC = "schedule_position"

USUAL = 0.9
"""Moves per step from which a schedule is one that moves once a step; a loss scaler leaves out a few."""

FAST = 1.5
"""Moves per step above which it moves several times a step; a move more at the end of each epoch is fewer."""


@detector("schedule-pace", severity="low", needs=METRIC)
def find_schedule_pace(history: History, *, slow: float = 0.5, epochs: int = 200) -> Iterator[Breach]:
    """The schedule moves several times a step, once per epoch where it is meant for steps, or never.

    What it sees:
        How often the schedule moved from one sampled step (2, 102, 202 and so on) to the next, and in the step before
        the sampled one. Either several times a step; or fewer than `slow` times a step, of a schedule that moved once
        a step before, or of one with a `total_steps` of more than `epochs`, such as `OneCycleLR` or
        `trimtab.recipes.four_phase`; of such a one also that it has not moved at all.
    Why it matters:
        A schedule with 10,000 moves that is moved once per epoch leaves the learning rate at the start of its warm-up;
        one that is moved four times a step is over after a quarter of the run, and its rest is trained at a rate
        near 0.
    Stays silent:
        On schedules that moved once per epoch from the start, as is meant for `StepLR`, `MultiStepLR`, a cosine and
        others; on one that no longer moves, since it may be over; between two samples of which an update was
        rejected, or the position was set by hand; on schedules that are not handed to the supervisor.
    Settings:
        slow: moves per step below which a schedule is not moved once a step.
        epochs: the longest `total_steps` that may be meant for epochs.
    Default response:
        None; it is advisory. Call `scheduler.step()` once after each `optimizer.step()`: not in the loop over epochs,
        and not in the loop over micro-batches, unless its length is counted in those.
    """
    moves = history.newest.values.get("schedule_moves")
    if not isinstance(moves, float):
        return
    paces = measure_paces(history)
    pace = float(paces[-1]) if len(paces) else np.nan
    if moves > 1:
        if not pace <= FAST and not _was_fast(history):
            message = f"the schedule moves {moves:.0f} times a step: it is over sooner than its length says"
            yield Breach(metric="schedule_moves", value=moves, limit=1.0, message=message)
        return
    length = history.newest.values.get("schedule_length")
    is_long = isinstance(length, float) and length > epochs
    if not pace < slow or (paces[:-1] < slow).any():
        return
    if pace > 0 and (paces[:-1] >= USUAL).any():
        message = f"the schedule moves once in {1 / pace:.3g} steps, and moved once a step before"
    elif pace > 0 and is_long:
        message = (
            f"the schedule moves once in {1 / pace:.3g} steps, and has {length:.0f} moves: is it moved once per epoch?"
        )
    elif is_long and history.newest.values[METRIC] == 0:
        message = f"the schedule has {length:.0f} moves and has not moved yet: is it never stepped, or once per epoch?"
    else:
        return
    yield Breach(metric="schedule_pace", value=pace, limit=slow, message=message)


def measure_paces(history: History) -> Column:
    """Moves per step from each sampled step to the next, oldest first; NaN where an update in between was rejected."""
    rows = np.flatnonzero(np.isfinite(history.column(METRIC)))
    positions, steps = history.column(METRIC)[rows], history.steps[rows]
    paces = np.diff(positions) / np.diff(steps)
    for index, (first, last) in enumerate(pairwise(rows.tolist())):
        if not history.was_accepted[first:last].all():
            paces[index] = np.nan
    return np.asarray(paces, dtype=np.float64)


def _was_fast(history: History) -> bool:
    """True if the sample before the newest one was fast too, so that it has been said."""
    moves = history.column("schedule_moves")
    moves = moves[np.isfinite(moves)]
    return len(moves) > 1 and bool(moves[-2] > 1)
