"""Law 3: a faulted run that is rolled back, and whose data is replayed, equals a run never faulted, bit for bit."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

from tests.laws.models import Brain, Double, Frozen, Growing, Late, Recording, Unused, Waking
from tests.laws.spoils import overwrite, ruin_after_update, ruin_before_update
from tests.laws.training import (
    OPTIMIZERS,
    Event,
    Training,
    add_average,
    add_scaler,
    capture,
    capture_buffers,
    capture_optimizer,
    capture_random,
    capture_weights,
    list_differences,
    make_training,
)
from trimtab import Policy, PolicyError
from trimtab.journal import read_run
from trimtab.state.buffers import BufferCopies
from trimtab.state.live import LiveState, SnapshotError
from trimtab.state.snapshot import Snapshots

NUM_STEPS = 40

EVERY, PROBATION = Policy().snapshot_every, Policy().probation

AROUND_SNAPSHOTS = {1, 2, 3, *range(EVERY - 1, EVERY + PROBATION + 2), *range(2 * EVERY - 1, 2 * EVERY + PROBATION + 2)}

AT_RANDOM = set(random.Random(3).sample(range(1, NUM_STEPS - 1), 6))


def add_scheduler(make: Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]) -> Event:
    """Give the run a scheduler."""

    def add(training: Training) -> None:
        training.scheduler = make(training.optimizer)

    return add


def make_sequence(optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    warmup = lr_scheduler.LinearLR(optimizer, 0.1, total_iters=6)
    return lr_scheduler.SequentialLR(optimizer, [warmup, lr_scheduler.ExponentialLR(optimizer, 0.95)], [6])


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]] = {
    "cosine": partial(lr_scheduler.CosineAnnealingLR, T_max=30),
    "one-cycle": partial(lr_scheduler.OneCycleLR, max_lr=0.05, total_steps=NUM_STEPS + 1, cycle_momentum=True),
    "plateau": partial(lr_scheduler.ReduceLROnPlateau, patience=1, threshold=0.5, cooldown=1),
    "sequence": make_sequence,
    "lambda": partial(lr_scheduler.LambdaLR, lr_lambda=lambda step: 0.97**step),
}


def run_replayed(training: Training) -> Training:
    """The whole run under a supervisor that can rewind the data."""
    training.supervise(data=training.batches)
    return training.run(NUM_STEPS)


@cache
def run_healthy(*recipe: Any, **fields: Any) -> dict[str, Any]:
    """The state at the end of a run that was never faulted nor supervised."""
    return capture(make_training(*recipe, **fields).run(NUM_STEPS))


def assert_recovered(training: Training, healthy: dict[str, Any], num_rollbacks: int = 1) -> None:
    """A run was rolled back so many times, and its state is that of a run never faulted."""
    state = capture(training)
    assert training.verdicts.count("rollback") == num_rollbacks
    assert set(training.verdicts) <= {"proceed", "rollback"}
    assert list_differences(state, healthy) == []


def count_lost(training: Training) -> int:
    """Steps taken more than once, those that were rolled back at hand included."""
    assert training.supervisor is not None
    return training.supervisor.step - NUM_STEPS


@pytest.mark.parametrize("value", [pytest.param(1e30, id="huge"), pytest.param(math.nan, id="nan")])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_rolled_back_run_equals_one_never_faulted(optimizer: str, value: float) -> None:
    """With any optimizer, a run whose weights were ruined ends as if they had not been."""
    training = run_replayed(make_training(optimizer, ruin_after_update(value, 21)))
    assert_recovered(training, run_healthy(optimizer))


@pytest.mark.parametrize(
    "fault",
    [pytest.param(ruin_before_update, id="before-update"), pytest.param(ruin_after_update, id="after-update")],
)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("step", sorted({*AROUND_SNAPSHOTS, *AT_RANDOM, NUM_STEPS - 1}))
def test_fault_at_any_step_is_undone(optimizer: str, step: int, fault: Callable[..., Event]) -> None:
    """Wherever the fault falls between two snapshots, the run ends as if there were none, and few steps are lost."""
    training = run_replayed(make_training(optimizer, fault(1e30, step)))
    assert_recovered(training, run_healthy(optimizer))
    assert 1 <= count_lost(training) <= EVERY + PROBATION


@pytest.mark.parametrize("value", [1e30, -1e30, math.nan])
@pytest.mark.parametrize(
    "name", ["inner.weight", "inner.bias", "norm.weight", "norm.bias", "outer.weight", "outer.bias"]
)
def test_fault_in_any_parameter_is_undone(name: str, value: float) -> None:
    """Whichever parameter is hit, a vector in front of BatchNorm or ReLU included, the run ends as if none were."""

    def hit(training: Training) -> None:
        if training.batches.position == 21 and "rollback" not in training.verdicts:
            with torch.no_grad():
                training.model.get_parameter(name).view(-1)[5 % training.model.get_parameter(name).numel()] = value

    training = run_replayed(make_training("adamw", after_update=hit))
    state = capture(training)
    assert "rollback" in training.verdicts
    assert list_differences(state, run_healthy("adamw")) == []


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_state_made_lazily_is_deleted_again(optimizer: str) -> None:
    """A fault in the very first update leads back to an optimizer that has not made its state yet."""
    training = make_training(optimizer, ruin_after_update(math.nan, 1))
    training.supervise(data=training.batches)
    before = {**capture_weights(training), **capture_optimizer(training)}
    training.run(1)
    training.step()
    assert training.verdicts == ["proceed", "rollback"]
    assert training.batches.position == 0
    assert list_differences(before, {**capture_weights(training), **capture_optimizer(training)}) == []
    training.run(NUM_STEPS)
    assert_recovered(training, run_healthy(optimizer))


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param((12, 30), id="apart"),
        pytest.param((9, 10), id="in-a-row"),
        pytest.param((1, 20), id="first-update-and-later"),
    ],
)
def test_several_faults_are_undone(steps: tuple[int, ...]) -> None:
    """A run with several faults ends as if there were none."""
    training = run_replayed(make_training("adamw", ruin_after_update(1e30, *steps)))
    assert_recovered(training, run_healthy("adamw"), num_rollbacks=len(steps))


@pytest.mark.parametrize("step", [11, 12, 16, 18, 29])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw-fused"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_scheduler_is_rolled_back(scheduler: str, optimizer: str, step: int) -> None:
    """The schedule goes on from the snapshot, rates and momenta included."""
    parts = [add_scheduler(SCHEDULERS[scheduler])]
    training = run_replayed(make_training(optimizer, *parts, ruin_after_update(1e30, step)))
    assert_recovered(training, run_healthy(optimizer, *parts))


@pytest.mark.parametrize("step", [11, 12, 16, 18, 29])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_scaler_is_rolled_back(optimizer: str, step: int) -> None:
    """Mixed precision goes on from the snapshot with its scale, and the fault does not count as an overflow."""
    training = run_replayed(make_training(optimizer, add_scaler, ruin_after_update(math.nan, step)))
    assert_recovered(training, run_healthy(optimizer, add_scaler))


@pytest.mark.parametrize("step", [11, 16, 29])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_average_is_rolled_back(optimizer: str, step: int) -> None:
    """An average of the weights, updated where `decision.proceed` says so, goes on from the snapshot."""
    training = run_replayed(make_training(optimizer, add_average, ruin_after_update(1e30, step)))
    assert_recovered(training, run_healthy(optimizer, add_average))


@pytest.mark.parametrize("step", [pytest.param(5, id="to-the-first-state"), pytest.param(21, id="to-a-snapshot")])
@pytest.mark.parametrize(
    "model",
    [
        pytest.param(Frozen, id="frozen-part"),
        pytest.param(Unused, id="part-without-gradient"),
        pytest.param(Waking, id="late-gradient"),
        pytest.param(Double, id="float64"),
        pytest.param(Brain, id="bfloat16-weights"),
        pytest.param(Recording, id="every-kind-of-buffer"),
        pytest.param(Growing, id="growing-buffer"),
        pytest.param(partial(Late, 6), id="late-buffer"),
    ],
)
def test_whatever_the_model_holds_is_rolled_back(model: Callable[[], nn.Module], step: int) -> None:
    """Parameters, buffers and optimizer state of every kind go on from the snapshot."""
    training = run_replayed(make_training("adamw", ruin_after_update(math.nan, step), model=model))
    assert_recovered(training, run_healthy("adamw", model=model))


def test_more_than_a_weight_is_undone() -> None:
    """Ruined statistics, forgotten moments and changed options are undone with the weights."""

    def wreck(training: Training) -> None:
        if training.batches.position == 21 and "rollback" not in training.verdicts:
            overwrite(training, math.nan)
            for statistics in training.model.get_submodule("norm").buffers():
                statistics.fill_(7)
            training.optimizer.state.clear()
            for group in training.optimizer.param_groups:
                group.update(lr=100.0, betas=(0.0, 0.0), stray=True)

    training = run_replayed(make_training("adamw", after_update=wreck))
    assert_recovered(training, run_healthy("adamw"))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_storage_stays_where_it_is(optimizer: str) -> None:
    """A rollback writes in place: views, compiled graphs and flattened parameters stay valid."""
    training = make_training(optimizer, ruin_after_update(1e30, 20)).supervise().run(20)
    before = locate_storage(training)
    training.step()
    assert training.verdicts[-1] == "rollback"
    assert locate_storage(training) == before


def locate_storage(training: Training) -> list[int]:
    state = [value for each in training.optimizer.state.values() for value in each.values()]
    tensors = [*training.model.parameters(), *(value for value in state if isinstance(value, Tensor))]
    return [address for tensor in tensors for address in (id(tensor), tensor.data_ptr())]


@pytest.mark.parametrize("has_data", [pytest.param(True, id="with-data"), pytest.param(False, id="without-data")])
def test_position_and_random_numbers_are_rewound_together_or_not_at_all(has_data: bool) -> None:
    """With `data=`, a rollback rewinds position and generators together; without it, neither."""
    training = make_training("adamw", ruin_after_update(1e30, 21))
    training.supervise(data=training.batches if has_data else None).run(16)
    at_snapshot, weights = capture_data(training), capture_weights(training)
    training.run(21)
    at_check: list[dict[str, Any]] = []
    training.after_backward = lambda training: at_check.append(capture_data(training))
    training.step()
    assert training.verdicts[-1] == "rollback"
    assert list_differences(capture_weights(training), weights) == []
    assert list_differences(capture_data(training), at_snapshot if has_data else at_check[0]) == []
    assert {"position", "torch"} <= {*list_differences(at_snapshot, at_check[0])}


def capture_data(training: Training) -> dict[str, Any]:
    return {"position": training.batches.position, **capture_random()}


@pytest.mark.parametrize(
    ("fault", "step", "restored"),
    [
        pytest.param(ruin_before_update, 8, 0, id="in-the-candidate"),
        pytest.param(ruin_after_update, 8, 0, id="before-its-first-clean-step"),
        pytest.param(ruin_after_update, 9, 0, id="before-its-second-clean-step"),
        pytest.param(ruin_after_update, 10, 8, id="after-its-probation"),
        pytest.param(ruin_before_update, 16, 8, id="in-the-second-candidate"),
        pytest.param(ruin_after_update, 17, 8, id="before-the-end-of-its-probation"),
        pytest.param(ruin_after_update, 18, 16, id="after-it"),
    ],
)
def test_only_a_proven_snapshot_is_restored(
    tmp_path: Path, fault: Callable[..., Event], step: int, restored: int
) -> None:
    """A snapshot that was on probation when the fault was found is never restored."""
    training = make_training("adamw", fault(1e30, step)).supervise(run=tmp_path / "run").run(step + 1)
    assert training.supervisor is not None
    training.supervisor.finish()
    _, action = read_run(tmp_path / "run").records[step + 1, "step"]
    assert (action.restored_step, action.num_lost) == (restored, step + 1 - restored)


@pytest.mark.parametrize("every", [2, 3, 5, 13])
def test_no_more_steps_are_lost_than_the_policy_says(every: int) -> None:
    """A rollback loses at most `snapshot_every + probation` updates, whatever these are."""
    for step in range(20, 20 + every):
        training = make_training("adamw", ruin_after_update(1e30, step))
        training.supervise(data=training.batches, policy=Policy.from_dict({"snapshot_every": every}))
        training.run(NUM_STEPS)
        assert_recovered(training, run_healthy("adamw"))
        assert count_lost(training) <= every + PROBATION


def test_policy_whose_snapshots_could_never_be_proven_is_refused() -> None:
    """A snapshot that the next one replaces before its probation is over would never be proven."""
    with pytest.raises(PolicyError, match="probation"):
        Policy.from_dict({"snapshot_every": PROBATION - 1})


def test_steps_are_counted_on() -> None:
    """The supervisor's step never goes back: it counts checks."""
    training = make_training("adamw", ruin_after_update(1e30, 20)).supervise().run(24)
    assert [decision.step for decision in training.decisions] == list(range(1, 25))


def test_rollback_at_a_review_goes_on_from_the_snapshot() -> None:
    """A review may roll back too, where the policy says so; the next step is the one after the snapshot."""
    policy = Policy.from_dict({"detectors": {"nonfinite": {"ladder": ["rollback"]}}})
    training = make_training("adamw")
    supervisor = training.supervise(data=training.batches, policy=policy).run(20).supervisor
    assert supervisor is not None
    assert supervisor.review(val_loss=math.nan).verdict == "rollback"
    assert training.batches.position == 16
    training.run(NUM_STEPS)
    assert list_differences(capture(training), run_healthy("adamw")) == []


@pytest.mark.parametrize("change", ["parameter group", "shape", "dtype"])
def test_snapshot_that_does_not_fit_changes_nothing(change: str) -> None:
    """A snapshot is held against the run before the first number is written."""
    first, last = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.AdamW([first, last])
    snapshots = Snapshots(LiveState(optimizer, BufferCopies(nn.Module())))
    snapshots.take(1)
    snapshots.trust()
    with torch.no_grad():
        first.fill_(5.0)
    if change == "parameter group":
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(3))]})
    else:
        last.data = last.data.double() if change == "dtype" else torch.zeros(5)
    with pytest.raises(SnapshotError):
        snapshots.restore(lambda error: pytest.fail(str(error)))
    assert first.tolist() == [5.0, 5.0, 5.0]


def test_everything_is_rolled_back_together() -> None:
    """Scheduler, scaler and average, with micro-batches and clipping, all go on from the same snapshot."""
    parts = [add_scaler, add_average, add_scheduler(SCHEDULERS["one-cycle"])]
    fields: dict[str, Any] = {"num_micro_batches": 3, "clip_norm": 1.0}
    training = run_replayed(make_training("adamw", *parts, ruin_after_update(1e30, 20), **fields))
    assert_recovered(training, run_healthy("adamw", *parts, **fields))


class Swapping(nn.Module):
    """A network with two buffers of one shape, the second of which begins to change first."""

    def __init__(self) -> None:
        super().__init__()
        self.outer = nn.Linear(6, 1)
        self.register_buffer("late", torch.zeros(2))
        self.register_buffer("early", torch.zeros(2))
        self.num_calls = 0

    def forward(self, x: Tensor) -> Tensor:
        """Both buffers count, one upwards from the first call on, one downwards from the second."""
        self.num_calls += 1
        self.get_buffer("early").add_(1.0)
        if self.num_calls > 1:
            self.get_buffer("late").sub_(1.0)
        outputs: Tensor = self.outer(x).squeeze(-1)
        return outputs


@pytest.mark.parametrize("step", [11, 20, 29])
def test_tensors_of_one_shape_are_not_swapped(step: int) -> None:
    """A snapshot whose tensors come in another order than in the one before it still keeps each for itself."""
    training = run_replayed(make_training("sgd", ruin_after_update(math.nan, step), model=Swapping))
    healthy = run_healthy("sgd", model=Swapping)
    assert "rollback" in training.verdicts
    assert list_differences(capture_buffers(training), {key: healthy[key] for key in capture_buffers(training)}) == []
