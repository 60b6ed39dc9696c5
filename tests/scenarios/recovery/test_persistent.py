"""A spike that stays: back to the newest healthy checkpoint from before it, with a tighter clip limit for a while."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    OneCycleLR,
    ReduceLROnPlateau,
    StepLR,
)

from tests.laws.training import Training, capture_optimizer, capture_weights, list_differences
from tests.scenarios.recovery.runs import damage, get_supervisor, list_findings, make_run
from trimtab import Halted, Policy
from trimtab.actions import routine_limit
from trimtab.journal import read_run
from trimtab.types import Action

SPIKE = 105
"""The update after which the loss is far above what it was, and does not come down."""

FOUND = 160
"""When that is known: 50 steps later, at the next of the steps at which it is judged."""

MODERATE, LARGE = 0.3, 0.5
"""The size of the damage: beyond mean + 3 standard deviations of the loss; and beyond the limit of loss-spike too."""

EVERY = 50

HORIZON = 30

RELOADING: dict[str, Any] = {"loss-spike": {"ladder": []}, "persistent-spike": {"ladder": ["reload+tighten", "halt"]}}

SCHEDULERS: Mapping[str, Any] = {
    "cosine": partial(CosineAnnealingLR, T_max=300),
    "exponential": partial(ExponentialLR, gamma=0.99),
    "lambda": partial(LambdaLR, lr_lambda=lambda step: 1 / (1 + step)),
    "one-cycle": partial(OneCycleLR, max_lr=1e-4, total_steps=400),
    "step": partial(StepLR, step_size=5, gamma=0.9),
    "plateau": partial(ReduceLROnPlateau, patience=2, threshold=0.5),
}


class Checkpointed(Training):
    """A loop that takes checkpoints, each when the one before is on disk; and what it was at each step."""

    now_at: int = 0
    """The step at which it takes one besides."""

    def step(self) -> None:
        super().step()
        supervisor = get_supervisor(self)
        if supervisor.is_checkpoint_due or supervisor.step == self.now_at:
            assert supervisor._archive is not None
            supervisor._archive.checkpoints.wait()
            supervisor.checkpoint(now=supervisor.step == self.now_at)


def make_spiked(
    folder: Path | None,
    *,
    spike: int = SPIKE,
    size: float = MODERATE,
    detectors: dict[str, Any] = RELOADING,
    scheduler: str = "cosine",
) -> Checkpointed:
    """A run whose loss rises for good after one update, judged by a policy that knows such spikes."""

    def strike(training: Training) -> None:
        if get_supervisor(training).step == spike:
            damage(training, size)

    plain = make_run(None, optimizer=partial(torch.optim.SGD, lr=1e-5, momentum=0.9))
    training = Checkpointed(plain.model, plain.optimizer, after_update=strike)
    training.scheduler = SCHEDULERS[scheduler](training.optimizer)
    policy = Policy.from_dict({"detectors": detectors, "horizon": HORIZON, "max_rollbacks": 1})
    training.supervise(run=folder, policy=policy, checkpoint_every=EVERY, clip_norm=4.0)
    return training


def run_to(training: Training, step: int) -> Training:
    """Take steps until the supervisor has counted so many."""
    while get_supervisor(training).step < step:
        training.step()
    return training


def read_action(training: Training, folder: Path, step: int) -> Action:
    get_supervisor(training).finish()
    return read_run(folder).records[step, "step"][1]


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_newest_healthy_checkpoint_from_before_is_reloaded(scheduler: str, tmp_path: Path) -> None:
    """Weights, moments and schedule are those at the end of step 100, in the tensors there were; the count goes on."""
    training = run_to(make_spiked(tmp_path / "run", scheduler=scheduler), 100)
    at_checkpoint = {**capture_weights(training), **capture_optimizer(training)}
    assert training.scheduler is not None
    schedule = dict(training.scheduler.state_dict())
    places = [each.data_ptr() for each in training.model.parameters()]
    run_to(training, FOUND)
    position = training.batches.position
    assert training.verdicts[-1] == "reload"
    assert list_differences(at_checkpoint, {**capture_weights(training), **capture_optimizer(training)}) == []
    assert {**schedule, **training.scheduler.state_dict()} == schedule or scheduler == "plateau"
    assert [each.data_ptr() for each in training.model.parameters()] == places
    assert position == FOUND
    action = read_action(training, tmp_path / "run", FOUND)
    assert (action.restored_step, action.num_lost) == (100, FOUND - 100)


@pytest.mark.parametrize(
    "spike", [pytest.param(100, id="update-in-the-checkpoint"), pytest.param(101, id="right-after")]
)
def test_checkpoint_is_from_before_the_update_that_made_the_spike(spike: int, tmp_path: Path) -> None:
    """The loss shows an update one step later, so a checkpoint that holds it is not from before the spike."""
    training = run_to(make_spiked(tmp_path / "run", spike=spike), 99)
    before = max(float(each.detach().norm()) for each in training.model.parameters())
    run_to(training, 152)
    assert training.verdicts[-1] == "reload"
    assert max(float(each.detach().norm()) for each in training.model.parameters()) < 1.1 * before
    action = read_action(training, tmp_path / "run", get_supervisor(training).step)
    assert action.restored_step == (50 if spike == 100 else 100)


def test_large_spike_is_found_as_persistent_too(tmp_path: Path) -> None:
    """A spike that loss-spike finds at every step is no less persistent for that."""
    training = run_to(make_spiked(tmp_path / "run", size=LARGE), FOUND + 30)
    assert "persistent-spike" in {detector for _, detector in list_findings(get_supervisor(training))}
    assert "reload" in training.verdicts


def test_clip_limit_is_tight_for_a_while(tmp_path: Path) -> None:
    """Gradients are clipped to 0.5 for `horizon` steps, and then to what the loop asked for."""
    training = make_spiked(tmp_path / "run")
    norms: list[float] = []

    def measure(training: Training) -> None:
        gradients = [each.grad for each in training.model.parameters() if each.grad is not None]
        norms.append(float(torch.nn.utils.get_total_norm(gradients)) if gradients else 0.0)

    training.after_check = measure
    run_to(training, FOUND + HORIZON + 10)
    controls = get_supervisor(training)._controls
    tight = norms[FOUND : FOUND + HORIZON]
    assert max(norms[: FOUND - 1]) == pytest.approx(4.0, rel=1e-4)
    assert max(tight) == pytest.approx(0.5, rel=1e-4)
    assert norms[FOUND + HORIZON] > 0.6
    assert controls.adjustments == ()
    assert routine_limit(controls) == 4.0
    assert [verdict for verdict in training.verdicts if verdict != "proceed"] == ["reload"]
    action = read_action(training, tmp_path / "run", FOUND)
    assert [(each.what, each.before, each.after) for each in action.changes] == [("clip_norm", 4.0, 0.5)]


def test_checkpoint_taken_besides_is_one_step_ahead(tmp_path: Path) -> None:
    """After a reload of a checkpoint that was asked for at once, schedule and rate are those of one step later."""
    training = make_spiked(tmp_path / "run", scheduler="lambda")
    training.now_at = 95
    training.scheduler = None  # the loop of this test steps it, so that the order is plain to see
    schedule = LambdaLR(training.optimizer, lambda step: 1 / (1 + step))
    get_supervisor(training).finish()
    policy = Policy.from_dict({"detectors": RELOADING})
    training.supervise(schedule, run=tmp_path / "other", policy=policy, checkpoint_every=90, clip_norm=4.0)
    while get_supervisor(training).step < FOUND:
        training.optimizer.zero_grad()
        loss = training.backward(*training.batches.draw())
        training.guard(loss)
        training.optimizer.step()
        training._call(training.after_update)
        schedule.step()
        supervisor = get_supervisor(training)
        if supervisor.step in (90, 95):
            supervisor.checkpoint(now=True)
    assert training.verdicts[-1] == "reload"
    assert schedule.last_epoch == 96
    assert training.optimizer.param_groups[0]["lr"] == 1e-5 / 97


@pytest.mark.parametrize(
    "has_folder", [pytest.param(True, id="no-checkpoint-yet"), pytest.param(False, id="no-folder")]
)
def test_without_a_checkpoint_it_becomes_a_rollback(has_folder: bool, tmp_path: Path) -> None:
    """Where there is no checkpoint to reload, the newest proven snapshot is restored, and the note says why."""
    training = make_spiked(tmp_path / "run")
    get_supervisor(training).finish()
    policy = Policy.from_dict({"detectors": RELOADING, "horizon": HORIZON})
    run = tmp_path / "other" if has_folder else None
    training.supervise(run=run, policy=policy, checkpoint_every=10_000)
    run_to(training, FOUND)
    assert training.verdicts[-1] == "reload"
    if run is not None:
        action = read_action(training, run, FOUND)
        assert (action.verdict, action.restored_step) == ("rollback", 152)
        assert action.note.startswith("not reloaded: there is no healthy checkpoint")


def test_bad_batch_within_probation_does_not_stamp_a_checkpoint(tmp_path: Path) -> None:
    """A skip says nothing of the state before it: the checkpoint is proven by the clean steps after it."""
    training = make_spiked(tmp_path / "run")

    def spoil(training: Training, _: int, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return inputs, targets * torch.nan if get_supervisor(training).step == 100 else targets

    training.distort = spoil  # the batch of step 101 is NaN, within the probation of the checkpoint of step 100
    run_to(training, FOUND)
    assert training.verdicts[100] == "skip"
    assert training.verdicts[-1] == "reload"
    assert read_action(training, tmp_path / "run", FOUND).restored_step == 100


def test_spike_that_comes_back_after_the_reload_halts(tmp_path: Path) -> None:
    """Where the reload does not help, the run ends, with the cause named."""
    training = make_spiked(tmp_path / "run")

    def harden(training: Training, _: int, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return inputs, targets + (1.5 if get_supervisor(training).step > SPIKE else 0.0)

    training.after_update, training.distort = None, harden
    with pytest.raises(Halted, match="persistent-spike"):
        run_to(training, 400)


# `reset`: the optimizer's moments.


def test_reset_deletes_moments_and_cools() -> None:
    """The adjustment reset deletes what the optimizer keeps of earlier gradients, and cools for a while."""
    ladder = {"loss-spike": {"ladder": ["skip+reset"]}}
    policy = Policy.from_dict({"detectors": ladder, "cool_steps": 4})
    training = make_run(None, optimizer="adamw").supervise(policy=policy).run(60)
    rates: list[float] = []
    training.optimizer.register_step_pre_hook(lambda *_: rates.append(training.optimizer.param_groups[0]["lr"]))
    training.distort = lambda _, __, inputs, targets: (inputs, targets + 100.0)
    training.step()
    training.distort = None
    assert training.verdicts[-1] == "skip"
    assert training.optimizer.state == {}
    before = capture_weights(training)
    training.run(training.batches.position + 12)
    assert list_differences(before, capture_weights(training)) != []
    assert {float(each["step"]) for each in training.optimizer.state.values()} == {12.0}
    assert rates[1:5] == [pytest.approx(0.001)] * 4
    assert rates[-3:] == [0.01] * 3
