"""`schedule-pace`: the samples it reports, those on which it stays silent, and real schedules at the wrong clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    SequentialLR,
    StepLR,
)

from tests.laws.training import Training, make_training
from trimtab.detectors import detect
from trimtab.history import History
from trimtab.types import Finding, Measurement, Value


def watch(
    sampled: Mapping[int, tuple[float, float]],
    length: float | None = None,
    rejected: Sequence[int] = (),
    **settings: float,
) -> list[Finding]:
    """Judge every step of a run in which position and moves of the schedule were measured at some steps."""
    history = History()
    found: list[Finding] = []
    for step in range(1, 403):
        values: dict[str, Value] = {"loss": 1.0}
        if step in sampled:
            values["schedule_position"], values["schedule_moves"] = sampled[step]
            if length is not None:
                values["schedule_length"] = length
        history.append(Measurement(step, values))
        found += detect(history, {"schedule-pace": settings})
        history.close(accepted=step not in rejected)
    return found


EVERY_STEP = {step: (step - 1.0, 1.0) for step in (2, 102, 202, 302, 402)}
ONCE_IN_50 = {step: (step // 50, 0.0) for step in (2, 102, 202, 302, 402)}


@pytest.mark.parametrize(
    ("sampled", "length", "expected"),
    [
        pytest.param({step: (4 * step - 4.0, 4.0) for step in (2, 102, 202)}, None, {2: 4.0}, id="four-times-a-step"),
        pytest.param(EVERY_STEP | {302: (501.0, 4.0), 402: (901.0, 4.0)}, None, {302: 4.0}, id="faster-from-300-on"),
        pytest.param(EVERY_STEP | {302: (203.0, 0.0), 402: (205.0, 0.0)}, None, {302: 0.02}, id="slower-from-200-on"),
        pytest.param(EVERY_STEP | {302: (276.0, 0.0), 402: (278.0, 0.0)}, None, {402: 0.02}, id="slower-from-275-on"),
        pytest.param(ONCE_IN_50, 1000.0, {102: 0.02}, id="one-cycle-of-1000-epochs"),
        pytest.param(
            dict.fromkeys((2, 102, 202, 302, 402), (0.0, 0.0)), 1000.0, {102: 0.0}, id="one-cycle-never-moved"
        ),
    ],
)
def test_reports(
    sampled: Mapping[int, tuple[float, float]], length: float | None, expected: Mapping[int, float]
) -> None:
    """A schedule that moves several times a step, or no longer once a step, is found once."""
    assert {finding.step: finding.value for finding in watch(sampled, length)} == expected


@pytest.mark.parametrize(
    ("sampled", "length", "rejected"),
    [
        pytest.param({}, None, (), id="no-schedule"),
        pytest.param(EVERY_STEP, 402.0, (), id="once-a-step"),
        pytest.param(ONCE_IN_50, None, (), id="once-per-epoch-as-a-step-decay-is-meant"),
        pytest.param(ONCE_IN_50, 100.0, (), id="one-cycle-of-100-epochs"),
        pytest.param(dict.fromkeys((2, 102, 202), (0.0, 0.0)), None, (), id="never-moved-of-unknown-length"),
        pytest.param(dict.fromkeys((2, 102, 202), (0.0, 0.0)), 90.0, (), id="one-cycle-of-90-epochs-not-moved"),
        pytest.param(EVERY_STEP | {302: (201.0, 0.0), 402: (201.0, 0.0)}, None, (), id="over-after-200-steps"),
        pytest.param(EVERY_STEP | {302: (5000.0, 1.0), 402: (5100.0, 1.0)}, None, (), id="position-set-by-hand"),
        pytest.param(EVERY_STEP | {302: (217.0, 1.0)}, None, (250, 260), id="set-back-by-rollbacks"),
        pytest.param(
            EVERY_STEP | {302: (303.0, 2.0), 402: (403.0, 1.0)}, None, (), id="once-more-at-the-end-of-an-epoch"
        ),
        pytest.param(EVERY_STEP | {302: (281.0, 1.0)}, None, (), id="left-out-where-the-scaler-overflowed"),
    ],
)
def test_stays_silent(
    sampled: Mapping[int, tuple[float, float]], length: float | None, rejected: Sequence[int]
) -> None:
    """Schedules at their own clock, and what sets them back or forth once, are no faults."""
    assert watch(sampled, length, rejected) == []


MakeSchedule = Callable[[Optimizer], LRScheduler]


def make_chain(optimizer: Optimizer) -> LRScheduler:
    return ChainedScheduler([LinearLR(optimizer, total_iters=20), ExponentialLR(optimizer, 0.999)])


def make_sequence(optimizer: Optimizer) -> LRScheduler:
    parts = [LinearLR(optimizer, total_iters=20), CosineAnnealingLR(optimizer, 1000)]
    return SequentialLR(optimizer, parts, milestones=[20])


SCHEDULES: Mapping[str, MakeSchedule] = {
    "one-cycle": lambda optimizer: OneCycleLR(optimizer, 0.02, total_steps=2000),
    "cosine": lambda optimizer: CosineAnnealingLR(optimizer, 2000),
    "restarts": lambda optimizer: CosineAnnealingWarmRestarts(optimizer, 60),
    "step": lambda optimizer: StepLR(optimizer, 30),
    "milestones": lambda optimizer: MultiStepLR(optimizer, [30, 80]),
    "lambda": lambda optimizer: LambdaLR(optimizer, lambda step: 1 / (1 + step)),
    "chain": make_chain,
    "sequence": make_sequence,
}


def train(make: MakeSchedule, every: int, times: int = 1, num_steps: int = 205) -> list[tuple[int, str]]:
    """What is found in a real run whose loop moves its schedule so many times at every so manieth step."""
    torch.manual_seed(0)
    training = make_training("sgd")
    schedule = make(training.optimizer)

    def move(training: Training) -> None:
        if training.batches.position % every == 0:
            for _ in range(times):
                schedule.step()

    training.after_update = move
    training.supervise(schedule).run(num_steps)
    return [(each.step, each.detector) for decision in training.decisions for each in decision.findings]


@pytest.mark.parametrize("make", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_once_a_step_is_silent(make: MakeSchedule) -> None:
    """Every kind of schedule, a chain and a sequence among them, may move once a step."""
    assert train(make, every=1) == []


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "one-cycle"])
def test_once_per_epoch_is_silent(name: str) -> None:
    """Every kind of schedule but the one that is made for steps may move once per epoch."""
    assert train(SCHEDULES[name], every=24) == []


@pytest.mark.parametrize(
    ("every", "times", "expected"),
    [
        pytest.param(1, 4, [(2, "schedule-pace")], id="four-times-a-step"),
        pytest.param(24, 1, [(102, "schedule-pace")], id="once-per-epoch"),
    ],
)
def test_wrong_clock_is_found(every: int, times: int, expected: list[tuple[int, str]]) -> None:
    """A `OneCycleLR` that the loop moves at the wrong clock is found, and nothing else is."""
    assert train(SCHEDULES["one-cycle"], every, times) == expected


def test_plateau_is_no_clock() -> None:
    """A schedule that goes by a metric is not measured."""
    training = make_training("sgd")
    training.scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(training.optimizer)
    training.supervise().run(105)
    assert training.supervisor is not None
    assert not training.supervisor.history.has("schedule_position")
