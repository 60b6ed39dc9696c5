"""The diagnosis of a run that a supervisor has just ended: in the exception, in its message, and in the run folder."""

from __future__ import annotations

import gc
import pickle
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from trimtab import Halted, Policy, Supervisor, diagnose
from trimtab.diagnosis.live import diagnose_halted
from trimtab.history import History
from trimtab.journal import read_run
from trimtab.types import Decision, Measurement

FIRST_BAD = 80


def run_to_halt(is_strict: bool = True, **options: Any) -> Halted:
    """Train on batches that hold NaN from some step on, until the supervisor ends the run."""
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    supervisor = Supervisor(model, optimizer, strict=is_strict, **options)
    for step in range(1, 1000):
        inputs = torch.randn(8, 3)
        if step >= FIRST_BAD:
            inputs[2, 1] = torch.nan
        loss = model(inputs).square().mean()
        optimizer.zero_grad()
        loss.backward()
        try:
            supervisor.check(loss, batch=inputs)
        except Halted as halted:
            return halted
        optimizer.step()
    raise AssertionError("the run was not halted")


def test_halt_says_its_cause() -> None:
    """The message of a halt names the likely cause, and its diagnosis has evidence and fix."""
    halted = run_to_halt(compute_loss=lambda model, batch: model(batch).square().mean())
    assert halted.diagnosis.verdict == "failed"
    assert halted.diagnosis.causes[0].name == "batch-not-finite"
    assert halted.diagnosis.causes[0].step == FIRST_BAD
    assert f"the likely cause is batch-not-finite (confidence 0.99) from step {FIRST_BAD}" in str(halted)


def test_diagnosis_is_in_the_run_folder(tmp_path: Path) -> None:
    """The run folder has the diagnosis as an event before its end, and names the cause that `diagnose` names."""
    halted = run_to_halt(run=tmp_path / "run")
    events = read_run(tmp_path / "run").events
    (told,) = (each for each in events if each["event"] == "diagnosis")
    assert events[-1]["event"] == "end"
    assert told["causes"][0]["cause"] == halted.diagnosis.causes[0].name == "loss-not-finite"
    assert diagnose(tmp_path / "run").causes[0].name == "loss-not-finite"


def test_diagnosis_that_fails_leaves_the_halt_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever fails in the diagnosis, the run is halted all the same, with its reason, and its folder is closed."""
    monkeypatch.setattr("trimtab.supervisor.diagnose_halted", None)
    halted = run_to_halt(is_strict=False, run=tmp_path / "run")
    assert halted.diagnosis is None
    assert str(halted).startswith("the supervisor halted the run at step")
    assert read_run(tmp_path / "run").events[-1]["status"] == "halted"


def test_halt_does_not_keep_the_model() -> None:
    """A halt that is kept does not keep the model or its optimizer in memory."""
    model = nn.Linear(3, 1)
    supervisor = Supervisor(
        model, torch.optim.SGD(model.parameters(), lr=0.1), policy=Policy.from_dict({"detectors": HALT_AT_ONCE})
    )
    with pytest.raises(Halted) as caught:
        supervisor.check(torch.tensor(torch.nan))
    halted = caught.value.with_traceback(None)
    alive = weakref.ref(model)
    del model, supervisor, caught
    gc.collect()
    assert alive() is None
    assert halted.diagnosis.verdict == "failed"


HALT_AT_ONCE = {"nonfinite": {"ladder": ["halt"]}}


def test_halt_goes_to_another_process() -> None:
    """A halt can be pickled, with its decision and its diagnosis."""
    halted = run_to_halt()
    copied = pickle.loads(pickle.dumps(halted))
    assert str(copied) == str(halted)
    assert repr(copied.decision) == repr(halted.decision)  # it holds NaN, which is equal to nothing


def test_metric_that_is_nan_is_told_from_one_that_was_not_measured() -> None:
    """A loss without a number is NaN; a metric of sampled steps without one was not measured there."""
    history = History(("body",))
    for step in range(1, 61):
        values: dict[str, Any] = {"loss": np.nan if step > 50 else 1.0 / step}
        if step % 10 == 0:
            values["update_ratio"] = (1e-3,)
        history.append(Measurement(step, values))
        history.close(accepted=step <= 50)
    diagnosis = diagnose_halted(history, History(), [Decision(60, "halt", reason="enough")])
    assert diagnosis.causes[0].name == "loss-not-finite"
    assert diagnosis.causes[0].step == 51
    assert not any("update_ratio" in line for cause in diagnosis.causes for line in cause.evidence)
