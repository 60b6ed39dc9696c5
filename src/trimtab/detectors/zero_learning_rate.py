"""A learning rate of exactly zero in a young run."""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.detectors import detector
from trimtab.history import History
from trimtab.types import Breach

METRIC = "learning_rate"

SAY_EVERY = 100
"""Steps after which it is said again, if it is still so."""


@detector("zero-learning-rate", severity="medium")
def find_zero_learning_rate(history: History, *, steps: int = 3, young: int = 1000) -> Iterator[Breach]:
    """The learning rate of a young run has been exactly 0 for several steps.

    What it sees:
        A learning rate of exactly 0, in all of the optimizer's parameter groups, at each of the newest `steps` steps,
        before step `young`.
    Why it matters:
        Every update is computed and none is made. A scheduler is stepped at the wrong clock (once per epoch in a
        warm-up meant for steps, or once per step in a decay meant for epochs), or a configuration is wrong.
    Stays silent:
        On a warm-up that starts at 0 for a step or two, and on all that follows step `young`: a schedule that has
        ended.
    Settings:
        steps: how many steps in a row it takes.
        young: the step from which on a rate of 0 is taken for the end of a schedule.
    Default response:
        None; it is advisory. Look at where `scheduler.step()` is called, and how many calls its length allows.
    """
    newest = history.newest
    if newest.values.get(METRIC) != 0 or newest.step >= young or len(history) < steps:
        return
    if history.count_newest(METRIC, 0.0) % SAY_EVERY == steps:
        message = f"learning_rate has been exactly 0 for {steps} steps: no update changes anything"
        yield Breach(metric=METRIC, value=0.0, limit=0.0, message=message)
