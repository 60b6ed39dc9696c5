"""The probe: what it measures, in which mode, what it leaves as it was, and what becomes of one that fails."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.laws.models import Growing, Net, Recording
from tests.laws.spoils import spoil_targets
from tests.laws.training import Training, capture, capture_random, compute_loss, list_differences, make_training
from trimtab import InputError, Policy
from trimtab.probes.probe_loss import NUM_SAMPLES, make_evaluate
from trimtab.probes.rerun import keep_training

EVERY_STEP = Policy.from_dict({"probe_every": 1, "probe_budget": 1.0})

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(7))

Y = X.sum(1)


def get_probed(training: Training) -> Any:
    assert training.supervisor is not None
    return training.supervisor.history.column("probe_loss")


def run_probed(evaluate: Any, num_steps: int = 3, *parts: Any, **options: Any) -> Training:
    training = make_training("adamw", *parts).supervise(probe=evaluate, policy=EVERY_STEP, **options)
    for _ in range(num_steps):
        training.step()
    return training


# What is measured.


def test_batch_is_cut_to_its_first_samples() -> None:
    """Of a held-out batch the loss of the first 16 samples is measured, on a copy of them."""
    x, y = X.clone(), Y.clone()
    seen: list[tuple[int, ...]] = []

    def compute(model: nn.Module, batch: Any) -> Tensor:
        seen.append((*batch[0].shape, *batch[1].shape))
        return compute_loss(model, batch)

    evaluate = make_evaluate((x, y), compute)
    assert evaluate is not None
    model = nn.Sequential(nn.Linear(6, 1), nn.Flatten(0))
    expected = float(functional.mse_loss(model(X[:NUM_SAMPLES]), Y[:NUM_SAMPLES]).detach())
    x.zero_()
    assert evaluate(model) == pytest.approx(expected)
    assert seen == [(NUM_SAMPLES, 6, NUM_SAMPLES)]


@pytest.mark.parametrize(
    "batch",
    [
        pytest.param({"x": X, "y": Y, "weight": torch.tensor(2.0), "name": "held out"}, id="mapping"),
        pytest.param([X, [Y, None]], id="nested"),
    ],
)
def test_batches_of_any_form_are_cut(batch: Any) -> None:
    """What has as many rows as the first tensor is cut; other tensors and what is no tensor stay."""
    held: list[Any] = []

    def compute(_: nn.Module, cut: Any) -> Tensor:
        held.append(cut)
        return torch.tensor(1.0)

    evaluate = make_evaluate(batch, compute)
    assert evaluate is not None
    assert evaluate(nn.Linear(1, 1)) == 1.0
    if isinstance(batch, dict):
        assert held[0]["x"].shape == (NUM_SAMPLES, 6)
        assert (float(held[0]["weight"]), held[0]["name"]) == (2.0, "held out")
    else:
        assert held[0][1][0].shape == (NUM_SAMPLES,)
        assert held[0][1][1] is None


def test_losses_by_name_are_added() -> None:
    """A `compute_loss` that returns several losses by name measures their sum."""
    evaluate = make_evaluate((X, Y), lambda *_: {"a": torch.tensor(1.0), "b": torch.tensor(0.5)})
    assert evaluate is not None
    assert evaluate(nn.Linear(6, 1)) == 1.5


def test_batch_needs_compute_loss() -> None:
    """A batch alone is refused with what to do; None is no probe."""
    with pytest.raises(InputError, match="pass compute_loss= too"):
        make_evaluate((X, Y), None)
    assert make_evaluate(None, None) is None


@pytest.mark.parametrize("value", [2, 2.0, torch.tensor(2.0), torch.tensor([2.0])])
def test_any_one_number_will_do(value: Any) -> None:
    """A function may return a number or a tensor of one."""
    assert get_probed(run_probed(lambda _: value)).tolist() == [2.0] * 3


def test_without_a_probe_nothing_is_measured() -> None:
    """There is no such metric, and no cost."""
    training = make_training("adamw").supervise().run(3)
    assert training.supervisor is not None
    assert not training.supervisor.history.has("probe_loss")


# What it leaves as it was.


def test_mode_is_eval_without_gradients() -> None:
    """The model is evaluated in eval mode and without gradients; BatchNorm takes the statistics of what is measured."""
    modes: list[dict[str, bool]] = []

    def evaluate(model: nn.Module) -> float:
        modes.append({name: module.training for name, module in model.named_modules()})
        modes[-1]["gradients"] = torch.is_grad_enabled()
        return 1.0

    run_probed(evaluate, 1)
    assert modes == [{"": False, "inner": False, "norm": True, "outer": False, "gradients": False}]


def disturb(model: nn.Module) -> float:
    """A probe that changes all it should not: modes, buffers, gradients, random numbers, requires_grad."""
    model.train()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
        parameter.requires_grad_(False)
    for buffer in model.buffers():
        buffer.zero_()
    return random.random() * np.random.random() * float(torch.rand(()))  # noqa: NPY002


@pytest.mark.parametrize("make", [Net, Recording, Growing])
def test_everything_is_set_back(make: Callable[[], nn.Module]) -> None:
    """Flags, buffers, gradients and random numbers are as before, tensor for tensor."""
    training = make_training("adamw", model=make).run(3)
    training.model.norm.eval()  # type: ignore[union-attr]  # it has one
    before, flags = capture(training), [each.training for each in training.model.modules()]
    gradients = [each.grad for each in training.model.parameters()]
    buffers = [id(each) for each in training.model.buffers()]
    with torch.no_grad(), keep_training(training.model):
        disturb(training.model)
    assert list_differences(before, {**capture(training), **capture_random()}) == []
    assert [each.training for each in training.model.modules()] == flags
    assert all(each.grad is kept for each, kept in zip(training.model.parameters(), gradients, strict=True))
    assert [id(each) for each in training.model.buffers()] == buffers
    assert all(each.requires_grad for each in training.model.parameters())


def test_everything_is_set_back_after_a_failure() -> None:
    """The same where the probe fails half way."""
    training = make_training("adamw").run(3)
    before = capture(training)
    with pytest.raises(ZeroDivisionError), torch.no_grad(), keep_training(training.model):
        fail(training.model, disturb(training.model))
    assert list_differences(before, capture(training)) == []
    assert training.model.training


# What fails.


def fail(*_: object) -> float:
    raise ZeroDivisionError("a toy failure")


def run_failing(evaluate: Any, *parts: Any) -> Training:
    training = make_training("adamw", *parts).supervise(probe=evaluate, policy=EVERY_STEP, strict=False)
    return training.run(20)


def test_failing_probe_is_recorded_once(caplog: pytest.LogCaptureFixture) -> None:
    """A probe that raises is told of once, and the training goes on as without a supervisor."""
    with caplog.at_level(logging.WARNING, "trimtab"):
        training = run_failing(fail)
    assert caplog.text.count("the probe raised ZeroDivisionError") == 1
    assert "trimtab itself failed" not in caplog.text
    assert list_differences(capture(training), capture(make_training("adamw").run(20))) == []


def test_failing_probe_takes_nothing_else_away() -> None:
    """What else is supervised still is: a NaN is skipped."""
    training = run_failing(fail, spoil_targets(12))
    assert "skip" in training.verdicts
    assert all(bool(torch.isfinite(each).all()) for each in training.model.parameters())


def test_failing_probe_raises_in_strict_mode() -> None:
    """In strict mode it raises."""
    with pytest.raises(ZeroDivisionError):
        run_probed(fail, 1)


def test_one_sample_is_enough() -> None:
    """A probe may evaluate a network with BatchNorm on a single sample, as in eval mode."""

    def evaluate(model: nn.Module) -> float:
        return float(model(X[:1]).square())

    assert np.isfinite(get_probed(run_probed(evaluate))).all()


def test_measurement_that_is_not_finite_is_a_fault_of_the_state() -> None:
    """A NaN of the probe is found by innovation, and the state it was measured of is left."""
    values = iter([1.0, 1.0, 1.0, math.nan, 1.0, 1.0])
    training = run_probed(lambda _: next(values), 6)
    assert training.verdicts == ["proceed"] * 3 + ["rollback"] + ["proceed"] * 2
    assert "not finite" in training.decisions[3].reason
