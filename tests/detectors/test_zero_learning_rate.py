"""`zero-learning-rate`: the smallest histories it reports, and those on which it stays silent."""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, pi

import pytest
from torch.optim.lr_scheduler import LambdaLR

from tests.laws.training import Training, make_training
from trimtab.detectors import detect
from trimtab.history import History
from trimtab.types import Measurement


def watch(rates: Sequence[float | None], first: int = 1, **settings: int) -> list[int]:
    """The steps at which a finding is made; None where the rate was not measured."""
    history, steps = History(), []
    for step, rate in enumerate(rates, first):
        history.append(Measurement(step, {"loss": 1.0, **({} if rate is None else {"learning_rate": rate})}))
        steps += [finding.step for finding in detect(history, {"zero-learning-rate": settings})]
        history.close(accepted=True)
    return steps


@pytest.mark.parametrize(
    ("rates", "settings", "steps"),
    [
        pytest.param([0.0] * 3, {}, [3], id="from-the-first-step-on"),
        pytest.param([0.0] * 205, {}, [3, 103, 203], id="once-in-a-hundred-steps"),
        pytest.param([0.1] * 50 + [0.0] * 3, {}, [53], id="decayed-far-too-early"),
        pytest.param([0.0] * 5, {"steps": 5}, [5], id="five-steps-if-asked"),
    ],
)
def test_reports(rates: list[float | None], settings: dict[str, int], steps: list[int]) -> None:
    """A learning rate of exactly 0 for some steps of a young run is found."""
    assert watch(rates, **settings) == steps


@pytest.mark.parametrize(
    ("rates", "first"),
    [
        pytest.param([step / 100 for step in range(200)], 1, id="warm-up-from-0"),
        pytest.param([0.0, 0.0, 0.1, 0.1], 1, id="two-steps-are-not-enough"),
        pytest.param([0.1] * 200, 1, id="constant"),
        pytest.param([1e-30] * 200, 1, id="tiny-is-not-0"),
        pytest.param([(1 + cos(pi * step / 199)) / 2 for step in range(200)], 1, id="cosine-down-to-0"),
        pytest.param([0.1] * 9 + [0.0] * 99, 1000, id="a-schedule-that-has-ended"),
        pytest.param([0.0, None, 0.0, None, 0.0], 1, id="not-measured-in-between"),
        pytest.param([None] * 9, 1, id="never-measured"),
    ],
)
def test_stays_silent(rates: list[float | None], first: int) -> None:
    """Warm-ups, decays, and a schedule that has ended are no faults."""
    assert watch(rates, first) == []


def run(schedule: list[float], num_steps: int) -> Training:
    """A real run under a schedule of factors whose last one stays."""
    training = make_training("adamw")
    training.scheduler = LambdaLR(training.optimizer, lambda step: schedule[min(step, len(schedule) - 1)])
    return training.supervise().run(num_steps)


def test_real_scheduler_on_the_wrong_clock_is_found() -> None:
    """A decay meant for 20 epochs that is stepped at every step is found three steps after its end."""
    training = run([1 - step / 20 for step in range(21)], 24)
    found = [(finding.step, finding.detector) for each in training.decisions for finding in each.findings]
    assert found == [(23, "zero-learning-rate")]


def test_real_warm_up_from_zero_is_left_alone() -> None:
    """A run whose warm-up starts at a learning rate of 0 has no finding of any detector."""
    training = run([step / 20 for step in range(21)], 105)
    assert [finding for each in training.decisions for finding in each.findings] == []
