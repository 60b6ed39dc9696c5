"""What a log repeats, and what a run that was resumed left behind, is left out; what is odd is noted."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from trimtab.readers.sources import count, list_some
from trimtab.readers.stepping import UNUSABLE, Stepping, Steps

DISORDER = 8
"""Entries by which the step may lag behind before it counts as set back: writers that wait for one another."""

OFTEN = 0.01
"""A step that falls back for an entry or two this often is of several writers, and not of a run set back."""

FEW = 3

GAP = 3.0
"""A gap is more than so many times the usual distance from one step to the next."""

OFTEN_GAPS = 0.1
"""Where more of the distances are that wide, the log was written at different paces, and nothing is missing."""


def put_right(stepping: Stepping, rows: NDArray[np.int64], values: NDArray[np.float64]) -> None:
    """Leave out what a run that was set back had logged of the steps it then took again; note what is odd.

    Args:
        stepping: the steps, changed in place.
        rows: the entries that have the main metric.
        values: its numbers.
    """
    usable = stepping.steps[rows] >= 0
    rows, values = rows[usable], values[usable]
    rows, values = _drop_repeats(stepping, rows, values)
    steps = stepping.steps[rows]
    restarts = _find_restarts(stepping, steps)
    if _counts_within_epochs(steps, restarts):
        _unroll(stepping, rows[restarts], int(steps.min()), int(steps.max()))
        restarts = []
    told: list[str] = []
    for place in restarts:
        step, before = int(steps[place]), int(steps[place - 1])
        since = _find_first_below(stepping.steps, int(rows[place - 1]) + 1, int(rows[place]), before)
        stepping.steps[:since][stepping.steps[:since] >= step] = UNUSABLE
        told.append(f"the run went back from step {before} to {step}; the later of the two is kept")
    stepping.num_restarts = len(told)
    stepping.notes += _sum_up(told)
    kept = stepping.steps[rows] >= 0
    _note_conflicts(stepping, stepping.steps[rows[kept]])
    _note_gaps(stepping, np.unique(stepping.steps[rows[kept]]))


def _drop_repeats(
    stepping: Stepping, rows: NDArray[np.int64], values: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Without the entries that say again what one before them has said: of several handlers or processes."""
    pairs = list(zip(stepping.steps[rows].tolist(), values.view(np.int64).tolist(), strict=True))
    seen: set[tuple[int, int]] = set()
    is_new = np.ones(len(pairs), dtype=np.bool_)
    for place, pair in enumerate(pairs):
        is_new[place] = pair not in seen
        seen.add(pair)
    num_new = int(is_new.sum())
    stepping.num_duplicates += len(rows) - num_new
    if num_new < len(rows):
        times = set(Counter(pairs).values())
        if len(times) == 1 and num_new > 1:
            said = f"every entry is there {times.pop()} times, as of several handlers or processes"
        else:
            steps = np.unique(stepping.steps[rows[~is_new]])
            num = count(len(rows) - num_new, "entry repeats", "entries repeat")
            said = f"{num} another, at step {list_some(steps)}"
        stepping.notes.append(f"{said}; each is kept once")
    return rows[is_new], values[is_new]


def _find_restarts(stepping: Stepping, steps: Steps) -> list[int]:
    """Where the run was set back; a step that comes late is none."""
    places, late = _find_falls(steps.tolist(), trusts_seen=True)
    short = [place for place in places if _count_behind(steps, place) < FEW]
    if len(short) > max(FEW, OFTEN * len(steps)):
        places, late = _find_falls(steps.tolist(), trusts_seen=False)
    if late:
        num = count(len(late), "entry is", "entries are")
        stepping.notes.append(f"{num} out of order and sorted in, at step {list_some(steps[late])}")
    return places


def _count_behind(steps: Steps, place: int) -> int:
    """For how many entries, at most `DISORDER` and one, the step lags behind the largest before a place."""
    ahead = np.flatnonzero(steps[place : place + DISORDER + 1] >= steps[:place].max())
    return int(ahead[0]) if len(ahead) else DISORDER + 1


def _find_falls(steps: list[int], trusts_seen: bool) -> tuple[list[int], list[int]]:
    """The places where the step falls behind: those from where the run goes on, and those that only come late.

    Args:
        steps: the steps in the order of the log.
        trusts_seen: True if a step that was there before says that the run was set back.
    """
    restarts, late = list[int](), list[int]()
    highest, seen, place = -1, set[int](), 0
    while place < len(steps):
        step = steps[place]
        if step >= highest:
            highest = step
        else:
            end = place
            while end < min(len(steps), place + DISORDER + 1) and steps[end] < highest:
                end += 1
            is_taken_again = trusts_seen and not seen.isdisjoint(steps[place:end])
            is_lasting = end - place > DISORDER or (end == len(steps) and end - place > 1)
            if is_taken_again or is_lasting:
                restarts.append(place)
                seen = {each for each in seen if each < step}
                highest = step
            else:
                late.extend(range(place, end))
                seen.update(steps[place:end])
                place = end
                continue
        seen.add(step)
        place += 1
    return restarts, late


def _find_first_below(steps: Steps, start: int, end: int, step: int) -> int:
    """The first entry of a range whose step is below another: the first that was logged after going back."""
    below = np.flatnonzero((steps[start:end] >= 0) & (steps[start:end] < step))
    return start + int(below[0]) if len(below) else end


def _counts_within_epochs(steps: Steps, restarts: list[int]) -> bool:
    """True if the step starts anew, from the same step and after the same step, again and again."""
    if len(restarts) < 2:
        return False
    ends = np.array(restarts) - 1
    return len(np.unique(steps[restarts])) == len(np.unique(steps[ends])) == 1 and bool(
        steps[restarts[0]] == steps.min() and steps[ends[0]] == steps.max()
    )


def _unroll(stepping: Stepping, starts: NDArray[np.int64], first: int, last: int) -> None:
    """Count on where the step starts anew."""
    length = last + int(first == 0)
    passed = np.zeros(len(stepping.steps), dtype=np.int64)
    passed[starts] = 1
    stepping.steps = np.where(stepping.steps >= 0, stepping.steps + np.cumsum(passed) * length, UNUSABLE)
    stepping.notes.append(
        f"the step starts anew {len(starts)} times, as with each epoch; it is counted on, {length} at a time"
    )


def _sum_up(notes: list[str]) -> list[str]:
    """A few notes as they are; of many the first few, and how many there are."""
    return notes if len(notes) <= FEW else [*notes[:FEW], f"the run went back {len(notes)} times in all"]


def _note_conflicts(stepping: Stepping, steps: Steps) -> None:
    found, counts = np.unique(steps, return_counts=True)
    stepping.num_duplicates += int((counts - 1).sum())
    if (counts > 1).any():
        num = count(int((counts > 1).sum()), "step is", "steps are")
        shown = list_some(found[counts > 1])
        stepping.notes.append(f"{num} there more than once with different numbers; the last is kept: {shown}")


def _note_gaps(stepping: Stepping, steps: Steps) -> None:
    distances = np.diff(steps)
    if len(distances) < FEW:
        return
    gaps = np.flatnonzero(distances > GAP * np.median(distances))
    if 0 < len(gaps) <= max(1, OFTEN_GAPS * len(distances)):
        shown = list_some(f"{steps[gap]} and {steps[gap + 1]}" for gap in gaps)
        stepping.notes.append(f"steps are missing between {shown}")
