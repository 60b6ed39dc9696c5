"""TensorBoard, Weights & Biases and MLflow, each for real: what they were told is there, and is read back."""

from __future__ import annotations

import importlib
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import require
from tests.integrations.runs import HEALTHY, make_parts
from tests.integrations.runs_trackers import NUM_STEPS, ROLLED_BACK, SKIPPED, train
from trimtab import InputError, Supervisor
from trimtab.diagnosis import diagnose
from trimtab.integrations import Tracker, export_run
from trimtab.integrations.mlflow import MLflowTracker
from trimtab.integrations.tensorboard import TensorBoardTracker
from trimtab.integrations.wandb import WandbTracker
from trimtab.readers import Log, read_log
from trimtab.readers.wandb_file import _read_records, _read_rows
from trimtab.readers.wire import DamageError, read_fields

ALERT, EXIT = 10, 18
"""The fields of an alert and of the end of a run in the file of Weights & Biases."""

MODULES = {"tensorboard": "TensorBoardTracker", "wandb": "WandbTracker", "mlflow": "MLflowTracker"}


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tool writes into the test's folder and asks no network."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlruns'}")
    monkeypatch.chdir(tmp_path)


def make_tensorboard(folder: Path, **options: Any) -> tuple[Tracker, Path]:
    require("tensorboard")
    return TensorBoardTracker(folder / "tb", **options), folder / "tb"


def make_wandb(folder: Path, **options: Any) -> tuple[Tracker, Path]:
    require("wandb")
    return WandbTracker(**{"dir": str(folder), **options}), folder / "wandb"


def make_mlflow(folder: Path, **options: Any) -> tuple[Tracker, Path]:
    require("mlflow")
    return MLflowTracker(**options), folder / "mlruns"


MAKERS: dict[str, Callable[..., tuple[Tracker, Path]]] = {
    "tensorboard": make_tensorboard,
    "wandb": make_wandb,
    "mlflow": make_mlflow,
}

each_tool = pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in MAKERS.items()])


def column(log: Log, metric: str, clock: str = "step") -> dict[int, float]:
    """The numbers of a metric by step."""
    found = ((each.step, each.values.get(metric)) for each in log.measurements if each.clock == clock)
    return {step: value for step, value in found if isinstance(value, float)}


def require_same(found: dict[int, float], expected: dict[int, float]) -> None:
    """See that two curves are the same, NaN included, up to the float32 of event files."""
    assert found.keys() == expected.keys()
    assert np.allclose(list(found.values()), list(expected.values()), rtol=1e-6, equal_nan=True)


@each_tool
@pytest.mark.parametrize("is_live", [pytest.param(True, id="live"), pytest.param(False, id="exported")])
def test_what_a_tool_was_told_is_read_back(
    make: Callable[..., tuple[Tracker, Path]], is_live: bool, tmp_path: Path
) -> None:
    """Every loss, norm and rate of a run with a NaN and a rollback is there, undone steps too, live and afterwards."""
    tracker, folder = make(tmp_path)
    train([tracker] if is_live else [], run=tmp_path / "run")
    if not is_live:
        export_run(tmp_path / "run", tracker)
    if folder.name == "wandb":
        wait_for_wandb(folder)
    ours, theirs = read_log(tmp_path / "run"), read_log(folder)
    for metric in ("loss", "grad_norm", "learning_rate", "step_seconds"):
        require_same(column(theirs, metric), column(ours, metric))
    require_same(column(theirs, "val_loss", "review"), column(ours, "val_loss", "review"))
    assert math.isnan(column(theirs, "loss")[SKIPPED])
    assert "loss-not-finite" in [each.name for each in diagnose(folder).causes]


@each_tool
def test_fewer_steps_are_written_where_asked_for(make: Callable[..., tuple[Tracker, Path]], tmp_path: Path) -> None:
    """With `every` each so many steps are written, and those with findings."""
    tracker, folder = make(tmp_path, every=10)
    train([tracker])
    if folder.name == "wandb":
        wait_for_wandb(folder)
    assert sorted(column(read_log(folder), "loss")) == sorted({*range(10, NUM_STEPS + 1, 10), ROLLED_BACK})


def read_events(folder: Path) -> Any:
    """What TensorBoard itself reads of one run."""
    loader = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    return loader.EventAccumulator(str(folder), size_guidance={"histograms": 0, "tensors": 0}).Reload()


def test_tensorboard_has_a_run_for_each_attempt(tmp_path: Path) -> None:
    """TensorBoard reads what came after a rollback as a run of its own, why it began, the findings, and histograms."""
    tracker, folder = make_tensorboard(tmp_path)
    train([tracker])
    first, second = read_events(folder), read_events(folder / "attempt-2")
    assert [each.step for each in first.Scalars("train/loss")] == list(range(1, ROLLED_BACK + 1))
    assert [each.step for each in second.Scalars("train/loss")] == list(range(ROLLED_BACK + 1, NUM_STEPS + 1))
    texts = [each.tensor_proto.string_val[0].decode() for each in first.Tensors("findings/text_summary")]
    assert len(texts) == 2
    assert texts[0].startswith("skip: nonfinite at step 20 — nonfinite: ")
    why = second.Tensors("attempt/text_summary")[0]
    assert why.tensor_proto.string_val[0].startswith(b"attempt 2 begins after the rollback at step 31 to step ")
    assert "groups/weight_norm" in first.Tags()["histograms"]
    assert [each.step for each in first.Histograms("groups/weight_norm")] == [SKIPPED, ROLLED_BACK]


def test_a_further_run_in_a_folder_of_tensorboard_is_a_further_attempt(tmp_path: Path) -> None:
    """A run that is gone on with, or another one, does not mix with what is there."""
    for _ in range(2):
        tracker, folder = make_tensorboard(tmp_path)
        train([tracker], HEALTHY, num_steps=5)
    assert len(read_events(folder).Scalars("train/loss")) == 5
    assert len(read_events(folder / "attempt-2").Scalars("train/loss")) == 5


def wait_for_wandb(folder: Path, name: str = "") -> Path:
    """The file of the run in a folder of Weights & Biases, once its own process has written the end of it."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for file in folder.glob(f"offline-run-*{name}/*.wandb"):
            try:
                records = list(_read_records(file.read_bytes()))
            except DamageError:
                continue
            if any(number == EXIT for record in records for number, _, _ in read_fields(record)):
                return file
        time.sleep(0.02)
    raise TimeoutError(f"{folder} has no run that was ended")


def read_alerts(folder: Path) -> list[list[str]]:
    """Title, text and level of each alert in the file of Weights & Biases."""
    content = wait_for_wandb(folder).read_bytes()
    fields = [each for record in _read_records(content) for each in read_fields(record)]
    alerts = [held for number, _, held in fields if number == ALERT and isinstance(held, bytes)]
    return [
        [str(text, "utf-8") for n, _, text in read_fields(each) if n < 4 and isinstance(text, bytes)] for each in alerts
    ]


def read_rows(folder: Path) -> list[dict[str, float]]:
    """The history in the file of Weights & Biases."""
    return [dict(cells) for _, cells in _read_rows(wait_for_wandb(folder).read_bytes(), [])]


def test_wandb_has_alerts_and_attempts(tmp_path: Path) -> None:
    """What was answered is an alert of its level, and each row has the attempt that it belongs to."""
    tracker, folder = make_wandb(tmp_path)
    train([tracker])
    (skipped, rolled_back) = read_alerts(folder)
    assert skipped[0] == "skip: nonfinite at step 20"
    assert skipped[1].startswith("nonfinite: ")
    assert {skipped[2], rolled_back[2]} <= {"WARN", "ERROR"}
    attempts = {
        int(each["trimtab/step"]): each["trimtab/attempt"] for each in read_rows(folder) if "train/loss" in each
    }
    assert attempts == {step: 1 + (step > ROLLED_BACK) for step in range(1, NUM_STEPS + 1)}


def test_wandb_uses_the_run_that_is_active(tmp_path: Path) -> None:
    """Into a run of the loop's own it writes below `trimtab/`, and leaves it open."""
    require("wandb")
    wandb = importlib.import_module("wandb")
    with wandb.init(dir=tmp_path) as run:
        train([WandbTracker()], HEALTHY, num_steps=5)
        run.log({"train/loss": 7.0})
        assert wandb.run is run
    rows = read_rows(tmp_path / "wandb")
    assert [each["trimtab/step"] for each in rows if "trimtab/train/loss" in each] == [1, 2, 3, 4, 5]
    assert [each["train/loss"] for each in rows if "train/loss" in each] == [7.0]
    assert column(read_log(tmp_path / "wandb"), "grad_norm").keys() == {1, 2, 3, 4, 5}


def test_wandb_leaves_an_active_run_alone_where_it_has_options(tmp_path: Path) -> None:
    """With options it starts a run of its own beside one that is active, and finishes it."""
    require("wandb")
    wandb = importlib.import_module("wandb")
    with wandb.init(id="loop", dir=tmp_path) as run:
        train([WandbTracker(id="own", dir=tmp_path)], HEALTHY, num_steps=5)
        assert wandb.run is run
        run.log({"x": 1.0}, step=1)
    wait_for_wandb(tmp_path / "wandb", "own")
    assert column(read_log(next(tmp_path.glob("wandb/*-own"))), "loss").keys() == {1, 2, 3, 4, 5}
    with pytest.raises(InputError, match="holds 2 runs; name the folder of one of "):
        read_log(tmp_path / "wandb")


def read_tags(folder: Path) -> dict[str, str]:
    """The tags in the local store of MLflow."""
    return {each.name: each.read_text() for each in folder.glob("*/*/tags/*")}


def test_mlflow_has_findings_and_attempts_as_tags(tmp_path: Path) -> None:
    """Tags say what was found by which detector, how an attempt began, and the run's status that it finished."""
    tracker, folder = make_mlflow(tmp_path, groups_every=30)
    train([tracker])
    tags = read_tags(folder)
    assert tags["trimtab.attempt-2"].startswith("attempt 2 begins after the rollback at step 31 to step ")
    assert tags["trimtab.found.nonfinite"].startswith("step 31: ")
    assert tags["trimtab.newest-finding"].startswith("rollback: nonfinite at step 31: ")
    assert "status: 3" in next(folder.glob("*/*/meta.yaml")).read_text()
    attempts = next(folder.glob("*/*/metrics/trimtab/attempt")).read_text().split("\n")[:-1]
    assert [float(each.split()[1]) for each in attempts if each.endswith((" 31", " 32"))] == [1.0, 2.0]
    norms = next(folder.glob("*/*/metrics/groups/weight_norm/layers.0")).read_text().split("\n")[:-1]
    assert [int(each.split()[2]) for each in norms] == [SKIPPED, 30, ROLLED_BACK, 60]


def test_mlflow_uses_the_run_that_is_active(tmp_path: Path) -> None:
    """Into a run of the loop's own it writes below `trimtab/` and leaves it open; a second training is an attempt."""
    require("mlflow")
    mlflow = importlib.import_module("mlflow")
    with mlflow.start_run() as run:
        for _ in range(2):
            train([MLflowTracker()], HEALTHY, num_steps=5)
        mlflow.log_metric("train/loss", 7.0, step=9)
        assert mlflow.active_run().info.run_id == run.info.run_id
    (folder,) = (each.parent for each in (tmp_path / "mlruns").glob("*/*/meta.yaml"))
    assert len((folder / "metrics/trimtab/train/loss").read_text().split("\n")) == 11
    told = (folder / "metrics/trimtab/attempt").read_text().split("\n")[:-1]
    assert [float(each.split()[1]) for each in told] == [1.0] * 5 + [2.0] * 5


def test_mlflow_says_that_a_run_failed(tmp_path: Path) -> None:
    """A run that failed has failed there too."""
    tracker, folder = make_mlflow(tmp_path)
    model, optimizer, _ = make_parts()
    supervisor = Supervisor(model, optimizer, trackers=[tracker])
    supervisor.check(1.0)
    supervisor.finish("failed: RuntimeError")
    assert "status: 4" in next(folder.glob("*/*/meta.yaml")).read_text()


@pytest.mark.parametrize("module", MODULES)
def test_a_missing_package_is_named(module: str) -> None:
    """Without the package the tracker says which extra to install, and importing trimtab imports none of them."""
    code = (
        f"import sys; import trimtab, trimtab.integrations; assert {module!r} not in sys.modules\n"
        f"sys.modules[{module!r}] = None\n"
        f"from trimtab.integrations.{module} import {MODULES[module]} as Tracker\n"
        "try:\n    Tracker(*(['x'] if 'Board' in Tracker.__name__ else []))\n"
        "except trimtab.InputError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == (f"{MODULES[module]}: it needs the package {module}: pip install trimtab[{module}]\n")


@each_tool
@pytest.mark.parametrize("every", [0, -1, 2.5])
def test_a_cadence_out_of_range_is_refused(
    make: Callable[..., tuple[Tracker, Path]], every: float, tmp_path: Path
) -> None:
    """Steps from one record to the next are a whole number above 0."""
    with pytest.raises(InputError, match="it has to be a whole number above 0"):
        make(tmp_path, every=every)
