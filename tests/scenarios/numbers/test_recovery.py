"""What is not finite, wherever it arises, leaves no trace, and is named."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.laws.spoils import spoil_batch, spoil_one_gradient
from tests.laws.training import (
    Training,
    add_scaler,
    capture,
    capture_buffers,
    capture_optimizer,
    capture_weights,
    list_differences,
    make_training,
)
from trimtab import Policy
from trimtab.actions import clamp, rescale
from trimtab.journal import read_run

BAD_STEP = 12


@pytest.mark.parametrize("micro_batch", [0, 1, 2])
def test_bad_micro_batch_leaves_no_trace(micro_batch: int) -> None:
    """One NaN micro-batch of three, through BatchNorm under float16 with a scaler, drops the whole step exactly."""
    parts = [add_scaler, spoil_batch(BAD_STEP, micro_batch)]
    training = make_training("adamw", *parts, num_micro_batches=3).supervise().run(BAD_STEP - 1)
    before = {**capture_weights(training), **capture_optimizer(training), **capture_buffers(training)}
    training.step()
    after = {**capture_weights(training), **capture_optimizer(training), **capture_buffers(training)}
    alone = make_training("adamw", *parts, num_micro_batches=3).run(BAD_STEP)
    assert training.scaler is not None
    assert alone.scaler is not None
    assert training.verdicts[-1] == "skip"
    assert list_differences(before, after) == []
    assert training.scaler.state_dict() == alone.scaler.state_dict()
    assert all(bool(torch.isfinite(each).all()) for each in training.run(BAD_STEP + 20).model.parameters())


def drive_infinite(training: Training) -> None:
    """Make every gradient of the first layer infinite, at every step."""
    for name, parameter in training.model.named_parameters():
        if name.startswith("inner.") and parameter.grad is not None:
            parameter.grad.fill_(math.inf)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "adamw-fused"])
def test_frozen_group_with_infinite_gradients_blocks_nobody(optimizer: str) -> None:
    """While a group is frozen, its infinite gradients neither cut the loss scale nor skip the others' updates."""

    def train(*, is_driven: bool) -> Training:
        training = make_training(optimizer, add_scaler).supervise(groups=["inner", "norm", "outer"]).run(6)
        assert training.supervisor is not None
        training.supervisor.freeze("inner")
        training.after_backward = drive_infinite if is_driven else None
        return training.run(30)

    driven, calm = train(is_driven=True), train(is_driven=False)
    assert set(driven.verdicts) == {"proceed"}
    assert list_differences(capture(driven), capture(calm)) == []


def test_parameters_with_bad_gradients_are_named(tmp_path: Path) -> None:
    """The record of a step whose gradients are not finite names the parameters, not the groups alone."""
    training = make_training("adamw", spoil_one_gradient(BAD_STEP)).supervise(run=tmp_path / "run").run(BAD_STEP)
    assert training.supervisor is not None
    training.supervisor.finish()
    decision, action = read_run(tmp_path / "run").records[BAD_STEP, "step"]
    assert action.note == "gradients not finite: inner.weight"
    assert decision.findings[0].groups == ("inner",)


def test_gradients_are_clipped_by_value() -> None:
    """The by-value mode of clip clamps every number, infinities too, and lets the update go ahead."""
    policy = Policy.from_dict({"clip_value": 0.5, "detectors": {"nonfinite": {"ladder": ["clip-by-value"]}}})
    training = make_training("sgd", spoil_one_gradient(BAD_STEP)).supervise(policy=policy)
    largest: list[float] = []

    def look(training: Training) -> None:
        gradients = [each.grad for each in training.model.parameters() if each.grad is not None]
        largest.append(max(float(each.abs().max()) for each in gradients))

    training.after_check = look
    training.run(BAD_STEP)
    assert training.verdicts[-1] == "clip"
    assert largest[-1] == 0.5


def test_scale_is_cut_by_the_policy() -> None:
    """The adjustment rescale cuts the loss scale to a share of it, on top of nothing the scaler does."""
    policy = Policy.from_dict({"detectors": {"nonfinite": {"ladder": ["skip+rescale"], "overflows": 0}}})
    training = make_training("adamw", add_scaler).supervise(policy=policy).run(BAD_STEP)
    assert training.scaler is not None
    before = training.scaler.get_scale()
    training.after_backward = drive_infinite
    training.step()
    assert training.verdicts[-1] == "skip"
    assert training.scaler.get_scale() == before / 8


def train_screened(bad_steps: dict[int, float], *, is_left_out: bool = False) -> tuple[Training, list[int]]:
    """A loop that screens every loss; some are spoiled, or their steps left out altogether."""
    training = make_training("adamw").supervise()
    assert training.supervisor is not None
    passed: list[int] = []
    while training.batches.position < 20:
        x, y = training.batches.draw()
        step = training.batches.position
        if is_left_out and step in bad_steps:
            continue
        loss: Tensor = functional.mse_loss(training.model(x * bad_steps.get(step, 1.0)), y)
        if not training.supervisor.screen(loss):
            continue
        training.optimizer.zero_grad()
        loss.backward()
        training.supervisor.check(loss)
        training.optimizer.step()
        passed.append(step)
    return training, passed


def test_screened_loss_spares_backward_and_leaves_no_trace() -> None:
    """A batch whose loss is not finite is screened out before backward, and the buffers are put back."""
    training, passed = train_screened({8: math.nan, 15: math.nan})
    assert passed == [step for step in range(1, 21) if step not in (8, 15)]
    assert training.supervisor is not None
    assert training.supervisor.step == 20
    assert [(each.step, each.verdict) for each in training.supervisor.ledger] == [(8, "skip"), (15, "skip")]
    assert all(bool(torch.isfinite(each).all()) for each in training.model.buffers())


def test_screening_a_healthy_run_changes_nothing() -> None:
    """`screen` lets every finite loss pass, and changes no bit."""
    training, passed = train_screened({})
    plain = make_training("adamw").supervise().run(20)
    assert passed == [*range(1, 21)]
    assert list_differences(capture(training), capture(plain)) == []


@pytest.mark.parametrize("num_steps", [5, None])
def test_every_group_may_be_frozen_under_a_scaler(num_steps: int | None) -> None:
    """With every group frozen a scaler steps as on a good step, and nothing moves."""
    training = make_training("adamw", add_scaler).supervise().run(BAD_STEP)
    assert training.supervisor is not None
    training.supervisor.freeze(*training.supervisor.history.groups, num_steps=num_steps)
    before = capture_weights(training)
    training.run(BAD_STEP + 5)
    assert list_differences(before, capture_weights(training)) == []
    training.supervisor.thaw(*training.supervisor.history.groups)
    assert list_differences(before, capture_weights(training.run(BAD_STEP + 8))) != []


@pytest.mark.parametrize(
    "policy", [pytest.param(Policy.observe(), id="observing"), pytest.param(Policy({}), id="without-detectors")]
)
def test_what_the_policy_lets_pass_is_left_to_the_check(policy: Policy) -> None:
    """A loss that is not finite but not to be skipped passes the screen, and is one step in the record."""
    training = make_training("adamw").supervise(policy=policy)
    assert training.supervisor is not None
    assert training.supervisor.screen(torch.tensor(math.nan))
    assert training.supervisor.step == 0
    assert len(training.supervisor.history) == 0


def test_screen_that_fails_inside_still_stops_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that has to be skipped is skipped, whatever fails in recording it."""
    training = make_training("adamw").supervise(strict=False).run(BAD_STEP)
    assert training.supervisor is not None

    def fail(*_: object) -> None:
        raise RuntimeError("a toy failure")

    monkeypatch.setattr(training.supervisor.history, "append", fail)
    assert not training.supervisor.screen(torch.tensor(math.nan))


@pytest.mark.parametrize(
    ("gradient", "norm"),
    [
        pytest.param(torch.tensor([3.0, math.inf]), math.hypot(3, 4), id="float32"),
        pytest.param(torch.tensor([3.0, -math.inf], dtype=torch.float64), math.hypot(3, 4), id="float64"),
        pytest.param(torch.tensor([3.0, 4e4], dtype=torch.float16), math.hypot(3, 4), id="float16"),
        pytest.param(torch.tensor([complex(3, 1e9)]), math.hypot(3, 4), id="complex"),
    ],
)
def test_clamp_takes_every_kind_of_gradient(gradient: Tensor, norm: float) -> None:
    """Clipping by value clamps whatever gradients there are, and knows their norm in enough precision."""
    parameter = torch.nn.Parameter(torch.zeros(gradient.shape, dtype=gradient.dtype))
    parameter.grad = gradient
    assert clamp([parameter], 4.0) == pytest.approx(norm)


def test_clamp_adds_duplicates_of_a_sparse_gradient_first() -> None:
    """Two entries for one number are one number, which is clamped after it is added up."""
    parameter = torch.nn.Parameter(torch.zeros(2))
    indices, values = torch.tensor([[0, 0]]), torch.tensor([3.0, 3.0])
    parameter.grad = torch.sparse_coo_tensor(indices, values, (2,), check_invariants=True)
    assert clamp([parameter], 4.0) == 4.0
    assert parameter.grad.to_dense().tolist() == [4.0, 0.0]


@pytest.mark.parametrize(
    ("scale", "expected"), [pytest.param(1024.0, 128.0, id="cut"), pytest.param(0.25, 0.25, id="already-below-1")]
)
def test_rescale_never_raises_a_scale(scale: float, expected: float) -> None:
    """A scale is cut, never below 1, and one that is below 1 already stays as it is."""
    training = make_training("adamw", add_scaler).supervise().run(3)
    assert training.supervisor is not None
    assert training.scaler is not None
    training.scaler.update(scale)
    rescale(training.supervisor._controls, 0.125)
    assert training.scaler.get_scale() == expected
