"""Checkpoints through the supervisor: a run that was ended goes on bit for bit, and from a healthy state alone."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel

from tests.laws.models import Net, Recording
from tests.laws.training import (
    OPTIMIZERS,
    Event,
    Training,
    add_average,
    add_scaler,
    capture,
    capture_weights,
    list_differences,
    make_training,
)
from tests.scenarios.recovery.runs import get_supervisor
from trimtab import Policy, Supervisor
from trimtab.errors import InputError, RunExistsError, RunLockedError
from trimtab.journal import read_run
from trimtab.state.checkpoints import Checkpoints

EVERY = 10

STOPPED, END = 25, 40
"""Where a run is ended, five steps after its newest checkpoint; and where it and its twin are compared."""


def take_steps(training: Training, until: int) -> Training:
    """Steps with a checkpoint at the end of each, if it is due; each is waited for."""
    supervisor = get_supervisor(training)
    while training.batches.position < until:
        training.step()
        if supervisor.is_checkpoint_due:
            assert supervisor._archive is not None
            supervisor._archive.checkpoints.wait()
            assert supervisor.checkpoint()
    return training


def add_scheduler(make: Callable[[torch.optim.Optimizer], Any]) -> Event:
    def add(training: Training) -> None:
        training.scheduler = make(training.optimizer)

    return add


def make_at(folder: Path, *recipe: Any, resume: bool = False, options: dict[str, Any] | None = None) -> Training:
    training = make_training(*recipe, model=Net)
    options = {"data": training.batches, "checkpoint_every": EVERY, **(options or {})}
    return training.supervise(run=folder, resume=resume, **options)


def end(training: Training) -> None:
    """The process ends between two checkpoints, without a word to the supervisor; its lock is freed by the system."""
    archive = get_supervisor(training)._archive
    assert archive is not None
    archive.checkpoints.wait()
    archive._lock.release()
    get_supervisor(training)._recorder.close("killed")


def spoil_generators() -> None:
    """Another process has other random numbers."""
    torch.manual_seed(99)


def resume_at(folder: Path, *recipe: Any, options: dict[str, Any] | None = None) -> tuple[Training, int]:
    """A new process: another training of the same recipe, set to the newest checkpoint."""
    training = make_at(folder, *recipe, resume=True, options=options)
    spoil_generators()
    with torch.no_grad():
        for parameter in training.model.parameters():
            parameter.add_(1.0)
    resumed = get_supervisor(training).resume()
    return training, -1 if resumed is None else resumed.step


def compare_with_uninterrupted(folder: Path, *recipe: Any, **options: Any) -> None:
    end(take_steps(make_at(folder / "a", *recipe, options=options), STOPPED))
    resumed, step = resume_at(folder / "a", *recipe, options=options)
    assert step == 20
    take_steps(resumed, END)
    state = capture(resumed)
    get_supervisor(resumed).finish()
    whole = take_steps(make_at(folder / "b", *recipe, options=options), END)
    assert list_differences(state, capture(whole)) == []
    get_supervisor(whole).finish()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_resumed_run_equals_one_never_ended(optimizer: str, tmp_path: Path) -> None:
    """With any optimizer, a run that is ended and resumed is, bit for bit, the run that was not."""
    compare_with_uninterrupted(tmp_path, optimizer)


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "cosine": partial(lr_scheduler.CosineAnnealingLR, T_max=30),
    "one-cycle": partial(lr_scheduler.OneCycleLR, max_lr=0.05, total_steps=END + 1),
    "restarts": partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=7),
    "plateau": partial(lr_scheduler.ReduceLROnPlateau, patience=1, threshold=0.5),
    "lambda": partial(lr_scheduler.LambdaLR, lr_lambda=lambda step: 0.97**step),
}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_schedule_is_resumed(scheduler: str, tmp_path: Path) -> None:
    """Every kind of schedule goes on from its step."""
    compare_with_uninterrupted(tmp_path, "adamw", add_scheduler(SCHEDULERS[scheduler]))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw-fused"])
def test_scaler_average_and_schedule_are_resumed(optimizer: str, tmp_path: Path) -> None:
    """All partners at once go on from their states."""
    compare_with_uninterrupted(tmp_path, optimizer, add_scaler, add_average, add_scheduler(SCHEDULERS["one-cycle"]))


def test_probed_run_is_resumed(tmp_path: Path) -> None:
    """A probe that draws random numbers changes nothing of that."""

    def probe(model: nn.Module) -> float:
        x = torch.randn(64, 6)
        return float((model(x).detach() - x.sum(1).sin()).square().mean())

    compare_with_uninterrupted(tmp_path, "adamw", probe=probe, policy=Policy.from_dict({"probe_budget": 1.0}))


def test_supervisor_remembers(tmp_path: Path) -> None:
    """History, ledger, adjustments and count are those of the checkpoint, and the limits with them."""
    training = make_at(tmp_path / "run", "adamw")

    def spoil(training: Training, _: int, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return inputs, targets * (math.nan if training.batches.position == 8 else 1.0)

    training.distort = spoil
    take_steps(training, 20)
    supervisor = get_supervisor(training)
    supervisor.freeze("inner")
    assert supervisor.checkpoint({"epoch": 3, "best": torch.ones(2)}, now=True)
    end(training)
    other = make_at(tmp_path / "run", "adamw", resume=True)
    resumed = get_supervisor(other).resume()
    assert resumed is not None
    assert resumed.step == get_supervisor(other).step == 20
    assert resumed.extra["epoch"] == 3
    assert torch.equal(resumed.extra["best"], torch.ones(2))
    assert repr(get_supervisor(other).ledger) == repr(supervisor.ledger)
    assert get_supervisor(other).frozen == ("inner",)
    columns = [each.history.column("loss") for each in (supervisor, get_supervisor(other))]
    torch.testing.assert_close(*map(torch.tensor, columns), rtol=0, atol=0, equal_nan=True)


def test_tensors_stay_in_place(tmp_path: Path) -> None:
    """A resume writes into the tensors there are, hidden buffers included."""
    training = make_training("adamw", model=Recording).supervise(run=tmp_path / "run", checkpoint_every=EVERY)
    get_supervisor(take_steps(training, 20)).finish()
    other = make_training("adamw", model=Recording).run(3).supervise(run=tmp_path / "run", resume=True)
    places = [each.data_ptr() for each in other.model.parameters()]
    assert get_supervisor(other).resume() is not None
    assert [each.data_ptr() for each in other.model.parameters()] == places
    assert torch.equal(other.model.get_buffer("unseen"), training.model.get_buffer("unseen"))


# Which checkpoint it is.


def list_stamps(folder: Path) -> dict[int, bool]:
    """Step to whether it is stamped healthy."""
    return {stamp.step: stamp.is_healthy for _, stamp in Checkpoints(folder / "checkpoints").list()}


def spoil_weight_after(step: int) -> Event:
    def strike(training: Training) -> None:
        if training.batches.position == step and "rollback" not in training.verdicts:
            with torch.no_grad():
                next(training.model.parameters()).view(-1)[0] = math.nan

    def add(training: Training) -> None:
        training.after_update = strike

    return add


def spoil_targets_at(step: int) -> Event:
    def distort(training: Training, _: int, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return inputs, targets * (math.nan if training.batches.position == step else 1.0)

    def add(training: Training) -> None:
        training.distort = distort

    return add


@pytest.mark.parametrize(
    ("fault", "healthy"),
    [
        pytest.param(spoil_weight_after(20), False, id="poisoned-weights-in-it"),
        pytest.param(spoil_weight_after(21), False, id="poisoned-within-probation"),
        pytest.param(spoil_targets_at(21), True, id="skip-within-probation"),
        pytest.param(spoil_weight_after(22), True, id="poisoned-after-probation"),
        pytest.param(spoil_targets_at(20), True, id="skipped-before-it"),
    ],
)
def test_stamp_says_whether_the_state_is_sound(fault: Event, healthy: bool, tmp_path: Path) -> None:
    """A checkpoint whose state is found bad within probation is stamped unhealthy, and never resumed."""
    training = make_training("adamw", fault)
    training.supervise(run=tmp_path / "run", checkpoint_every=EVERY)
    take_steps(training, 24)
    end(training)
    assert list_stamps(tmp_path / "run") == {10: True, 20: healthy}
    other, step = resume_at(tmp_path / "run", "adamw")
    assert step == (20 if healthy else 10)
    assert all(bool(torch.isfinite(each).all()) for each in other.model.parameters())


def test_poisoned_state_asked_for_at_once_is_stamped_so(tmp_path: Path) -> None:
    """Where there is no time for probation, the weights themselves are looked at."""
    training = make_at(tmp_path / "run", "adamw").run(5)
    supervisor = get_supervisor(training)
    assert supervisor.checkpoint(now=True)
    training.run(8)
    with torch.no_grad():
        next(training.model.parameters()).view(-1)[0] = math.inf
    assert supervisor.checkpoint(now=True)
    end(training)
    assert list_stamps(tmp_path / "run") == {5: True, 8: False}


def test_checkpoint_on_probation_is_written_at_the_end(tmp_path: Path) -> None:
    """What is held when the run ends is written."""
    training = take_steps(make_at(tmp_path / "run", "adamw"), 20)
    get_supervisor(training).finish()
    assert list_stamps(tmp_path / "run") == {10: True, 20: True}


@pytest.mark.parametrize(
    ("num_steps", "status", "told"),
    [
        pytest.param(5, "failed: ValueError", "no healthy checkpoint", id="no-checkpoint"),
        pytest.param(17, "halted", "7 steps were made since", id="halted"),
        pytest.param(17, "finished", None, id="finished"),
    ],
)
def test_run_that_ends_badly_says_what_it_costs(num_steps: int, status: str, told: str | None, tmp_path: Path) -> None:
    """The events of a run that failed name the steps since its newest healthy checkpoint."""
    training = take_steps(make_at(tmp_path / "run", "adamw"), num_steps)
    get_supervisor(training).finish(status)
    get_supervisor(training).finish(status)
    messages = [each["message"] for each in read_run(tmp_path / "run").events if each["event"] == "lost"]
    assert len(messages) == (told is not None)
    assert told is None or told in messages[0]


def test_only_what_is_due_is_taken(tmp_path: Path) -> None:
    """`checkpoint` may be called at the end of each step; it takes one every so many."""
    training = make_at(tmp_path / "run", "adamw")
    supervisor = get_supervisor(training)
    taken = []
    for _ in range(24):
        training.step()
        assert supervisor._archive is not None
        supervisor._archive.checkpoints.wait()
        if supervisor.checkpoint():
            taken.append(supervisor.step)
    assert taken == [10, 20]
    supervisor.finish()


MISMATCHES: dict[str, tuple[Callable[[], Training], str]] = {
    "model": (lambda: make_training("adamw", model=partial(nn.Linear, 6, 1)), "of another model"),
    "shape": (lambda: make_training("adamw", widen), "of another model"),
    "groups": (lambda: make_training("adamw", regroup), "of another optimizer"),
    "optimizer": (lambda: make_training("sgd"), "of another optimizer"),
    "partners": (lambda: make_training("adamw", add_scheduler(SCHEDULERS["cosine"])), "partners"),
}


def widen(training: Training) -> None:
    """The same names, another width."""
    training.model.outer = nn.Linear(16, 2)
    regroup(training)


def regroup(training: Training) -> None:
    """One parameter group in place of two."""
    training.optimizer = torch.optim.AdamW(training.model.parameters(), lr=0.01)


@pytest.mark.parametrize("name", MISMATCHES)
def test_checkpoint_of_another_run_is_refused(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A run is not begun in another's folder: a sentence says what differs, and nothing is changed."""
    end(take_steps(make_at(tmp_path / "run", "adamw"), 12 + 2))
    make, sentence = MISMATCHES[name]
    training = make().supervise(run=tmp_path / "other" if name == "model" else tmp_path / "run", resume=name != "model")
    if name == "model":
        (tmp_path / "run" / "checkpoints").rename(tmp_path / "other" / "checkpoints")
    before = capture_weights(training)
    with caplog.at_level(logging.WARNING, "trimtab"), pytest.raises(InputError, match="holds another run: it "):
        get_supervisor(training).resume()
    assert sentence in caplog.text
    assert "passed over" in caplog.text
    assert len(list((tmp_path / "run" / "checkpoints").glob("step-*"))) == (name != "model")
    assert list_differences(before, capture_weights(training)) == []
    get_supervisor(training).finish()


@pytest.mark.parametrize("file", ["model.safetensors", "state.safetensors", "state.json", "stamp.json"])
def test_corrupted_newest_gives_way_to_the_next_older(
    file: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A flipped byte anywhere in the newest checkpoint is reported, and the run goes on from the one before."""
    end(take_steps(make_at(tmp_path / "run", "adamw"), STOPPED))
    path = tmp_path / "run" / "checkpoints" / "step-000020" / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with caplog.at_level(logging.WARNING, "trimtab"):
        training, step = resume_at(tmp_path / "run", "adamw")
    assert step == 10
    assert "step-000020" in caplog.text
    assert "passed over" in caplog.text
    get_supervisor(training).finish()


def test_nothing_to_resume(tmp_path: Path) -> None:
    """Without a checkpoint there is None, and the run begins."""
    training = make_at(tmp_path / "run", "adamw")
    assert get_supervisor(training).resume() is None
    assert set(training.run(5).verdicts) == {"proceed"}
    get_supervisor(training).finish()


def test_later_checkpoints_are_put_aside(tmp_path: Path) -> None:
    """A run that goes on from an older checkpoint does not meet the later ones again."""
    end(take_steps(make_at(tmp_path / "run", "adamw"), 33))
    (tmp_path / "run" / "checkpoints" / "step-000030" / "state.json").write_text("{}", encoding="utf-8")
    training, step = resume_at(tmp_path / "run", "adamw")
    assert step == 20
    assert list_stamps(tmp_path / "run") == {10: True, 20: True}
    assert (tmp_path / "run" / "checkpoints" / "abandoned-1" / "step-000030").is_dir()
    take_steps(training, 33)
    end(training)
    assert list_stamps(tmp_path / "run") == {10: True, 20: True, 30: True}


# One process at a time.


def test_two_supervisors_on_one_folder_are_refused(tmp_path: Path) -> None:
    """The second is refused with the holder named; after `finish` the folder is free."""
    first = make_at(tmp_path / "run", "adamw").run(3)
    with pytest.raises(RunLockedError, match="being written by process"):
        make_at(tmp_path / "run", "adamw", resume=True)
    get_supervisor(first).finish()
    with pytest.raises(RunExistsError):
        make_at(tmp_path / "run", "adamw")
    second = make_at(tmp_path / "run", "adamw", resume=True).run(3)
    get_supervisor(second).finish()


def test_failed_constructor_frees_the_folder(tmp_path: Path) -> None:
    """A supervisor that could not be made holds no lock."""
    get_supervisor(make_at(tmp_path / "run", "adamw").run(2)).finish()
    with pytest.raises(RunExistsError):
        make_at(tmp_path / "run", "adamw")
    get_supervisor(make_at(tmp_path / "run", "adamw", resume=True)).finish()


def test_context_manager_frees_the_folder(tmp_path: Path) -> None:
    """The folder is free after a `with` block, also after one that failed; and the journal says so."""
    training = make_training("adamw")
    with (
        pytest.raises(ZeroDivisionError),
        Supervisor(training.model, training.optimizer, run=tmp_path / "run"),
    ):
        1 / 0  # noqa: B018
    get_supervisor(make_at(tmp_path / "run", "adamw", resume=True)).finish()
    ends = [each["status"] for each in read_run(tmp_path / "run").events if each["event"] == "end"]
    assert ends == ["failed: ZeroDivisionError", "finished"]


# The off-switch.


def test_switched_off_it_still_checkpoints_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under `TRIMTAB=off` a run is not supervised, and yet goes on after it was ended, bit for bit."""
    monkeypatch.setenv("TRIMTAB", "off")
    compare_with_uninterrupted(tmp_path, "adamw")


@pytest.mark.parametrize("first", ["off", "strict"])
def test_off_switch_may_be_thrown_between(first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written switched off is resumed switched on, and the other way round."""
    monkeypatch.setenv("TRIMTAB", first)
    training = make_at(tmp_path / "run", "adamw").run(7)
    assert get_supervisor(training).checkpoint(now=True)
    get_supervisor(training).finish()
    weights = capture_weights(training)
    monkeypatch.setenv("TRIMTAB", "strict" if first == "off" else "off")
    other, step = resume_at(tmp_path / "run", "adamw")
    assert step == 7
    assert list_differences(weights, capture_weights(other)) == []
    get_supervisor(other).finish()


def test_average_that_is_a_partner_is_part_of_it(tmp_path: Path) -> None:
    """An average of the weights comes back as it was when `checkpoint` was called."""
    training = make_at(tmp_path / "run", "adamw", add_average)
    take_steps(training, 14)
    end(training)
    other, _ = resume_at(tmp_path / "run", "adamw", add_average)
    whole = make_training("adamw", add_average, model=Net).run(10)
    assert isinstance(other.average, AveragedModel)
    assert isinstance(whole.average, AveragedModel)
    pairs = zip(other.average.parameters(), whole.average.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)
    get_supervisor(other).finish()
