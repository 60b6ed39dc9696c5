"""Law 1: a supervisor that finds nothing changes not one bit of a training."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.laws.models import Brain, Double, Frozen, Net, Unused, Words
from tests.laws.training import (
    OPTIMIZERS,
    Event,
    Training,
    add_average,
    add_scaler,
    capture,
    list_differences,
    make_training,
)
from trimtab import Supervisor
from trimtab.journal import read_run

NUM_STEPS = 36


def list_dense_optimizers() -> set[type]:
    classes = {each for each in vars(torch.optim).values() if isinstance(each, type)}
    return {each for each in classes if issubclass(each, torch.optim.Optimizer)} - {
        torch.optim.Optimizer,
        torch.optim.SparseAdam,
        torch.optim.LBFGS,
    }


def assert_same_run(make: Callable[[], Training], run: Path | None = None) -> None:
    """A supervised and an unsupervised run end bit for bit the same, and the supervisor was at work all the while."""
    supervised = make().supervise(run=run).run(NUM_STEPS)
    state = capture(supervised)
    assert list_differences(state, capture(make().run(NUM_STEPS))) == []
    supervisor = supervised.supervisor
    assert supervisor is not None
    supervisor.finish()
    assert not supervisor.ledger, [decision.reason for decision in supervisor.ledger]
    assert np.isfinite(supervisor.history.column("update_ratio")).any(), "no snapshot was there to compare with"


def test_table_holds_every_dense_optimizer() -> None:
    """The laws are shown for every dense optimizer that torch has."""
    named = {type(make_training(name).optimizer) for name in OPTIMIZERS}
    assert named == list_dense_optimizers()


@pytest.mark.parametrize("clip_norm", [pytest.param(None, id="unclipped"), pytest.param(1.0, id="clipped")])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_supervised_run_is_bit_equal(tmp_path: Path, optimizer: str, clip_norm: float | None) -> None:
    """With any optimizer, a supervised run ends as without, and its clipping is PyTorch's, bit for bit."""
    assert_same_run(lambda: make_training(optimizer, clip_norm=clip_norm), run=tmp_path / "run")
    assert len(read_run(tmp_path / "run").measurements) == NUM_STEPS


@pytest.mark.parametrize("clip_norm", [pytest.param(None, id="unclipped"), pytest.param(1.0, id="clipped")])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_supervised_run_with_a_scaler_is_bit_equal(optimizer: str, clip_norm: float | None) -> None:
    """With float16 and a scaler that overflows now and then, a supervised run ends as without."""

    def make() -> Training:
        return make_training(optimizer, add_scaler, clip_norm=clip_norm)

    assert_same_run(make)
    overflows = ~np.isfinite(run_supervised(make).history.column("grad_norm"))
    assert overflows[0], "the scaler was to overflow at the start"
    assert overflows[8:].any(), "and again later"


def run_supervised(make: Callable[[], Training]) -> Supervisor:
    supervisor = make().supervise().run(NUM_STEPS).supervisor
    assert supervisor is not None
    return supervisor


def add_accumulation(training: Training) -> None:
    training.num_micro_batches = 3


def add_bfloat16(training: Training) -> None:
    training.autocast = torch.bfloat16


def add_one_cycle(training: Training) -> None:
    training.scheduler = torch.optim.lr_scheduler.OneCycleLR(training.optimizer, 0.1, total_steps=NUM_STEPS)


@pytest.mark.parametrize("clip_norm", [pytest.param(None, id="unclipped"), pytest.param(1.0, id="clipped")])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw-fused"])
@pytest.mark.parametrize(
    ("model", "parts"),
    [
        pytest.param(Net, [add_accumulation], id="accumulation"),
        pytest.param(Net, [add_accumulation, add_scaler], id="scaled-accumulation"),
        pytest.param(Net, [add_bfloat16], id="bfloat16-autocast"),
        pytest.param(Frozen, [], id="frozen-part"),
        pytest.param(Frozen, [add_scaler], id="scaled-frozen-part"),
        pytest.param(Unused, [], id="part-without-gradient"),
        pytest.param(Double, [], id="float64"),
        pytest.param(Net, [add_average], id="average-of-weights"),
        pytest.param(Net, [add_one_cycle], id="scheduler"),
    ],
)
def test_supervised_loop_is_bit_equal(
    optimizer: str, model: Callable[[], nn.Module], parts: list[Event], clip_norm: float | None
) -> None:
    """Whatever else the loop holds or does, a supervised run ends as without."""
    assert_same_run(lambda: make_training(optimizer, *parts, model=model, clip_norm=clip_norm))


def test_weights_in_bfloat16_are_left_alone() -> None:
    """A network whose weights are bfloat16 trains as without a supervisor."""
    assert_same_run(lambda: make_training("adamw", model=Brain))


def test_sparse_gradients_are_left_alone() -> None:
    """An embedding with sparse gradients trains under SGD as without a supervisor."""
    assert_same_run(lambda: make_training(partial(torch.optim.SGD, lr=0.1), model=Words))


def test_rate_in_a_tensor_is_left_alone() -> None:
    """A learning rate kept in a tensor, and its scheduler, go as without a supervisor."""

    def make() -> Training:
        training = make_training(partial(torch.optim.AdamW, lr=torch.tensor(0.01)))
        training.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(training.optimizer, 20)
        return training

    assert_same_run(make)


def test_loop_that_measures_its_own_norm_is_left_alone() -> None:
    """A norm handed to `check` is used as it is: the run ends as one that clips by itself."""

    class Measured(Training):
        def guard(self, loss: Tensor) -> None:
            parameters = list(self.model.parameters())
            norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            if self.supervisor is not None:
                self.decisions.append(self.supervisor.check(loss, grad_norm=norm))

    def make() -> Training:
        training = make_training("adamw")
        return Measured(training.model, training.optimizer)

    assert_same_run(make)


def test_step_without_any_gradient_is_left_alone() -> None:
    """A step at which no parameter has a gradient is judged by its loss, and nothing comes of it."""

    def drop(training: Training) -> None:
        if training.batches.position in (1, 12):
            training.optimizer.zero_grad()

    assert_same_run(lambda: make_training("adamw", after_backward=drop, clip_norm=1.0))
