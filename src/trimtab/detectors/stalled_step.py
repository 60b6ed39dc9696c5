"""A step that hung."""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.detectors import detector
from trimtab.history import History
from trimtab.types import Breach

METRIC = "step_seconds"

STALL_TIMES, STALL_SECONDS = 50.0, 30.0
"""A step is a stall where it takes both 50 times the usual and half a minute: checkpoints and evaluations take less."""

WINDOW = 100


@detector("stalled-step", severity="low", needs=METRIC)
def find_stalled_step(
    history: History, *, times: float = STALL_TIMES, seconds: float = STALL_SECONDS, warmup: int = 20
) -> Iterator[Breach]:
    """A step took as long as dozens of others.

    What it sees:
        A step time above `times` the level of the accepted steps before and above `seconds`.
    Why it matters:
        The run waited: for a worker of the loader, a file system, another rank, a machine that was suspended. What
        hung once often hangs again, and then for good.
    Stays silent:
        On the first steps, and on evaluations and checkpoints, which are shorter. While a step hangs nothing is said,
        since nothing is called; `is_hung` tells it from outside.
    Settings:
        times: how many times as long as usual is a stall.
        seconds: what is none, however long beside the others.
        warmup: accepted steps it needs.
    Default response:
        None; it is advisory. While it hangs, `py-spy dump --pid PID` shows where.
    """
    took = history.newest.values.get(METRIC)
    if not isinstance(took, float) or not took > seconds:
        return
    seen = history.statistics(METRIC, WINDOW)
    if seen.num >= warmup and is_hung(took, seen.level, times, seconds):
        limit = max(times * seen.level, seconds)
        message = f"the step took {took:.4g} s, where {seen.level:.3g} s is usual"
        yield Breach(metric=METRIC, value=took, limit=limit, message=message)


def is_hung(waited: float, level: float, times: float = STALL_TIMES, seconds: float = STALL_SECONDS) -> bool:
    """True if a run has made no step for so long that it hangs: for those who watch it from outside.

    Args:
        waited: seconds since its last step.
        level: seconds a step usually takes.
        times: how many times as long is too long.
        seconds: what is not, however long beside the others.
    """
    return waited > max(times * level, seconds)
