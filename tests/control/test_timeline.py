"""What was planned against what happened."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CyclicLR,
    LambdaLR,
    LinearLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from tests.laws.training import flatten, list_differences
from trimtab.control.course import Adaptation
from trimtab.control.rate import ramp_down, scale_rate
from trimtab.control.timeline import MOST_STEPS, Stage, Timeline, plan_rates, plan_stages, read_settings

NUM_STEPS, NUM_EPOCHS = 4, 6


def make_optimizer(rate: Any = 0.1) -> torch.optim.Optimizer:
    """Momentum, two groups."""
    return torch.optim.SGD(
        [{"params": [nn.Parameter(torch.ones(2))]}, {"params": [nn.Parameter(torch.ones(1))]}], rate, 0.9
    )


SCHEDULES: dict[str, Any] = {
    "none": lambda _: None,
    "steps": lambda optimizer: StepLR(optimizer, 5),
    "cosine": lambda optimizer: CosineAnnealingLR(optimizer, 24),
    "lambda": lambda optimizer: LambdaLR(optimizer, lambda step: 1 / (1 + step)),
    "one-cycle": lambda optimizer: OneCycleLR(optimizer, 0.2, total_steps=30),
    "cyclic": lambda optimizer: CyclicLR(optimizer, 0.01, 0.1, 3),
    "sequential": lambda optimizer: SequentialLR(
        optimizer, [LinearLR(optimizer, 0.1, total_iters=8), CosineAnnealingLR(optimizer, 16)], [8]
    ),
}


@pytest.mark.parametrize("make", SCHEDULES.values(), ids=SCHEDULES.keys())
@pytest.mark.filterwarnings("ignore:The epoch parameter")
def test_a_schedule_is_known_in_advance(make: Any) -> None:
    """What is planned is what the schedule then does, and planning changes nothing."""
    optimizer = make_optimizer()
    scheduler = make(optimizer)
    parts = {"optimizer": optimizer.state_dict(), "random": torch.get_rng_state()}
    before = dict(flatten(parts | ({} if scheduler is None else {"scheduler": scheduler.state_dict()})))
    planned = plan_rates(optimizer, scheduler, NUM_STEPS, NUM_EPOCHS)
    parts = {"optimizer": optimizer.state_dict(), "random": torch.get_rng_state()}
    after = dict(flatten(parts | ({} if scheduler is None else {"scheduler": scheduler.state_dict()})))
    assert list_differences(before, after) == []
    rates = [optimizer.param_groups[0]["lr"]]
    for _ in range(NUM_EPOCHS):
        for _ in range(NUM_STEPS):
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert planned == rates


class Own(StepLR):
    """A schedule of the user's own, whose copy may be of anything."""


def fail(step: int) -> float:
    """A schedule with a mistake that shows late."""
    return 1.0 if step < 3 else 1 / 0


@pytest.mark.parametrize(
    ("make", "num_steps"),
    [
        pytest.param(lambda optimizer: StepLR(optimizer, 5), None, id="no-length"),
        pytest.param(lambda optimizer: StepLR(optimizer, 5), MOST_STEPS, id="too-long"),
        pytest.param(lambda optimizer: Own(optimizer, 5), 4, id="a-schedule-of-ones-own"),
        pytest.param(lambda optimizer: LambdaLR(optimizer, fail), 4, id="a-schedule-that-fails"),
    ],
)
def test_what_cannot_be_known_is_not_planned(make: Any, num_steps: int | None) -> None:
    """Only the learning rate at hand is known."""
    optimizer = make_optimizer()
    assert plan_rates(optimizer, make(optimizer), num_steps, 2) == [0.1, None, None]


def test_a_schedule_by_validation_is_planned_flat() -> None:
    """Nobody knows the validations to come."""
    optimizer = make_optimizer()
    assert plan_rates(optimizer, ReduceLROnPlateau(optimizer), 4, 2) == [0.1] * 3


def test_phases_are_told_from_the_plan() -> None:
    """A rate that rises from the start is a warm-up; one that rises later is not."""
    stages = plan_stages(nn.Linear(1, 1), None, [0.1, 0.2, 0.3, 0.2, 0.3])
    assert [each.phase for each in stages] == ["warm-up", "warm-up", "training", "training"]
    assert [each.epoch for each in plan_stages(nn.Linear(1, 1), None, [0.1, 0.2], 5)] == [5]
    assert plan_stages(nn.Linear(1, 1), None, [0.1, 0.2], 5)[0].phase == "training"


class Weighted:
    """A loss with weights."""

    weights = {"square": 1.0, "size": 0.5}  # noqa: RUF012


@pytest.mark.parametrize(
    ("model", "loss", "expected"),
    [
        pytest.param(nn.Linear(1, 1), None, {}, id="none"),
        pytest.param(nn.Sequential(nn.Dropout(0.3), nn.Dropout(0.3)), None, {"dropout": 0.3}, id="one-dropout"),
        pytest.param(
            nn.Sequential(nn.Dropout(0.3), nn.Dropout(0.1)), None, {"dropout_0": 0.3, "dropout_1": 0.1}, id="two"
        ),
        pytest.param(
            nn.Linear(1, 1), Weighted(), {"loss_weight_square": 1.0, "loss_weight_size": 0.5}, id="loss-weights"
        ),
    ],
)
def test_settings(model: nn.Module, loss: Any, expected: dict[str, float]) -> None:
    """Dropout and the weights of a loss are read where they are."""
    assert read_settings(model, loss) == expected


def test_a_timeline_shows_where_plan_and_run_part() -> None:
    """Another learning rate, other data, another dropout, another phase, and epochs that were not made."""
    planned = tuple(Stage(epoch, learning_rate=0.1, settings={"dropout": 0.3}) for epoch in range(1, 7))
    happened = (
        Stage(1, learning_rate=0.1, settings={"dropout": 0.3}),
        Stage(2, learning_rate=0.05, settings={"dropout": 0.3}),
        Stage(3, learning_rate=0.1, partition=1, settings={"dropout": 0.3}),
        Stage(4, learning_rate=0.1, settings={"dropout": 0.1}),
        Stage(5, "finalization", 0.1, settings={"dropout": 0.3}),
    )
    rotation = Adaptation("rotation-1", "rotation", 2, 2, 20, "partition", 0, 1, "plateau", "why", "more", 5)
    timeline = Timeline(planned, happened, (rotation,))
    assert timeline.departures == (2, 3, 4, 5, 6)
    lines = str(timeline).splitlines()
    assert lines[3].split() == ["3", "training", "0.1", "training", "0.1", "1", "rotation-1"]
    assert lines[4].endswith("dropout 0.1")
    assert lines[6].split() == ["6", "training", "0.1", "not", "made"]


@pytest.mark.parametrize("is_tensor", [False, True], ids=["number", "tensor"])
def test_the_learning_rate_is_scaled_for_the_step_alone(is_tensor: bool) -> None:
    """Also where the step raises, and where groups share one tensor; afterwards it is the same bit for bit."""
    rate = torch.tensor(0.1) if is_tensor else 0.1
    optimizer = make_optimizer(rate)
    with scale_rate(optimizer, 0.3):
        assert [float(group["lr"]) for group in optimizer.param_groups] == pytest.approx([0.03, 0.03])
    assert all(float(group["lr"]) == float(rate) for group in optimizer.param_groups)
    with pytest.raises(ZeroDivisionError), scale_rate(optimizer, 0.3):
        raise ZeroDivisionError
    assert all(float(group["lr"]) == float(rate) for group in optimizer.param_groups)
    with scale_rate(optimizer, 1.0):
        assert all(float(group["lr"]) == float(rate) for group in optimizer.param_groups)


def test_the_ramp_ends_one_step_before_nothing() -> None:
    """And stays there, however many steps there are."""
    assert [ramp_down(num, 4) for num in range(6)] == [1.0, 0.75, 0.5, 0.25, 0.25, 0.25]
