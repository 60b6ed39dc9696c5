"""Each format that other tools write is recognized and read: which column is which, and what belongs to which clock."""

from __future__ import annotations

import gzip
import json
from math import inf, nan
from pathlib import Path

import pytest

from tests.readers.logs import column, is_same, read, write
from trimtab.readers import read_log

LIGHTNING = """epoch,grad_2.0_norm_total,lr-AdamW,step,train_loss_epoch,train_loss_step,val_acc,val_loss
0,0.5,0.001,49,,2.31,,
0,,,99,,,0.55,2.25
0,0.4,0.001,99,,2.11,,
0,,,99,2.2,,,
1,0.3,0.0005,149,,1.9,,
"""

CHART = """"Step","sea-1 - train/loss","sea-1 - train/loss__MIN","sea-1 - train/loss__MAX","b - 2 - train/loss"
"10","2.5","2.4","2.6","9.5"
"20","2.25","2.2","2.3","9.25"
"30","","","","9"
"""

HISTORY = """_step,_runtime,train/global_step,train/loss,eval/loss
0,1.5,10,2.5,
1,2.5,20,2.25,
2,3,20,,3
"""

HISTORY_LINES = """{"_step": 1, "_timestamp": 1.7e9, "loss": 2.5, "w": {"_type": "histogram", "values": [1, 2]}}
{"_step": 2, "_timestamp": 1.7e9, "loss": "NaN"}
"""

POINTS = """run_id,key,value,timestamp,step
abc,train_loss,2.5,1700000000000,1
abc,train_loss,2.25,1700000002000,2
abc,val_loss,2.375,1700000002500,2
abc,lr,0.001,1700000000000,1
"""

POINTS_JSON = """[{"key": "loss", "value": 2.25, "step": 2, "timestamp": 9},
{"key": "loss", "value": 2.5, "step": 1, "timestamp": 8}]"""

TRAINER = {
    "global_step": 20,
    "max_steps": 100,
    "log_history": [
        {"loss": 2.5, "grad_norm": 1.5, "learning_rate": 5e-05, "epoch": 0.1, "step": 10},
        {"eval_loss": 2.375, "eval_runtime": 1.0, "eval_accuracy": 0.5, "epoch": 0.1, "step": 10},
        {"loss": nan, "grad_norm": "nan", "learning_rate": 4e-05, "epoch": 0.2, "step": 20},
        {"train_loss": 2.25, "train_runtime": 99.0, "total_flos": 1e15, "epoch": 0.2, "step": 20},
    ],
}

TWO = {1: 2.5, 2: 2.25}


@pytest.mark.parametrize(
    ("name", "text", "form", "loss", "val_loss"),
    [
        pytest.param("a.csv", "step,loss\n1,2.5\n2,2.25\n", "csv", TWO, {}, id="csv"),
        pytest.param(
            "a.txt", "Step;Train Loss\n1;2,5\n2;2,25\n", "csv", TWO, {}, id="csv-semicolons-and-decimal-commas"
        ),
        pytest.param("a.tsv", "step\ttrain/loss\tval/loss\n1\t2.5\t\n2\t2.25\t3\n", "csv", TWO, {2: 3}, id="tsv"),
        pytest.param("a.txt", "step  loss\n1     2.5\n2     2.25\n", "csv", TWO, {}, id="spaces"),
        pytest.param("a.csv", "# step,loss\n1,2.5\n2,2.25\n", "csv", TWO, {}, id="header-in-a-comment"),
        pytest.param("metrics.csv", LIGHTNING, "csv", {49: 2.31, 99: 2.11, 149: 1.9}, {99: 2.25}, id="lightning"),
        pytest.param(
            "k.csv",
            "epoch,accuracy,loss,val_loss\n0,0.5,2.5,3\n1,0.6,2.25,2.9\n",
            "csv",
            {0: 2.5, 1: 2.25},
            {0: 3, 1: 2.9},
            id="keras-csv",
        ),
        pytest.param(
            "run-a-tag-Loss_train.csv",
            "Wall time,Step,Value\n1.7e9,1,2.5\n1.7e9,2,2.25\n",
            "csv",
            TWO,
            {},
            id="tensorboard-page-csv",
        ),
        pytest.param(
            "a.jsonl", '{"step": 1, "loss": 2.5}\n{"step": 2, "loss": NaN}\n', "jsonl", {1: 2.5, 2: nan}, {}, id="jsonl"
        ),
        pytest.param(
            "a.log",
            '{"it": 1, "train": {"loss": "Infinity"}}\n{"it": 2, "val": {"loss": -Infinity}}\n',
            "jsonl",
            {1: inf},
            {2: -inf},
            id="jsonl-nested",
        ),
        pytest.param(
            "h.json", '{"loss": [2.5, 2.25], "val_loss": [3, 4]}', "json", TWO, {1: 3, 2: 4}, id="json-columns"
        ),
        pytest.param(
            "r.json", '[{"step": 1, "loss": 2.5}, {"step": 2, "loss": 2.25}]', "json", TWO, {}, id="json-records"
        ),
        pytest.param(
            "p.json", '{"loss": {"0": 2.5, "1": 2.25}, "step": {"0": 1, "1": 2}}', "json", TWO, {}, id="json-of-pandas"
        ),
        pytest.param(
            "trainer_state.json",
            json.dumps(TRAINER),
            "trainer-state",
            {10: 2.5, 20: nan},
            {10: 2.375},
            id="hugging-face",
        ),
        pytest.param("wandb.csv", CHART, "wandb", {10: 2.5, 20: 2.25}, {}, id="wandb-chart"),
        pytest.param(
            "history.csv",
            HISTORY,
            "wandb",
            {10: 2.5, 20: 2.25},
            {20: 3},
            id="wandb-history-csv",
        ),
        pytest.param(
            "history.jsonl",
            HISTORY_LINES,
            "wandb",
            {1: 2.5, 2: nan},
            {},
            id="wandb-history-jsonl",
        ),
        pytest.param("points.csv", POINTS, "mlflow", TWO, {2: 2.375}, id="mlflow-points-csv"),
        pytest.param(
            "points.json",
            POINTS_JSON,
            "mlflow",
            TWO,
            {},
            id="mlflow-points-json",
        ),
    ],
)
def test_reads(
    tmp_path: Path, name: str, text: str, form: str, loss: dict[int, float], val_loss: dict[int, float]
) -> None:
    """The losses of training and of validation are found, at their steps, whatever they are called."""
    log = read(tmp_path, name, text)
    assert log.format == form
    assert is_same(column(log, "loss"), loss)
    assert is_same(column(log, "val_loss", "review"), val_loss)
    assert column(log, "loss", "review") == column(log, "val_loss") == {}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        pytest.param(theirs, ours, id=theirs)
        for ours, names in {
            "loss": "loss Loss train_loss train/loss training_loss Loss/train nll trainLoss loss_step lm-loss",
            "grad_norm": "grad_norm gradient_norm train/grad_norm global_norm gnorm grad_2.0_norm_total",
            "learning_rate": "lr learning_rate LR lr-AdamW lr-Adam/pg1 train/learning_rate",
            "loss_scale": "loss_scale scale lossScale train/loss_scale",
            "weight_norm": "param_norm params-norm",
            "step_seconds": "step_time iter_time step_seconds",
            "train_accuracy": "acc accuracy train/acc train_accuracy",
        }.items()
        for theirs in names.split()
    ],
)
def test_knows_names(tmp_path: Path, theirs: str, ours: str) -> None:
    """A column is known by the names that are usual for it, in any case, and belongs to the step."""
    log = read(tmp_path, "a.csv", f"step,{theirs}\n1,2.5\n2,2.25\n")
    assert log.columns[theirs] == ours
    assert column(log, ours) == TWO


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        pytest.param(theirs, ours, id=theirs)
        for ours, names in {
            "val_loss": "val_loss eval_loss valid_loss validation/loss Loss/val dev/nll val_loss_epoch",
            "val_accuracy": "val_acc eval_accuracy validation/accuracy",
            "test_loss": "test_loss",
        }.items()
        for theirs in names.split()
    ],
)
def test_knows_names_of_reviews(tmp_path: Path, theirs: str, ours: str) -> None:
    """A metric of held-out data belongs to the review."""
    log = read(tmp_path, "a.csv", f"step,loss,{theirs}\n1,1,2.5\n2,1,2.25\n")
    assert column(log, ours, "review") == TWO


@pytest.mark.parametrize("name", ["global_step", "step", "Step", "iteration", "iter", "_step", "trainer/global_step"])
def test_knows_steps(tmp_path: Path, name: str) -> None:
    """The step is known by the names that are usual for it."""
    assert column(read(tmp_path, "a.csv", f"loss,{name}\n2.5,10\n2.25,20\n"), "loss") == {10: 2.5, 20: 2.25}


def test_better_name_wins(tmp_path: Path) -> None:
    """Of two columns that could be the loss, the likelier is; the other keeps its own name, and no number is lost."""
    log = read(tmp_path, "a.csv", "step,total_loss,loss,my-Thing\n1,9,2.5,7\n2,8,2.25,6\n")
    assert log.columns == {"step": "step", "loss": "loss", "total_loss": "total_loss", "my-Thing": "my_thing"}
    assert column(log, "total_loss") == {1: 9.0, 2: 8.0}
    assert column(log, "my_thing") == {1: 7.0, 2: 6.0}


def test_mapping_has_the_last_word(tmp_path: Path) -> None:
    """The caller's names come before the usual ones, for the step and for a review too."""
    text = "n,objective_a,loss,held\n10,2.5,9,3\n20,2.25,9,4\n"
    log = read(tmp_path, "a.csv", text, {"n": "step", "Objective_A": "loss", "held": "val_loss"})
    assert column(log, "loss") == {10: 2.5, 20: 2.25}
    assert column(log, "val_loss", "review") == {10: 3.0, 20: 4.0}
    assert column(log, "loss_2") == {10: 9.0, 20: 9.0}


def test_chart_of_several_runs(tmp_path: Path) -> None:
    """Of a chart with several runs the first is read and the others are named; the mapping chooses another."""
    first = read(tmp_path, "wandb.csv", CHART)
    assert "left out are 'b - 2'" in " ".join(first.notes)
    other = read(tmp_path, "wandb.csv", CHART, {"b - 2 - train/loss": "loss"})
    assert column(other, "loss") == {10: 9.5, 20: 9.25, 30: 9.0}


def test_milliseconds_become_seconds(tmp_path: Path) -> None:
    """A time in milliseconds is a time in seconds with us."""
    log = read(tmp_path, "a.csv", "step,loss,step_time_ms\n1,1,250\n")
    assert column(log, "step_seconds") == {1: 0.25}


def test_names_of_group_metrics_stay_free(tmp_path: Path) -> None:
    """One number under the name of a metric that we have per group, or of a state, is kept under another name."""
    log = read(tmp_path, "a.csv", "step,loss,update_ratio,state_step\n1,1,250,0\n")
    assert log.columns["update_ratio"] == "update_ratio_logged"
    assert log.columns["state_step"] == "state_step_logged"


def test_checkpoint_folders(tmp_path: Path) -> None:
    """Of an output folder of the Trainer the newest checkpoint is read, with what lies beside; no pickle is opened."""
    for step in (5, 10, 100):
        state = {"log_history": [{"loss": float(step), "step": step}], "max_steps": 7}
        write(tmp_path, f"out/checkpoint-{step}/trainer_state.json", json.dumps(state))
    write(tmp_path, "out/checkpoint-100/config.json", '{"torch_dtype": "bfloat16"}')
    write(tmp_path, "out/checkpoint-100/training_args.bin", b"\x80\x04cos\nsystem\n.")
    log = read_log(tmp_path / "out")
    assert column(log, "loss") == {100: 100.0}
    assert (log.info["dtype"], log.info["max_steps"]) == ("bfloat16", 7)


def test_summary_at_the_end_is_no_empty_cell(tmp_path: Path) -> None:
    """The Trainer ends its history with a summary without a loss; that is not taken for a loss that was NaN."""
    history = [{"loss": 2.5, "step": 10}, {"loss": 2.25, "step": 20}, {"train_loss": 2.4, "epoch": 1.0, "step": 25}]
    log = read(tmp_path, "trainer_state.json", json.dumps({"log_history": history}))
    assert column(log, "loss") == {10: 2.5, 20: 2.25}
    assert not any("empty" in note for note in log.notes)


def test_mlflow_store(tmp_path: Path) -> None:
    """A run in a local store of MLflow is read, from its folder or from the store that holds it alone."""
    run = "mlruns/0/abc"
    write(tmp_path, f"{run}/meta.yaml", "run_id: abc\n")
    write(tmp_path, f"{run}/metrics/train_loss", "1700000000000 2.5 1\n1700000001000 nan 2\n1700000002000 2 3\n")
    write(tmp_path, f"{run}/metrics/val/loss", "1700000002000 3.5 3\n")
    write(tmp_path, f"{run}/params/fp16", "True")
    for path in (tmp_path / run, tmp_path / "mlruns"):
        log = read_log(path)
        assert is_same(column(log, "loss"), {1: 2.5, 2: nan, 3: 2.0})
        assert column(log, "val_loss", "review") == {3: 3.5}
        assert log.info["dtype"] == "float16"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["unix", "windows", "carriage-return"])
def test_reads_any_encoding(tmp_path: Path, encoding: str, packed: bool, end: str) -> None:
    """A byte-order mark, another encoding, other ends of lines and compression change nothing."""
    content = end.join(["step,loss,größe", "1,2.5,7", "2,2.25,8", ""]).encode(encoding)
    log = read(tmp_path, "a.csv.gz" if packed else "a.csv", gzip.compress(content) if packed else content)
    assert column(log, "loss") == TWO
    assert len(log.columns) == 3
