"""What `read_log` takes and refuses, and that a run folder of our own is read as it is."""

from __future__ import annotations

import pickle
import subprocess
import sys
from math import nan
from pathlib import Path

import pytest

from tests.readers.logs import column, is_same, write
from trimtab.detectors import detect, detectors
from trimtab.errors import InputError, RunFormatError
from trimtab.history import History
from trimtab.journal import Journal, describe_run
from trimtab.readers import read_log, readers
from trimtab.types import Decision, Measurement, Record, Value


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        pytest.param("a.csv", "", "is empty", id="empty"),
        pytest.param("a.csv", "  \n\n", "is empty", id="blank"),
        pytest.param("a.csv", "step,loss\n", "has no line of numbers that could be read", id="header-alone"),
        pytest.param("a.csv", "step,loss\nx,y\n", "has no line of numbers that could be read", id="texts-alone"),
        pytest.param(
            "a.csv", "a,b\n1,2\n", "no column that is known by its name among 'a', 'b'; say which", id="unknown"
        ),
        pytest.param("a.csv", "step,epoch\n1,2\n", "no column that is known by its name", id="nothing-measured"),
        pytest.param("a.csv", "step,loss\n-1,2\n", "no entry has a step that is a whole number", id="no-usable-step"),
        pytest.param("a.csv", b"\x80\0\x03\1", "is a binary file of no known format", id="binary-csv"),
        pytest.param("a.json", '{"loss": [1, 2', "is damaged JSON", id="cut-json"),
        pytest.param("a.json", "[" * 100_000, "is damaged JSON", id="deep-json"),
        pytest.param("a.json", '{"lr": 1}', "holds neither a list of records nor columns", id="json-of-settings"),
        pytest.param("trainer_state.json", "{}", "has no log_history", id="state-without-history"),
        pytest.param("a.txt", "it was a dark and stormy night\n", "is of no known format", id="prose"),
        pytest.param("a.pt", pickle.dumps({"loss": [1.0, 2.0]}), "is of no known format", id="pickle"),
        pytest.param("runs.csv", "run_id,metrics.loss\nabc,2\n", "has one line for each run", id="mlflow-runs"),
        pytest.param("mlflow.db", b"SQLite format 3\0" + bytes(84), "is a database, as MLflow", id="database"),
        pytest.param(
            "events.out.tfevents.1",
            b"nonsense" * 9,
            "could be read: events.out.tfevents.1: it is damaged at byte 0",
            id="no-event-file",
        ),
    ],
)
def test_refuses(tmp_path: Path, name: str, text: str | bytes, sentence: str) -> None:
    """What cannot be read is refused in a sentence that names the file or says what is missing."""
    with pytest.raises(InputError, match=r"^log: ") as raised:
        read_log(write(tmp_path, name, text))
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("mapping", "sentence"),
    [
        pytest.param({"los": "loss"}, "the log has no column 'los' of numbers; it has step, loss, a", id="not-there"),
        pytest.param({"a": "Loss!"}, "'a' cannot be called 'Loss!'", id="no-name"),
        pytest.param({"a": "weight norm"}, "'a' cannot be called 'weight norm'", id="two-words"),
        pytest.param({"a": "group_grad_norm"}, "'a' cannot be called 'group_grad_norm'", id="per-group"),
        pytest.param({"a": "loss", "loss": "loss"}, "two columns are called 'loss'", id="twice"),
    ],
)
def test_refuses_mapping(tmp_path: Path, mapping: dict[str, str], sentence: str) -> None:
    """A mapping that cannot be meant is refused, with what there is."""
    with pytest.raises(InputError) as raised:
        read_log(write(tmp_path, "a.csv", "step,loss,a\n1,2,3\n"), mapping)
    assert str(raised.value).startswith(f"mapping: {sentence}")


def test_refuses_unknown_format_and_missing_file(tmp_path: Path) -> None:
    """A format that there is not, and a file that is not there, are said to be so."""
    path = write(tmp_path, "a.csv", "step,loss\n1,2\n")
    with pytest.raises(InputError, match="there is no format 'xls'; there are csv, json, jsonl, mlflow"):
        read_log(path, format="xls")
    with pytest.raises(InputError, match="is not there"):
        read_log(tmp_path / "b.csv")


def test_format_can_be_named(tmp_path: Path) -> None:
    """A named format is used whatever the file looks like."""
    path = write(tmp_path, "numbers", "1,2.5\n2,2.25\n")
    log = read_log(path, {"column_1": "step", "column_2": "loss"}, format="csv")
    assert column(log, "loss") == {1: 2.5, 2: 2.25}


@pytest.mark.parametrize(
    "others",
    [
        pytest.param({}, id="alone"),
        pytest.param({"hparams.yaml": "lr: 0.1\n", "model.pt": "PK"}, id="beside-what-is-no-log"),
        pytest.param({"notes.txt": "step 1 loss 7\n"}, id="beside-a-text"),
    ],
)
def test_folder_stands_for_its_log(tmp_path: Path, others: dict[str, str]) -> None:
    """A folder that holds one log stands for it; a table is preferred to a text."""
    write(tmp_path, "version_0/metrics.csv", "step,loss\n1,2.5\n")
    for name, text in others.items():
        write(tmp_path, f"version_0/{name}", text)
    assert column(read_log(tmp_path / "version_0"), "loss") == {1: 2.5}


def test_folder_without_choice_is_refused(tmp_path: Path) -> None:
    """A folder with several logs, or with none, is refused; one folder in it with a log stands for it."""
    write(tmp_path, "two/a.csv", "step,loss\n1,2.5\n")
    write(tmp_path, "two/b.csv", "step,loss\n1,2.5\n")
    write(tmp_path, "none/a.bin", b"\0\1")
    with pytest.raises(InputError, match=r"holds several logs; name one of a\.csv, b\.csv"):
        read_log(tmp_path / "two")
    write(tmp_path, "logs/version_0/metrics.csv", "step,loss\n1,2.5\n")
    assert column(read_log(tmp_path / "logs"), "loss") == {1: 2.5}
    write(tmp_path, "logs/version_1/metrics.csv", "step,loss\n1,3.5\n")
    with pytest.raises(InputError, match="holds several logs; name one of version_0, version_1"):
        read_log(tmp_path / "logs")
    with pytest.raises(InputError, match="a folder without a log"):
        read_log(tmp_path / "none")


def test_run_folder_is_read_as_it_is(tmp_path: Path) -> None:
    """Our own run folder keeps its metrics, per-group ones included; what a resumed run redid counts once."""
    manifest = describe_run(["a", "b"], ["weight_norm"], ["torch.bfloat16"], {})
    taken = [(1, 3.0), (2, nan), (3, 1.0), (2, 5.0)]
    journal = Journal(tmp_path / "run", manifest)
    for step, loss in taken:
        values: dict[str, Value] = {"loss": loss, "learning_rate": 0.5, "weight_norm": (1.0, 2.0)}
        journal.write(Record(Measurement(step, values), Decision(step)))
    journal.write(Record(Measurement(2, {"val_loss": 4.0}, "review"), Decision(2, clock="review")))
    journal.close()
    log = read_log(tmp_path / "run")
    assert log.format == "trimtab"
    assert is_same(column(log, "loss"), {1: 3.0, 2: 5.0})
    assert log.measurements[0].values["weight_norm"] == (1.0, 2.0)
    assert [(each.step, each.clock) for each in log.measurements][-1] == (2, "review")
    assert log.notes == ("the run went back from step 3 to 2; the later of the two is kept",)
    assert (log.info["groups"], log.info["dtype"], log.info["learning_rate"]) == (("a", "b"), "bfloat16", 0.5)


def test_run_folder_that_is_damaged(tmp_path: Path) -> None:
    """A run folder that cannot be read is refused as such, and one is never mapped."""
    write(tmp_path, "run/manifest.json", '{"format": 999}')
    write(tmp_path, "run/journal.jsonl", "")
    with pytest.raises(RunFormatError, match="format 999"):
        read_log(tmp_path / "run")
    with pytest.raises(InputError, match="whose metrics have their names already"):
        read_log(tmp_path / "run", {"a": "loss"})


def test_every_reader_has_a_manual() -> None:
    """Each reader says what it reads."""
    assert all(len(each.manual) > 40 for each in readers.values())


def test_what_the_log_tells_of_the_run(tmp_path: Path) -> None:
    """The tool, the largest learning rate, and float16 where there is a loss scale."""
    log = read_log(write(tmp_path, "a.csv", "step,loss,lr,loss_scale\n1,2,0.1,65536\n2,2,0.2,65536\n"))
    counts = {"num_entries": 2, "num_skipped": 0, "num_duplicates": 0, "num_restarts": 0}
    assert log.info == {**counts, "learning_rate": 0.2, "dtype": "float16"}


def test_no_other_package_is_imported() -> None:
    """Reading needs neither pandas nor torch, TensorBoard or protocol buffers."""
    code = "import sys, trimtab.readers; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(result.stdout.split())
    assert "trimtab.readers.tensorboard" in loaded
    assert not {"pandas", "torch", "tensorboard", "google.protobuf"} & loaded


def test_detectors_judge_a_log(tmp_path: Path) -> None:
    """A log of another tool goes through every detector as a live run does, and its NaN is found where it is."""
    lines = [f"{step},{2 + step % 3 / 10},1.5,0.1,65536,7" for step in range(1, 61)]
    lines[49] = "50,nan,1.5,0.1,65536,7"
    path = write(tmp_path, "a.csv", "\n".join(["step,loss,grad_norm,lr,loss_scale,weight_norm", *lines]))
    history, found = History(), set[tuple[str, int]]()
    for measurement in read_log(path).measurements:
        history.append(measurement)
        findings = detect(history, {name: {} for name in detectors})
        found |= {(each.detector, each.step) for each in findings}
        history.close(accepted=not findings)
    assert found == {("nonfinite", 50)}
