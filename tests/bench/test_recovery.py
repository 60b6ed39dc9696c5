"""The recovery benchmark: workloads, protocol and judgement; and Algorithm 1 against a second writing of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trimtab.bench.contestants.supervised import build_algorithm_1, supervise
from trimtab.bench.recovery import (
    CONTESTANTS,
    FIXED_STEP,
    RANDOM_STEPS,
    Case,
    Outcome,
    Trace,
    Tuning,
    judge_default,
    judge_run,
    list_cases,
    train,
)
from trimtab.bench.training import Guard, Judgement, Training
from trimtab.bench.workloads import Workload
from trimtab.faults import Injector, inject

CLEAN = Case("images", "none", None, None, seed=0)
EARLIEST = min(
    (Case("images", "none", "random", None, seed) for seed in range(20)), key=lambda case: case.fault_step or 0
)


def test_fault_scales_every_gradient_for_ten_steps() -> None:
    """At its steps every gradient is 300 times what it was, and at the others it is what it was."""
    model = nn.Linear(3, 2)
    injector = Injector([inject("scaled-gradient", 4)], model, torch.optim.SGD(model.parameters(), lr=0.1))
    scaled = []
    for step in range(1, 20):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 0.5)
        injector.gradients(step)
        gradients = [each.grad for each in model.parameters() if each.grad is not None]
        (factor,) = {float(value) / 0.5 for gradient in gradients for value in gradient.flatten()}
        scaled += [step] if factor == 300 else []
    assert scaled == list(range(4, 14))


def test_windows_are_the_seeds() -> None:
    """The fixed window is everybody's; the one at random is the seed's, whoever the contestant is."""
    first, last = RANDOM_STEPS
    for name in CONTESTANTS:
        steps = [Case("images", name, "random", None, seed).fault_step or 0 for seed in range(20)]
        assert steps == [Case("characters", "none", "random", 1.0, seed).fault_step for seed in range(20)]
        assert first <= min(steps) < max(steps) <= last
        assert Case("images", name, "fixed", None, 3).fault_step == FIXED_STEP
    assert CLEAN.fault_step is None


def test_run_is_its_twin_up_to_the_fault() -> None:
    """Bit by bit; and the first faulted update shows."""
    step = EARLIEST.fault_step
    assert step is not None
    faulted, clean = (train(case, num_steps=step - 1).final_loss for case in (EARLIEST, EARLIEST.twin))
    assert faulted == clean
    trace, twin = (train(case, num_steps=step) for case in (EARLIEST, EARLIEST.twin))
    assert trace.first_step == step
    assert trace.probe_losses[0] != twin.probe_losses[step - twin.first_step]


def test_cases_are_not_run_twice() -> None:
    """Every workload and seed has one clean twin; what knows no routine clipping is not run with it."""
    cases = list(list_cases(["images"], [*CONTESTANTS], range(2), [None, 1.0]))
    assert len(cases) == len(set(cases)) == 2 * (1 + 3 + 2 * (2 + 2 * 2))
    assert all(case.twin in cases for case in cases)


@pytest.mark.parametrize(
    ("losses", "steps"),
    [
        pytest.param([1.0] * 30, 0, id="never-left"),
        pytest.param([0.5] * 30, 0, id="better-than-clean"),
        pytest.param([2.0] * 5 + [1.04] * 25, 5, id="came-back"),
        pytest.param([1.0] * 15 + [2.0] * 5 + [1.0] * 10, 20, id="left-late"),
        pytest.param([1.0] * 15 + [2.0] * 15, math.inf, id="left-late-for-good"),
        pytest.param([2.0] * 5 + [1.0] * 3 + [2.0] * 4 + [1.0] * 18, 12, id="came-back-twice"),
        pytest.param([2.0] * 27 + [1.0] * 3, 27, id="came-back-at-the-end"),
        pytest.param([2.0] * 30, math.inf, id="never-came-back"),
        pytest.param([math.inf] * 30, math.inf, id="broken"),
    ],
)
def test_steps_to_return(losses: list[float], steps: float) -> None:
    """They are counted from the first step of the fault to where the loss comes near the clean run's and stays."""
    clean = Trace(40, (1.0,) * 110, (9.0,) * 80 + (1.0,) * 30, 2.0, 0, "")
    trace = Trace(120, (1.0, 7.0, *losses), tuple(losses), 2.1, 4, "")
    outcome = judge_run(trace, clean)
    assert outcome.steps_to_return == steps
    assert outcome.peak_loss == max(7.0, *losses)
    assert outcome.excess == pytest.approx(0.05)
    assert outcome.num_interventions == 4


def make_outcomes(peaks: Sequence[float], excess: float = 0.0, num_interventions: int = 0) -> list[Outcome]:
    """Outcomes that differ in their peaks."""
    return [Outcome(peak, 3.0, 1.0, excess, num_interventions) for peak in peaks]


@pytest.mark.parametrize(
    ("default", "missed"),
    [
        pytest.param(make_outcomes([2, 3, 4], 0.0, 2), [], id="as-good-as-the-best"),
        pytest.param(make_outcomes([1, 3, 9], 0.0, 2), [], id="worst-does-not-count"),
        pytest.param(make_outcomes([4, 4, 4], 0.0, 2), ["peak loss no worse than the best"], id="higher-peak"),
        pytest.param(make_outcomes([2, 3, 4], 0.0, 3), ["fewest interventions"], id="more-interventions"),
        pytest.param(
            make_outcomes([2, 3, 4], 0.02, 2),
            ["final no worse than the best", "final loss within 1 % of clean"],
            id="worse-in-the-end",
        ),
        pytest.param(make_outcomes([math.inf] * 3, 0.0, 2), ["peak loss no worse than the best"], id="broken"),
    ],
)
def test_default_is_held_against_the_best(default: list[Outcome], missed: list[str]) -> None:
    """Column by column, by medians; who never intervenes is no rival in interventions."""
    others = {"none": make_outcomes([5, 6, 7]), "clipping": make_outcomes([2, 3, 4], 0.0, 2)}
    verdicts = list(judge_default({**others, "default": default}, clips=True))
    assert [each.goal for each in verdicts if not each.is_met] == missed
    assert len(verdicts) == 5


def make_reference(training: Training, tuning: Tuning) -> Guard:
    """Algorithm 1 of arXiv 2601.17483, written from its description and from nothing of Trimtab's.

    Before each update the state is measured. If the innovation, measurement minus expectation, is at most epsilon, the
    state becomes the last accepted one and the expectation moves towards the measurement; otherwise weights and
    optimizer go back to the last accepted state and the gradient is dropped.
    """
    model, optimizer = training.model, training.optimizer
    expectation: float | None = None
    accepted: tuple[dict[str, Any], dict[str, Any]] | None = None

    def guard(_: Tensor) -> Judgement:
        nonlocal expectation, accepted
        measurement = training.measure_probe(model)
        innovation = 0.0 if expectation is None else measurement - expectation
        if innovation <= tuning.epsilon:
            expectation = measurement if expectation is None else expectation + tuning.alpha * innovation
            accepted = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
            if training.clip_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), training.clip_norm)
            return Judgement()
        assert accepted is not None
        weights, moments = copy.deepcopy(accepted)
        model.load_state_dict(weights)
        optimizer.load_state_dict(moments)
        optimizer.zero_grad()
        return Judgement(acts=True)

    return guard


def make_preset(training: Training, tuning: Tuning) -> Guard:
    """The preset with the same numbers."""
    policy = build_algorithm_1(epsilon=tuning.epsilon, alpha=tuning.alpha)
    return supervise(training, policy, has_probe=True)


def make_sgd(model: nn.Module) -> torch.optim.Optimizer:
    """A momentum that remembers a bad gradient."""
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def make_adamw(model: nn.Module) -> torch.optim.Optimizer:
    """The protocol's."""
    return torch.optim.AdamW(model.parameters(), lr=0.05)


@pytest.mark.parametrize("make_optimizer", [make_sgd, make_adamw])
@pytest.mark.parametrize("clip_norm", [None, 1.0])
@pytest.mark.parametrize("tuning", [Tuning(0.02, 0.1), Tuning(0.2, 0.3), Tuning(2.0, 0.05)], ids=str)
def test_preset_is_algorithm_1_step_for_step(
    make_optimizer: Callable[[nn.Module], torch.optim.Optimizer], clip_norm: float | None, tuning: Tuning
) -> None:
    """The preset and the reference reject the same updates and leave the same weights, bit by bit, at every step."""
    first, second = (record(guard, make_optimizer, clip_norm, tuning) for guard in (make_reference, make_preset))
    assert [rejected for rejected, _ in first] == [rejected for rejected, _ in second]
    for step, ((_, one), (_, other)) in enumerate(zip(first, second, strict=True), 1):
        assert torch.equal(one, other), f"step {step}"


def record(
    make_guard: Callable[[Training, Tuning], Guard],
    make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    clip_norm: float | None,
    tuning: Tuning,
) -> list[tuple[bool, Tensor]]:
    """Train a small model through the fault: at each step, whether the guard intervened, and the weights after it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = make_optimizer(model)
    inputs = torch.randn(16, 4)

    def measure(model: nn.Module) -> float:
        with torch.no_grad():
            return float((model(inputs) - inputs.prod(1, keepdim=True)).square().mean())

    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0, 1)
    toy = Workload(lambda _: model, lambda *_: inputs, lambda *_: inputs.mean(), lambda *_: inputs, {})
    training = Training("toy", toy, model, optimizer, scheduler, None, 40, clip_norm, measure, nullcontext)
    guard = make_guard(training, tuning)
    injector = Injector([inject("scaled-gradient", 15)], model, optimizer)
    seen = []
    for step in range(1, 41):
        batch = torch.randn(8, 4)
        loss = (model(batch) - batch.prod(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        injector.gradients(step)
        rejected = guard(loss).acts
        optimizer.step()
        seen.append((rejected, nn.utils.parameters_to_vector(model.parameters()).detach()))
    return seen


def test_reference_is_put_to_the_test() -> None:
    """In the comparison above updates are rejected and accepted again."""
    rejected = [each for each, _ in record(make_reference, make_sgd, None, Tuning(0.2, 0.3))]
    assert any(rejected[15:25])
    assert not all(rejected[15:])
