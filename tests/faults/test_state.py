"""Faults of weights, optimizer, schedule and loss scale: exact numbers, all dtypes, and rollbacks in between."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

from tests.faults.runs import RATE, STEP, make_parts
from trimtab.errors import InputError
from trimtab.faults import Injector, faults, inject


def make_training() -> tuple[nn.Module, torch.optim.Optimizer]:
    """A small model of bytes and its optimizer, the same each time."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(256, 4), nn.Linear(4, 256))
    return model, torch.optim.SGD(model.parameters(), lr=RATE)


@pytest.mark.parametrize(
    "rate",
    [pytest.param(0.1, id="number"), pytest.param(torch.tensor(0.1), id="tensor")],
)
def test_spiked_rate_is_restored_exactly(rate: float | Tensor) -> None:
    """After the step every group has the very learning rate it had: 0.1 × 1000 / 1000 would not do for all."""
    model, _ = make_training()
    groups = [{"params": [parameter], "lr": rate * (1 + index)} for index, parameter in enumerate(model.parameters())]
    optimizer = torch.optim.SGD(groups)
    before = [group["lr"] for group in optimizer.param_groups]
    injector = Injector([inject("learning-rate-spike", STEP)], model, optimizer)
    injector.start(STEP)
    assert [float(group["lr"]) for group in optimizer.param_groups] == [float(each * 1000) for each in before]
    injector.end(STEP)
    assert all(group["lr"] is each for group, each in zip(optimizer.param_groups, before, strict=True))


def test_rate_set_by_someone_else_stays() -> None:
    """A learning rate that a rollback put back during the spike is not touched when the spike ends."""
    model, optimizer = make_training()
    injector = Injector([inject("learning-rate-spike", STEP)], model, optimizer)
    injector.start(STEP)
    optimizer.param_groups[0]["lr"] = 0.07
    injector.end(STEP)
    assert optimizer.param_groups[0]["lr"] == 0.07


@pytest.mark.parametrize("name", ["learning-rate-spike", "learning-rate-jump", "learning-rate-ramp"])
@pytest.mark.parametrize("rate", [pytest.param(0.1, id="number"), pytest.param(torch.tensor(0.1), id="tensor")])
def test_rate_of_an_earlier_step_is_known(name: str, rate: float | Tensor) -> None:
    """A rollback that puts back the multiplied rate of an earlier step does not make it last, or add up."""
    model, _ = make_training()
    optimizer = torch.optim.SGD(model.parameters(), lr=copy(rate))
    scheduler = lr_scheduler.ExponentialLR(optimizer, 0.5)
    injector = Injector([inject(name, STEP, duration=4, strength=2.0)], model, optimizer)
    (group,) = optimizer.param_groups
    injector.start(STEP)
    first = float(group["lr"])
    assert first > 0.1
    optimizer.step()
    injector.end(STEP)
    scheduler.step()
    injector.start(STEP + 1)
    group["lr"] = torch.tensor(first) if isinstance(rate, Tensor) else first
    injector.end(STEP + 1)
    assert float(group["lr"]) == float(rate if isinstance(rate, Tensor) else 0.1) == pytest.approx(0.1)


SCHEDULES: dict[str, Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]] = {
    "one-cycle": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 1.0, 40),
    "cosine": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 40),
    "exponential": lambda optimizer: lr_scheduler.ExponentialLR(optimizer, 0.9),
    "sequence": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer, [lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 8), lr_scheduler.StepLR(optimizer, 5)], [8]
    ),
    "function": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step)),
}


def list_rates(name: str, fault: str, strength: float, duration: int, num_steps: int) -> list[float]:
    """The learning rate of each step, from 1 on, with a fault from step 1 on; empty for none."""
    model, _ = make_training()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
    scheduler = SCHEDULES[name](optimizer)
    injections = [inject(fault, 1, strength=strength, duration=duration)] if fault else []
    injector = Injector(injections, model, optimizer, scheduler=scheduler)
    rates = []
    for step in range(1, num_steps + 1):
        injector.start(step)
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        injector.end(step)
        scheduler.step()
    return rates


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_per_epoch_moves_every_so_often(name: str) -> None:
    """The rate stays what it is for N steps and is then the next of the schedule; afterwards it goes on from there."""
    own = list_rates(name, "", 0, 1, 40)
    slow = list_rates(name, "schedule-per-epoch", 5, 20, 30)
    assert slow == pytest.approx([own[step // 5] for step in range(20)] + own[4:14])


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_too_often_hurries(name: str) -> None:
    """The rate is that of a step several times as far on; afterwards the schedule goes on at its own pace."""
    own = list_rates(name, "", 0, 1, 40)
    fast = list_rates(name, "schedule-too-often", 3, 10, 15)
    assert fast == pytest.approx([own[3 * step] for step in range(10)] + own[30:35])


def test_hurried_schedule_stays_at_its_end() -> None:
    """A schedule that refuses to go beyond its end is at its end from there on, and the loop does not fail."""
    own = list_rates("one-cycle", "", 0, 1, 40)
    fast = list_rates("one-cycle", "schedule-too-often", 3, 100, 60)
    assert fast[:14] == pytest.approx(own[:40:3])
    assert len(set(fast[14:])) == 1
    assert fast[14] < min(own[:-1]) + 1e-6  # the last call that OneCycleLR allows leads a little beyond its minimum


def test_any_weight_may_be_hit() -> None:
    """The overwritten weight is drawn from all weights alike: each tensor is hit as often as it has weights."""
    model = nn.ParameterDict({"large": torch.zeros(30, 20), "small": torch.zeros(20, 10).T, "single": torch.zeros(())})
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    injector = Injector([inject("huge-weight", 0, duration=800)], model, optimizer)
    for step in range(800):
        injector.end(step)
    hits = [sum(hit.target == name for hit in injector.hits) for name in ("large", "small", "single")]
    assert hits == pytest.approx([600, 200, 1], abs=60)
    for parameter in model.parameters():
        assert set(parameter.detach().unique().tolist()) <= {0.0, float(np.float32(1e30))}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_huge_weight_fits_the_dtype(dtype: torch.dtype) -> None:
    """In a dtype that cannot hold 1e30 the weight becomes the largest number that it can."""
    model = nn.Linear(1, 1, bias=False, dtype=dtype)
    Injector([inject("huge-weight", 0)], model, torch.optim.SGD(model.parameters())).end(0)
    assert float(model.weight.detach()) == pytest.approx(min(1e30, torch.finfo(dtype).max), rel=0.01)


@pytest.mark.parametrize(
    ("dtype", "before", "strength", "after"),
    [
        pytest.param(torch.float32, 0.75, 1, 0.75 * 2.0**127 * 2, id="float32"),
        pytest.param(torch.float64, 0.75, 1, 0.75 * 2.0**1023 * 2, id="float64"),
        pytest.param(torch.bfloat16, 0.75, 1, 0.75 * 2.0**127 * 2, id="bfloat16"),
        pytest.param(torch.float16, 0.75, 1, 0.75 * 2.0**16, id="float16"),
        pytest.param(torch.float32, 0.75, 2, 0.75 * 2.0**-64, id="second-bit"),
        pytest.param(torch.float32, 0.75, 8, 0.75 * 2, id="last-bit"),
        pytest.param(torch.float32, -4.0, 1, -4.0 * 2.0**-128, id="large-weight"),
    ],
)
def test_flipped_bit(dtype: torch.dtype, before: float, strength: float, after: float) -> None:
    """One bit of the exponent is flipped: the weight is another power of two times itself."""
    model = nn.Linear(1, 1, bias=False, dtype=dtype)
    nn.init.constant_(model.weight, before)
    Injector([inject("flipped-bit", 0, strength=strength)], model, torch.optim.SGD(model.parameters())).end(0)
    assert float(model.weight.detach()) == after


@pytest.mark.parametrize("strength", [0, 6, math.nan])
def test_bit_beyond_the_exponent_is_refused(strength: float) -> None:
    """A bit that the exponent does not have is an error that says which there are."""
    model = nn.Linear(1, 1, dtype=torch.float16)
    injector = Injector([inject("flipped-bit", 0, strength=strength)], model, torch.optim.SGD(model.parameters()))
    with pytest.raises(InputError, match=r"exponent of torch.float16 weights at step 0; .* has to be from 1 to 5$"):
        injector.end(0)


IN_HALF = sorted(each.name for each in faults.values() if each.place in ("gradients", "end") and not each.needs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", IN_HALF)
def test_faults_of_numbers_work_in_half_precision(name: str, dtype: torch.dtype) -> None:
    """Faults of gradients, weights and moments act on a model whose weights are in half precision."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).to(dtype)
    optimizer = torch.optim.AdamW(model.parameters(), RATE)
    scheduler = lr_scheduler.ExponentialLR(optimizer, 0.9)
    model(torch.ones(3, 4, dtype=dtype)).sum().backward()
    optimizer.step()

    def look() -> str:
        tensors = [*model.parameters(), *(each.grad for each in model.parameters())]
        moments = [state["exp_avg"] for state in optimizer.state.values()]
        return str([each.tolist() for each in (*tensors, *moments) if each is not None] + [scheduler.last_epoch])

    injector = Injector([inject(name, STEP)], model, optimizer, scheduler=scheduler)
    before = look()
    injector.gradients(STEP)
    injector.end(STEP)
    assert look() != before or name == "schedule-too-often"
    assert all(each.dtype == dtype for each in model.parameters())


@pytest.mark.parametrize(
    ("build", "name"),
    [
        pytest.param(lambda parameters: torch.optim.SGD(parameters, RATE, momentum=0.9), "momentum_buffer", id="sgd"),
        pytest.param(lambda parameters: torch.optim.AdamW(parameters, RATE), "exp_avg", id="adamw"),
        pytest.param(lambda parameters: torch.optim.NAdam(parameters, RATE), "exp_avg", id="nadam"),
    ],
)
def test_huge_moments_make_the_next_update_huge(build: Callable[[Any], torch.optim.Optimizer], name: str) -> None:
    """Whatever an optimizer calls its average of gradients, its next update is hundreds of times as large."""
    norms = []
    for injections in ([], [inject("huge-moments", STEP)]):
        parameter = nn.Parameter(torch.linspace(1, 2, 6))
        model = nn.ParameterDict({"w": parameter})
        optimizer = build([parameter])
        for step in range(STEP + 2):
            parameter.grad = torch.cos(parameter.detach() * (step + 1))
            before = parameter.detach().clone()
            optimizer.step()
            if step <= STEP:
                Injector(injections, model, optimizer).end(step)
        norms.append(float((parameter.detach() - before).norm()))
        assert name in optimizer.state[parameter]
    assert norms[1] > 300 * norms[0]


def test_embeddings_are_drawn_together() -> None:
    """Steps against the added gradient alone bring all rows of the embeddings to their mean."""
    parts = make_parts()
    table = parts.model.bytes.weight
    injector = parts.make_injector([inject("embedding-collapse", STEP, strength=10.0)])
    before = table.detach().clone()
    for step in range(STEP, STEP + 50):
        table.grad = torch.full_like(table, 1e-3)
        injector.gradients(step)
        table.detach().sub_(10 * table.grad)
    assert {hit.target for hit in injector.hits} == {"bytes.weight"}
    assert float(table.detach().std(0).mean()) < 0.02 * float(before.std(0).mean())
    assert torch.allclose(table.detach().mean(0), before.mean(0) - 0.5, atol=1e-4)


def test_overflow_leaves_the_loss_alone() -> None:
    """The loss keeps every bit, and so does the loop's own tensor: only what backward makes of it is multiplied."""
    parts = make_parts()
    injector = parts.make_injector([inject("float16-overflow", STEP)])
    weight = torch.tensor(3.0, requires_grad=True)
    loss = weight**2
    passed = injector.loss(STEP, loss)
    assert float(passed.detach()) == 9.0
    passed.backward(retain_graph=True)
    assert float(weight.grad if weight.grad is not None else 0) == 6e6
    weight.grad = None
    loss.backward()
    assert float(weight.grad if weight.grad is not None else 0) == 6.0


@pytest.mark.parametrize(
    ("name", "scales"),
    [
        pytest.param("stuck-loss-scale", [0.5, 0.5, 0.5, 1.0], id="stuck-for-three-steps"),
        pytest.param("collapsed-loss-scale", [0.5, 1.0, 2.0, 4.0], id="collapsed-once"),
    ],
)
@pytest.mark.parametrize("is_used", [True, False])
def test_loss_scale(name: str, scales: list[float], is_used: bool) -> None:
    """A stuck scale cannot grow, a collapsed one can; also if the scaler has scaled nothing yet."""
    parts = make_parts()
    scaler = torch.amp.GradScaler("cpu", 1024.0, growth_interval=1)
    if is_used:
        scaler.scale(torch.tensor(1.0))
    duration = 3 if name == "stuck-loss-scale" else 1
    injections = [inject(name, STEP, strength=0.5, duration=duration)]
    injector = Injector(injections, parts.model, parts.optimizer, scaler=scaler)
    seen = []
    for step in range(STEP, STEP + 4):
        injector.start(step)
        parts.optimizer.zero_grad()
        loss = parts.model(torch.arange(8)).sum()
        scaler.scale(loss).backward()
        seen.append(scaler.get_scale())
        scaler.step(parts.optimizer)
        scaler.update()
        injector.end(step)
    assert seen == scales
