"""When the probe is measured: rarely while the run is calm and the probe dear, at every step where it is not calm."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from trimtab.history import History
from trimtab.state.schedule import LONGEST, ProbeSchedule
from trimtab.types import Decision, Measurement

MEMORY = 5


class Run:
    """A run whose steps and probe take so many seconds, driven by the schedule alone."""

    def __init__(self, every: int = 8, budget: float = 0.01, probe_seconds: float = 0.0, step_seconds: float = 1.0):
        self.schedule = ProbeSchedule(every, budget, MEMORY)
        self.history = History()
        self.probe_seconds, self.step_seconds = probe_seconds, step_seconds
        self.step = 0
        self.probed: list[int] = []

    def take(self, num: int, verdict: str = "proceed") -> Run:
        for _ in range(num):
            self.step += 1
            values = {"step_seconds": self.step_seconds} if self.step > 1 else {}
            if self.schedule.is_due(self.step):
                self.probed.append(self.step)
                values |= {"probe_loss": 1.0, "probe_seconds": self.probe_seconds}
            self.history.append(Measurement(self.step, values))
            self.history.close(accepted=True)
            self.schedule.judge(Decision(self.step, verdict), self.history)
        return self


def test_first_step_is_measured_and_then_every_eighth() -> None:
    """The reference is there from the first step on."""
    assert Run().take(40).probed == [1, 9, 17, 25, 33]


@pytest.mark.parametrize(
    ("probe_seconds", "every"),
    [
        pytest.param(0.08, 8, id="at-the-budget"),
        pytest.param(0.081, 16, id="just-above-it"),
        pytest.param(0.17, 32, id="twice"),
        pytest.param(1.0, 128, id="as-long-as-a-step"),
        pytest.param(1e6, LONGEST, id="never-more-than-the-longest"),
        pytest.param(0.0, 8, id="free"),
    ],
)
def test_cadence_doubles_until_the_budget_is_kept(probe_seconds: float, every: int) -> None:
    """A dear probe is measured less often: its share of the run's time stays within the budget."""
    run = Run(probe_seconds=probe_seconds).take(1200)
    assert run.schedule.every == every
    assert {late - early for early, late in zip(run.probed[2:-1], run.probed[3:], strict=True)} <= {every}


def test_cadence_comes_back_when_the_probe_is_cheap_again() -> None:
    """The median of what was measured decides, so one slow measurement changes little, and a change shows in time."""
    run = Run(probe_seconds=0.2).take(200)
    assert run.schedule.every == 32
    run.probe_seconds = 0.01
    run.take(600)
    assert run.schedule.every == 8


@pytest.mark.parametrize("verdict", ["skip", "rollback", "reload"])
def test_every_step_is_measured_after_one_that_was_not_calm(verdict: str) -> None:
    """For `memory` steps after a skip or a rollback, whatever the probe costs."""
    run = Run(probe_seconds=1.0).take(40)
    before = len(run.probed)
    run.take(1, verdict).take(60)
    assert run.probed[before : before + MEMORY] == [*range(42, 42 + MEMORY)]
    assert run.probed[before + MEMORY :] == []


@pytest.mark.parametrize("verdict", ["proceed", "clip", "drop"])
def test_update_that_goes_ahead_is_calm(verdict: str) -> None:
    """A clipped update is no reason to look again."""
    run = Run().take(10)
    run.take(1, verdict).take(5)
    assert run.probed == [1, 9]


@given(st.integers(1, 64), st.floats(1e-4, 0.99), st.floats(0, 10))
def test_share_of_the_time_is_within_the_budget(every: int, budget: float, probe_seconds: float) -> None:
    """Whatever the numbers, a calm run spends no more on the probe than the budget, or measures every 512 steps."""
    run = Run(every, budget, probe_seconds).take(2 * every + 2)
    chosen = run.schedule.every
    assert chosen >= min(every, LONGEST)
    assert probe_seconds <= budget * chosen * (1 + 1e-9) or chosen >= LONGEST


def test_whole_budget_is_no_limit() -> None:
    """With a budget of 1.0, as Algorithm 1 has, every step is measured, however long it takes."""
    assert Run(1, 1.0, probe_seconds=3.0).take(20).probed == [*range(1, 21)]
