"""Schedules: where they rise, hold and fall, and that they are resumed as any of PyTorch's."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from trimtab import InputError
from trimtab.recipes import four_phase, one_cycle, plot_schedules, step_decay, warm_restarts, warmup_cosine
from trimtab.recipes.schedules import make_all, trace_schedule

NUM_STEPS = 1000


def trace(make: Any, num_steps: int = NUM_STEPS) -> list[float]:
    """The factors of a schedule: rates by the highest."""
    return list(trace_schedule(make, num_steps, 1.0).rates)


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        pytest.param(0, (1 / 150) ** 3, id="begins-near-0"),
        pytest.param(74, 0.125, id="half-of-a-cubic-is-an-eighth"),
        pytest.param(149, 1.0, id="warm-at-15-percent"),
        pytest.param(198, 1.0, id="held-to-20-percent"),
        pytest.param(449, 0.55, id="half-of-the-cosine"),
        pytest.param(699, 0.1, id="annealed-at-70-percent"),
        pytest.param(849, 0.055, id="half-of-the-cooldown"),
        pytest.param(999, 0.01, id="last-step"),
    ],
)
def test_four_phases_are_where_they_are_said_to_be(step: int, factor: float) -> None:
    """The factor of the four-phase schedule at the corners and in the middle of each phase."""
    assert trace(lambda optimizer: four_phase(optimizer, NUM_STEPS))[step] == pytest.approx(factor, rel=1e-3)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 10, 997])
@pytest.mark.parametrize("name", ["four_phase", "warmup_cosine", "one_cycle"])
def test_schedules_of_any_length_rise_once_and_fall_once(name: str, num_steps: int) -> None:
    """However few the steps, rates are above 0, rise to the highest at most once, and then fall."""
    rates = trace(make_all(num_steps)[name], num_steps)
    falls = [after < before for before, after in pairwise(rates)]
    assert all(0 < each <= 1 + 1e-9 for each in rates)
    assert falls == sorted(falls)


def test_warm_up_is_a_line_and_the_rest_half_a_cosine() -> None:
    """The rate rises by equal steps to the highest, and is half of it half the way down."""
    rates = trace(lambda optimizer: warmup_cosine(optimizer, NUM_STEPS, 100))
    assert rates[:100] == pytest.approx([(step + 1) / 100 for step in range(100)])
    assert rates[550] == pytest.approx(0.5)
    assert rates[-1] < 1e-5
    assert trace(lambda optimizer: warmup_cosine(optimizer, NUM_STEPS))[29] == pytest.approx(1.0)


def test_momentum_moves_against_the_rate() -> None:
    """One cycle: 30 % up, from a 25th, to a ten-thousandth of that; momentum from 0.95 to 0.85 and back."""
    course = trace_schedule(lambda optimizer: one_cycle(optimizer, NUM_STEPS), NUM_STEPS, 1.0)
    assert course.rates.index(max(course.rates)) == 299
    assert course.rates[0] == pytest.approx(1 / 25)
    assert course.rates[-1] == pytest.approx(1 / 25 / 1e4, rel=1e-3)
    assert (course.momenta[0], min(course.momenta)) == pytest.approx((0.95, 0.85))


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(torch.optim.SGD, id="sgd-without-momentum"),
        pytest.param(torch.optim.AdamW, id="adamw"),
        pytest.param(torch.optim.Adagrad, id="adagrad"),
    ],
)
def test_one_cycle_takes_any_optimizer(make: Any) -> None:
    """Where there is no momentum, none is moved; groups keep their own highest rates."""
    weight, bias = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
    optimizer = make([{"params": [weight], "lr": 0.1}, {"params": [bias], "lr": 0.2}])
    schedule = one_cycle(optimizer, 10)
    tops = [0.0, 0.0]
    for _ in range(10):
        optimizer.step()
        tops = [max(top, group["lr"]) for top, group in zip(tops, optimizer.param_groups, strict=True)]
        schedule.step()
    assert tops == pytest.approx([0.1, 0.2])


def test_steps_and_restarts() -> None:
    """A tenth every 30 epochs, half every 10; cosines of 10, 20 and 40 epochs that end at 1e-6."""
    assert trace(step_decay, 70)[29:31] == pytest.approx([1.0, 0.1])
    assert trace(lambda optimizer: step_decay(optimizer, 0.5, 10), 30)[9:11] == pytest.approx([1.0, 0.5])
    rates = trace(warm_restarts, 70)
    assert [index for index, each in enumerate(rates) if each == 1.0] == [0, 10, 30]
    assert min(trace_schedule(lambda optimizer: warm_restarts(optimizer, 1000), 1000, 1.0).rates) >= 1e-6


@pytest.mark.parametrize("name", list(make_all(40)))
def test_schedule_resumes_where_it_was(name: str) -> None:
    """State saved after 15 steps and loaded into a new schedule gives the same rates from there on."""

    def make() -> tuple[Optimizer, LRScheduler]:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3, momentum=0.9)
        return optimizer, make_all(40)[name](optimizer)

    def run(optimizer: Optimizer, schedule: LRScheduler, num_steps: int) -> list[float]:
        rates = []
        for _ in range(num_steps):
            optimizer.step()
            schedule.step()
            rates.append(float(optimizer.param_groups[0]["lr"]))
        return rates

    optimizer, schedule = make()
    run(optimizer, schedule, 15)
    saved = optimizer.state_dict(), schedule.state_dict()
    other, resumed = make()
    other.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    assert run(other, resumed, 20) == run(optimizer, schedule, 20)


def test_plot_has_a_curve_for_each_schedule() -> None:
    """All schedules are drawn, and the momentum of the one that moves it; or those that are given."""
    figure = plot_schedules(50)
    assert [each.name for each in figure.data].count("one_cycle") == 2
    assert {each.name for each in figure.data} == set(make_all(50))
    assert len(plot_schedules(50, {"mine": lambda optimizer: four_phase(optimizer, 50)}).data) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        pytest.param(lambda o: four_phase(o, 0), "num_steps is 0", id="no-steps"),
        pytest.param(lambda o: one_cycle(o, True), "num_steps is True", id="no-number"),
        pytest.param(lambda o: warmup_cosine(o, 10, 10), "num_warmup is 10", id="warm-up-of-all"),
        pytest.param(lambda o: step_decay(o, 1.5), "factor is 1.5", id="rising-steps"),
        pytest.param(lambda o: warm_restarts(o, 0), "num_first is 0", id="no-epochs"),
        pytest.param(lambda _: plot_schedules(5, {}), "schedules is empty", id="nothing-to-plot"),
    ],
)
def test_what_cannot_be_is_a_sentence(call: Callable[[Any], Any], message: str) -> None:
    """Numbers that make no schedule are refused in one sentence."""
    with pytest.raises(InputError, match=message):
        call(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1))
