"""Law 11: whatever fails inside Trimtab, the training goes on."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch

from tests.laws.spoils import Failure, Fragile, ruin_after_update, spoil_batch, toy_probe
from tests.laws.training import (
    Training,
    add_scaler,
    capture,
    capture_buffers,
    capture_weights,
    list_differences,
    make_training,
)
from trimtab import Plan, Policy, Supervisor
from trimtab.detectors import detector, detectors
from trimtab.history import History
from trimtab.journal import read_run
from trimtab.probes import Reading, Values, Watch
from trimtab.probes.subject import Moment, Subject
from trimtab.types import Breach

NUM_STEPS = 24

Supervise: TypeAlias = Callable[..., Training]

Break: TypeAlias = Callable[[Training], AbstractContextManager[Supervise]]
"""Puts a part that fails into a run; gives what hands the run to a supervisor."""


@contextmanager
def break_detector(training: Training, *steps: int) -> Iterator[Supervise]:
    """A detector that fails, at every step or at some."""

    @detector("toy", severity="low")
    def fail(history: History) -> Iterator[Breach]:
        if not steps or history.newest.step in steps:
            raise Failure("a toy detector failed")
        yield from ()

    def supervise(**options: Any) -> Training:
        return training.supervise(policy=Policy({**Policy.default().plans, "toy": Plan()}), **options)

    try:
        yield supervise
    finally:
        del detectors["toy"]


@contextmanager
def break_probe(training: Training) -> Iterator[Supervise]:
    """A probe that fails at every step."""

    def fail(_: Moment) -> Values:
        raise Failure("a toy probe failed")

    with toy_probe(fail):
        yield training.supervise


@contextmanager
def break_probe_after_transfer(training: Training) -> Iterator[Supervise]:
    """A probe that fails at every step, once its numbers are there."""

    def fail(_: Moment) -> Reading:
        yield torch.ones(1)
        raise Failure("a toy probe failed")

    with toy_probe(fail, size=lambda _: 1):
        yield training.supervise


@contextmanager
def break_first_snapshot(training: Training) -> Iterator[Supervise]:
    """A partner that fails when the first snapshot is taken."""
    yield lambda **options: training.supervise(Fragile(1), **options)


@contextmanager
def break_later_snapshot(training: Training) -> Iterator[Supervise]:
    """A partner that fails when the third snapshot is taken."""
    yield lambda **options: training.supervise(Fragile(3), **options)


BREAKS = [
    pytest.param(break_detector, id="detector"),
    pytest.param(break_probe, id="probe"),
    pytest.param(break_probe_after_transfer, id="probe-after-transfer"),
    pytest.param(break_first_snapshot, id="first-snapshot"),
    pytest.param(break_later_snapshot, id="later-snapshot"),
]


def list_faults(run: Path) -> list[str]:
    """The traces of the faults that a run folder has recorded."""
    return [event["trace"] for event in read_run(run).events if event["event"] == "failure"]


@pytest.mark.parametrize("clip_norm", [pytest.param(None, id="unclipped"), pytest.param(1.0, id="clipped")])
@pytest.mark.parametrize("break_part", BREAKS)
def test_run_goes_on_when_a_part_fails(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, break_part: Break, clip_norm: float | None
) -> None:
    """A step at which a part fails proceeds, clipped as ever; the fault is recorded once, with how to report it."""
    training = make_training("adamw", add_scaler, clip_norm=clip_norm)
    with break_part(training) as supervise:
        supervise(strict=False, run=tmp_path / "run").run(NUM_STEPS)
    state = capture(training)
    assert training.supervisor is not None
    training.supervisor.finish()
    assert training.verdicts == ["proceed"] * NUM_STEPS
    alone = make_training("adamw", add_scaler, clip_norm=clip_norm).run(NUM_STEPS)
    assert list_differences(state, capture(alone)) == []
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 1
    assert "training goes on" in errors[0]
    assert "report it to the project's issue tracker" in errors[0]
    (trace,) = list_faults(tmp_path / "run")
    assert "Failure: a toy" in trace
    assert trace in errors[0]


@pytest.mark.parametrize("break_part", BREAKS)
def test_part_that_fails_raises_in_strict_mode(break_part: Break) -> None:
    """In strict mode a part that fails raises what it raised."""
    training = make_training("adamw")
    with break_part(training) as supervise, pytest.raises(Failure, match="a toy"):
        supervise(strict=True).run(NUM_STEPS)


def test_strict_mode_is_set_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """`TRIMTAB=strict` is strict mode, and without it faults are survived."""
    for value, is_strict in (("strict", True), ("", False)):
        monkeypatch.setenv("TRIMTAB", value)
        training = make_training("adamw")
        with break_probe(training) as supervise:
            try:
                supervise().run(2)
            except Failure:
                assert is_strict
            else:
                assert not is_strict


def test_steps_after_a_fault_are_judged_as_ever() -> None:
    """A bad batch right after a step at which a detector failed is skipped, its buffers put back."""
    training = make_training("adamw", spoil_batch(8))
    with break_detector(training, 7) as supervise:
        supervise(strict=False).run(7)
        before = {**capture_weights(training), **capture_buffers(training)}
        training.step()
        assert training.verdicts[-2:] == ["proceed", "skip"]
        assert list_differences(before, {**capture_weights(training), **capture_buffers(training)}) == []


def test_partner_that_cannot_be_restored_ruins_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Where a rollback fails half-way, the restored weights are not updated with the gradients of the ruined ones."""
    training = make_training("adamw", ruin_after_update(math.nan, 12))
    training.supervise(Fragile(loads=False), strict=False).run(NUM_STEPS)
    assert all(bool(torch.isfinite(parameter).all()) for parameter in training.model.parameters())
    assert "a toy partner failed" in caplog.text


def test_rerun_that_fails_lets_no_bad_batch_pass(caplog: pytest.LogCaptureFixture) -> None:
    """A bad batch is skipped even where computing its loss once more fails."""

    def fail(*_: object) -> torch.Tensor:
        raise Failure("a toy loss failed")

    training = make_training("adamw", spoil_batch(12)).supervise(compute_loss=fail, strict=False).run(NUM_STEPS)
    assert training.verdicts == ["proceed"] * 11 + ["skip"] + ["proceed"] * 12
    assert "a toy loss failed" in caplog.text


def test_run_folder_that_vanishes_leaves_the_run_alone(tmp_path: Path) -> None:
    """A run folder removed while training changes nothing and raises nothing."""
    training = make_training("adamw").supervise(run=tmp_path / "run").run(NUM_STEPS // 2)
    shutil.rmtree(tmp_path / "run")
    training.run(NUM_STEPS)
    state = capture(training)
    assert training.supervisor is not None
    training.supervisor.finish()
    assert list_differences(state, capture(make_training("adamw").run(NUM_STEPS))) == []


@pytest.mark.parametrize("parts", [pytest.param([], id="plain"), pytest.param([add_scaler], id="scaled")])
@pytest.mark.parametrize("clip_norm", [pytest.param(None, id="unclipped"), pytest.param(1.0, id="clipped")])
def test_switched_off_it_only_clips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip_norm: float | None, parts: list[Any]
) -> None:
    """With `TRIMTAB=off` nothing is found, written or undone, ruined weights included; clipping is PyTorch's."""
    monkeypatch.setenv("TRIMTAB", "off")

    def make() -> Training:
        return make_training("adamw", *parts, spoil_batch(12), clip_norm=clip_norm)

    training = make().supervise(run=tmp_path / "run").run(NUM_STEPS)
    state = capture(training)
    assert list_differences(state, capture(make().run(NUM_STEPS))) == []
    assert training.verdicts == ["proceed"] * NUM_STEPS
    assert isinstance(training.supervisor, Supervisor)
    assert training.supervisor.review(val_loss=math.nan).proceed
    training.supervisor.finish()
    assert len(training.supervisor.history) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(spoil_batch(12), id="nan-batch"),
        pytest.param(ruin_after_update(1e30, 12), id="overwritten-weight"),
    ],
)
def test_observing_policy_finds_and_does_nothing(tmp_path: Path, spoil: Callable[[Training], object]) -> None:
    """`Policy.observe()` finds and records a fault and leaves the run to its fate."""
    training = make_training("adamw", spoil).supervise(policy=Policy.observe(), run=tmp_path / "run").run(NUM_STEPS)
    state = capture(training)
    assert training.supervisor is not None
    training.supervisor.finish()
    assert list_differences(state, capture(make_training("adamw", spoil).run(NUM_STEPS))) == []
    assert training.verdicts == ["proceed"] * NUM_STEPS
    found = [finding.detector for decision in training.decisions for finding in decision.findings]
    assert "nonfinite" in found
    decision, action = next(iter(read_run(tmp_path / "run").records.values()))
    assert decision.findings[0].detector == "nonfinite"
    assert (decision.responses, action.verdict, action.changes) == ((), "proceed", ())


def test_watch_that_fails_leaves_the_decision_alone(caplog: pytest.LogCaptureFixture) -> None:
    """Where hooks for the next step cannot be registered, the step at hand is answered as ever."""

    def fail(_: Subject) -> Watch:
        raise Failure("a toy watch failed")

    with toy_probe(lambda _: {}, watch=fail):
        training = make_training("adamw", spoil_batch(1)).supervise(strict=False).run(NUM_STEPS)
    assert training.verdicts == ["skip"] + ["proceed"] * (NUM_STEPS - 1)
    assert "a toy watch failed" in caplog.text


def test_compute_loss_that_fails_is_the_users(caplog: pytest.LogCaptureFixture) -> None:
    """What the user's `compute_loss` raises is told in the record, and is no bug of ours."""

    def fail(*_: object) -> torch.Tensor:
        raise Failure("a toy loss failed")

    make_training("adamw", spoil_batch(12)).supervise(compute_loss=fail, strict=False).run(NUM_STEPS)
    assert "not computed again, since that failed: Failure: a toy loss failed" in caplog.text
    assert "This is a bug" not in caplog.text


@pytest.mark.parametrize(
    ("num_checks", "has_update", "is_warned"),
    [
        pytest.param(1, True, False, id="as-it-should-be"),
        pytest.param(2, True, True, id="two-checks-a-step"),
        pytest.param(1, False, True, id="no-update-at-all"),
    ],
)
def test_loop_without_updates_is_warned_about_once(
    num_checks: int, has_update: bool, is_warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A loop that checks without stepping the optimizer, or twice a step, is told so once."""
    training = make_training("adamw").supervise()
    assert training.supervisor is not None
    for _ in range(30):
        training.optimizer.zero_grad()
        loss = training.backward(*training.batches.draw())
        for _ in range(num_checks):
            training.supervisor.check(loss)
        if has_update:
            training.optimizer.step()
    assert caplog.text.count("check is called without an optimizer step in between") == int(is_warned)
