"""Steps that have become slow, or were meant to be faster."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trimtab.detectors import detector
from trimtab.detectors.pace import judge_pace
from trimtab.history import Column, History
from trimtab.types import Breach

METRIC = "step_seconds"

EVERY, AT = 100, 2
"""Judged at the sampled steps 102, 202 and so on."""

SLOWER = 3.0
"""How many times as long as before a step takes where a run has slowed down: other jobs on the machine and longer
samples make steps twice as long."""

WINDOW = 64
"""Steps whose median is the pace of now, and of the beginning."""

LASTS = 192
"""Steps that a slowdown has to last for."""

BETWEEN = 100
"""Steps that have to lie between it and the beginning."""

TINY = 0.01
"""Seconds below which a step's time is the machine's mood."""


@detector("slow-steps", severity="low")
def find_slow_steps(
    history: History, *, times: float = SLOWER, expected_seconds: float = 0.0, late: float = 1.5
) -> Iterator[Breach]:
    """The steps take longer and longer, or longer than was expected.

    What it sees:
        At every hundredth step, the medians of three times 64 step times, the newest 192, above `times` that of the
        oldest 64 at hand; or, where `expected_seconds` is given, that of the newest 64 above `late` times that. Said
        when it becomes so.
    Why it matters:
        Something grows: a list that keeps graphs alive, a log, a cache; or the machine is shared or hot. Of an
        expected time (that of an epoch divided by its steps) a run that is late says so in its first minutes.
    Stays silent:
        On single slow steps, such as those before which was validated or a checkpoint was written. Where no time is
        expected, before step 400 and on steps of less than 10 ms.
    Settings:
        times: the slowdown that is not remarked on.
        expected_seconds: how long a step should take; 0 for no expectation.
        late: how many times as long is too slow.
    Default response:
        None; it is advisory. Where more than 80 % of the device is used, the device sets the pace: autocast, compile.
        Where less is, it waits: for data (more workers), or for the host.
    """
    if history.newest.step % EVERY != AT or METRIC not in history.newest.values:
        return
    seconds = history.column(METRIC)
    found = _judge(seconds, times, expected_seconds, late)
    if found is None or _judge(seconds[:-EVERY], times, expected_seconds, late) is not None:
        return
    pace, limit, against = found
    waited, bound = _measure_wait(history), judge_pace(history)
    told = "" if bound.bound == "not known" else f"; {bound.bound}: {bound.message}"
    message = f"a step takes {pace:.3g} s, {against}{waited}{told}"
    yield Breach(metric=METRIC, value=pace, limit=limit, message=message)


def _judge(seconds: Column, times: float, expected: float, late: float) -> tuple[float, float, str] | None:
    """The pace of now, the limit it is above, and in words what that is; None if it is not above one."""
    known = seconds[np.isfinite(seconds)]
    if len(known) < WINDOW:
        return None
    pace = float(np.median(known[-WINDOW:]))
    if expected > 0 and pace > late * expected:
        return pace, late * expected, f"where {expected:.3g} s was expected"
    before = float(np.median(known[:WINDOW]))
    parts = [known[len(known) - last :][:WINDOW] for last in range(WINDOW, LASTS + 1, WINDOW)]
    lately = min(float(np.median(part)) for part in parts)
    if len(known) >= WINDOW + BETWEEN + LASTS and lately > max(times * before, TINY):
        return pace, times * before, f"and took {before:.3g} s before"
    return None


def _measure_wait(history: History) -> str:
    """What the supervisor's own share is, in words, where it matters."""
    if not history.has("supervisor_seconds"):
        return ""
    own = float(np.nanmedian(history.column("supervisor_seconds")[-WINDOW:]))
    share = own / float(np.nanmedian(history.column(METRIC)[-WINDOW:]))
    return f"; {share:.0%} of it is the supervisor's own" if share > 0.1 else ""
