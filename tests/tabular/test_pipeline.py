"""From a file to a model, its embeddings and a card; stopped and gone on with; and the commands."""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from tests.conftest import require
from trimtab.cli import app
from trimtab.errors import InputError
from trimtab.tabular import TabularEmbedder, fit_table, read_table
from trimtab.tabular.network import Shape
from trimtab.tabular.training import Settings, train

require("pandas", "pyarrow", "sklearn")

SMALL: dict[str, Any] = {"epochs": 2, "dimensions": 8, "hidden": 8, "progress": False}


@pytest.fixture(autouse=True, scope="module")
def _few_objects() -> Iterator[None]:
    """A training collects garbage, which takes as long as there are objects: those of all tests are passed over."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A table whose target is told by two of its columns."""
    return write_data(tmp_path / "data.csv")


def write_data(path: Path, num: int = 400, **columns: Any) -> Path:
    generator = np.random.default_rng(0)
    kind, size = generator.choice(["red", "green", "blue"], num), generator.normal(size=num)
    wins = np.where((kind == "red") & (size > 0), "yes", "no")
    frame = pd.DataFrame({"id": range(num), "kind": kind, "size": size, "price": 3 * size, "wins": wins, **columns})
    frame.to_csv(path, index=False)
    return path


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments], env={"COLUMNS": "200"})


def test_everything_is_written(data: Path, tmp_path: Path) -> None:
    """The model, an embedding of each row, a run folder, and a card that says what was read, dropped and learned."""
    fitted = fit_table(data, tmp_path / "out", target="wins", **SMALL)
    names = {each.name for each in fitted.folder.iterdir()}
    assert names == {"run", "model.safetensors", "embedder.json", "embeddings.parquet", "columns.json", "card.json",
                     "card.html"}  # fmt: skip
    card = json.loads((fitted.folder / "card.json").read_text())
    assert card["read"]["rows"] == 400
    assert {each["name"]: each["kind"] for each in card["columns"]} == {
        "id": "identifier",
        "kind": "categorical",
        "size": "scalar",
        "price": "scalar",
        "wins": "dropped",
    }
    assert all(each["reason"] for each in card["columns"])
    assert card["learned"]["status"] == "finished"
    assert 0 < card["quality"]["recall_at_1"] <= card["quality"]["recall_ceiling"] <= 1
    embeddings = pd.read_parquet(fitted.folder / "embeddings.parquet")
    assert embeddings["row"].tolist() == list(range(400))
    assert np.allclose([np.linalg.norm(each) for each in embeddings["embedding"]], 1, atol=1e-5)
    page = (fitted.folder / "card.html").read_text(encoding="utf-8")
    assert "whole numbers that are unique, under the name" in page
    assert "What each column was taken for" in page


def test_a_stalled_training_goes_on_with_other_rows(data: Path) -> None:
    """With partitions it trains on a part of the rows, and on the next part where validations no longer improve."""
    shape = Shape(hidden=8, dimensions=8)
    whole = Settings(shape=shape, epochs=4, learning_rate=1e-12, patience=1, batch_size=32)
    table = read_table(data)
    results = [train(table, settings=each).result for each in (whole, replace(whole, partitions=2))]
    assert [[each.name for each in result.adaptations] for result in results] == [[], ["rotation-1"]]
    assert [result.reviews[0].step for result in results] == [11, 5]  # batches of 360 rows, and of half of them


def test_groups_bear_the_names_of_columns(data: Path, tmp_path: Path) -> None:
    """The gradient of each column is measured by itself, under its name."""
    fitted = fit_table(data, tmp_path / "out", **SMALL)
    manifest = json.loads((fitted.run / "manifest.json").read_text())
    assert {"kind", "size", "price", "wins", "(joint)", "(decoder)"} == set(manifest["groups"])


def test_a_target_is_not_shown_and_is_told(data: Path, tmp_path: Path) -> None:
    """The model does not know the target's column; a head on its embeddings tells it better than guessing."""
    fitted = fit_table(data, tmp_path / "out", target="wins", **{**SMALL, "epochs": 40, "dimensions": 32, "hidden": 32})
    assert "wins" not in fitted.embedder.model_.names
    head = fitted.card["target"]
    assert head["accuracy"] > head["accuracy_of_guessing"] + 0.05
    assert (head["num_trained_on"], head["num_held_out"]) == (320, 80)


def test_a_number_is_a_target_too(data: Path, tmp_path: Path) -> None:
    """Of a target that is a number the share of the variance is measured that is told."""
    wishes = {**SMALL, "epochs": 40, "dimensions": 32, "hidden": 32, "columns": {"size": "scalar"}}
    fitted = fit_table(data, tmp_path / "out", target="price", **wishes)
    assert fitted.card["target"]["r2"] > 0.6


LEAKS: dict[str, tuple[str, dict[str, Any]]] = {
    "copy": ("wins", {"copy": lambda frame: frame["wins"].map({"yes": "won", "no": "lost"})}),
    "code": ("wins", {"code": lambda frame: (frame["wins"] == "yes") * 1.5 + 0.25}),
    "nearly": ("wins", {"nearly": lambda frame: frame["wins"].where(frame.index % 200 > 0, "no")}),
    "in-euros": ("price", {"euros": lambda frame: frame["price"] * 0.9 + 1}),
}


@pytest.mark.parametrize(("target", "columns"), LEAKS.values(), ids=LEAKS.keys())
def test_what_gives_the_target_away_is_left_out(
    target: str, columns: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    """A column that tells the target alone is named and not learned from, unless that is asked for."""
    frame = pd.read_csv(data).drop(columns="size")
    (name,) = columns
    frame.assign(**columns).to_csv(data, index=False)
    fitted = fit_table(data, tmp_path / "out", target=target, **SMALL)
    assert "tells the target alone" in fitted.embedder.types_[name].reason
    kept = fit_table(data, tmp_path / "kept", target=target, columns={name: "categorical"}, **SMALL)
    assert name in kept.embedder.model_.names


def test_what_tells_much_of_the_target_is_kept(tmp_path: Path) -> None:
    """A column by which two thirds of the target are told gives nothing away."""
    wins = ["yes", "no"] * 200
    guesses = [each if place % 5 else "no" for place, each in enumerate(wins)]
    data = write_data(tmp_path / "data.csv", guess=[f"team {each}" for each in guesses], wins=wins)
    assert "guess" in fit_table(data, tmp_path / "out", target="wins", **SMALL).embedder.model_.names


@pytest.mark.parametrize(
    ("target", "columns", "message"),
    [
        pytest.param("zap", {}, "no column 'zap'; it has id, kind", id="no-such-column"),
        pytest.param("id", {}, "its kind is identifier", id="identifier"),
        pytest.param("id", {"id": "categorical"}, "it has 400 values; 200 are the most", id="too-many-classes"),
    ],
)
def test_a_target_that_cannot_be_gets_one_sentence(
    target: str, columns: dict[str, str], message: str, data: Path, tmp_path: Path
) -> None:
    """A target has to be a number or a class."""
    with pytest.raises(InputError, match=message):
        fit_table(data, tmp_path / "out", target=target, columns=columns, **SMALL)


def test_called_again_it_returns_at_once(data: Path, tmp_path: Path) -> None:
    """A run that has finished is not made again, and gives the same model bit for bit."""
    first = fit_table(data, tmp_path / "out", **SMALL)
    second = fit_table(data, tmp_path / "out", **SMALL)
    assert first.run == second.run
    assert second.trained.result.num_steps == first.trained.result.num_steps
    assert (first.embedder.transform(data) == second.embedder.transform(data)).all()


CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "new-column": ({"extra": ["a", "b"] * 200}, {}, "columns that are new: extra"),
    "other-kind": ({}, {"columns": {"id": "scalar"}}, "columns that are something else now: id"),
    "left-out": ({}, {"ignore": ["size"]}, "columns that are something else now: size"),
    "other-setting": ({}, {"dimensions": 16}, "the settings are others"),
}


@pytest.mark.parametrize(("columns", "wishes", "said"), CHANGES.values(), ids=CHANGES.keys())
def test_another_table_begins_anew_and_says_so(
    columns: dict[str, Any], wishes: dict[str, Any], said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With other columns or settings the run in the folder is left as it is, and another is begun beside it."""
    before = fit_table(write_data(tmp_path / "data.csv"), tmp_path / "out", **SMALL)
    journal = (before.run / "journal.jsonl").read_bytes()
    with caplog.at_level(logging.WARNING, logger="trimtab"):
        after = fit_table(write_data(tmp_path / "data.csv", **columns), tmp_path / "out", **{**SMALL, **wishes})
    assert (after.run.name, before.run.name) == ("run-2", "run")
    assert said in caplog.text
    assert any(said in each for each in after.card["read"]["notes"])
    assert (before.run / "journal.jsonl").read_bytes() == journal
    assert after.trained.result.num_steps > 0


FIT = """
import sys
from trimtab.tabular import fit_table
fit_table(sys.argv[1], sys.argv[2], epochs=40, dimensions=8, hidden=8, batch_size=16, progress=False)
"""


def test_killed_and_gone_on_with_it_is_the_same(data: Path, tmp_path: Path) -> None:
    """A run that was killed in the middle gives the model of one that was not, bit for bit."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", FIT, str(data), str(tmp_path / "killed")]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    checkpoints = tmp_path / "killed" / "run" / "checkpoints"
    for _ in range(1200):
        if process.poll() is not None or (checkpoints.is_dir() and len(list(checkpoints.glob("step-*"))) >= 2):
            break
        time.sleep(0.05)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "embedder.json").exists()
    subprocess.run(command, env=environment, check=True)
    subprocess.run([*command[:-1], str(tmp_path / "whole")], env=environment, check=True)
    vectors = [TabularEmbedder.load(tmp_path / name).transform(data) for name in ("killed", "whole")]
    assert (vectors[0] == vectors[1]).all()
    rows = [pd.read_parquet(tmp_path / name / "run" / "rows.parquet") for name in ("killed", "whole")]
    pd.testing.assert_frame_equal(*rows)


def test_commands(data: Path, tmp_path: Path) -> None:
    """`fit` says what it made, `embed` writes embeddings of other rows, `nearest` lists the nearest of a row."""
    result = call("fit", data, "--out", tmp_path / "out", "--epochs", "2", "--dimensions", "8", "--target", "wins")
    assert result.exit_code == 0, result.output
    for said in ("400 rows", "1 identifier", "finished after", "recall_at_1", "target wins: accuracy", "card.html"):
        assert said in result.stdout
    partial = tmp_path / "partial.csv"
    pd.DataFrame({"size": [0.5, 1.5, 2.5]}).to_csv(partial, index=False)
    result = call("embed", tmp_path / "out", partial, "-o", tmp_path / "vectors.parquet")
    assert result.exit_code == 0, result.output
    assert "it lacks price, kind, which count as missing" in result.stdout
    assert len(pd.read_parquet(tmp_path / "vectors.parquet")) == 3
    result = call("nearest", tmp_path / "out", data, "--row", "7", "--num", "3", "--json")
    rows = json.loads(result.stdout)
    assert rows[0]["row"] == 7
    assert len({each["row"] for each in rows}) == 4
    assert rows[1]["cosine"] >= rows[2]["cosine"] >= rows[3]["cosine"]
    assert "kind" in call("nearest", tmp_path / "out", data).stdout


def test_fit_says_what_columns_are(data: Path) -> None:
    """`trimtab fit --dry` lists each column with its kind and why, and trains nothing."""
    result = call("fit", data, "--dry", "--column", "id=categorical", "--ignore", "price")
    assert result.exit_code == 0, result.output
    assert "as was asked for" in result.stdout
    columns = json.loads(call("fit", data, "--dry", "--json").stdout)["columns"]
    assert [each["kind"] for each in columns] == ["identifier", "categorical", "scalar", "scalar", "boolean"]
    assert list(data.parent.iterdir()) == [data]


BAD_CALLS: dict[str, tuple[list[str], str]] = {
    "no-file": (["fit", "nowhere.csv"], "there is no file 'nowhere.csv'"),
    "half-a-column": (["fit", "data.csv", "--column", "id"], "--column 'id' has to be two names"),
    "no-kind": (["fit", "data.csv", "--column", "id=number"], "there is no kind 'number'"),
    "no-joint": (["fit", "data.csv", "--joint", "lstm", "--out", "x"], "joint is 'lstm'"),
    "no-embedder": (["embed", "data.csv", "data.csv", "-o", "x.parquet"], "holds no embedder"),
    "no-run": (["nearest", "nowhere", "data.csv"], "holds no embedder"),
}


@pytest.mark.parametrize(("arguments", "said"), BAD_CALLS.values(), ids=BAD_CALLS.keys())
def test_wrong_calls_get_one_sentence(
    arguments: list[str], said: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that cannot be served ends with status 2 and one sentence, without a trace."""
    monkeypatch.chdir(data.parent)
    result = call(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.output
