"""How fast the schedule of the learning rate moves."""

from __future__ import annotations

from collections.abc import Iterable

from torch.optim.lr_scheduler import ChainedScheduler, LRScheduler, ReduceLROnPlateau

from trimtab.probes import Values, Watch, probe
from trimtab.probes.subject import Moment, Subject
from trimtab.ranks import is_distributed

NAME = "schedule_pace"


class ScheduleWatch(Watch):
    """Keeps where the schedule was before a sampled step.

    Args:
        subject: the live training.
    """

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self.position = read_position(subject.schedule)


def find_schedule(partners: Iterable[object]) -> LRScheduler | None:
    """The first schedule among the partners of a run that moves by the clock, not by a metric; None without one."""
    schedules = (each for each in partners if isinstance(each, LRScheduler) and not isinstance(each, ReduceLROnPlateau))
    return next(schedules, None)


def read_position(schedule: LRScheduler | None) -> int | None:
    """How many times a schedule has moved: its `last_epoch`, of a chain that of its first link; None without one."""
    if isinstance(schedule, ChainedScheduler):
        schedule = schedule._schedulers[0]
    return getattr(schedule, "last_epoch", None)


@probe(NAME, watch=ScheduleWatch)
def measure_schedule_pace(moment: Moment) -> Values:
    """`schedule_position`: how many times the schedule has moved so far; `schedule_moves`: how many of them in a step.

    `schedule_length`: how many moves it has, where its kind is meant for one a step, which has `total_steps`
    (`OneCycleLR`, and those of `trimtab.recipes` that are stepped once per step). All are measured
    at sampled steps alone, of the first schedule among the partners. In a distributed run nothing is said of a schedule
    that moves several times a step: some libraries move it once for each process on purpose.
    """
    if not moment.is_sampled or moment.subject.schedule is None:
        return {}
    position, watch = read_position(moment.subject.schedule), moment.watches.get(NAME)
    if position is None:
        return {}
    before = None if watch is None else watch.position
    moves = None if before is None else position - before
    if is_distributed() and moves is not None and moves > 1:
        return {}
    values = {"schedule_position": float(position)}
    if moves is not None:
        values["schedule_moves"] = float(moves)
    length = getattr(moment.subject.schedule, "total_steps", None)
    if isinstance(length, int):
        values["schedule_length"] = float(length)
    return values
