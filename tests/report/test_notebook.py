"""A run in a notebook: what is displayed, in which size, and the tables for pandas and Polars."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.conftest import require
from trimtab import Action, Decision, Finding, InputError, Measurement, Record, Response
from trimtab.journal import Journal, RunLog, describe_run
from trimtab.report import notebook
from trimtab.report.figure import draw_run
from trimtab.report.frames import list_columns
from trimtab.report.notebook import PLOTLY, Memory, RunView, view_run
from trimtab.report.sparse import find_series, outline_run

HOSTILE = "<img src=x onerror=alert(1)>"

MAX_HTML, MAX_FIGURE = 150_000, 600_000
"""Bytes that a displayed run takes at most."""


def make_record(step: int, loss: float, verdict: str = "proceed", restored_step: int | None = None) -> Record:
    """A step, and what was done about it if it was no plain one."""
    values: Mapping[str, Any] = {"loss": loss, "grad_norm": 1.0 + 1.0 / step, "group_grad_norm": (0.5, 2.0)}
    measurement = Measurement(step, values)
    if verdict == "proceed":
        return Record(measurement, Decision(step), Action(step))
    finding = Finding(
        metric="loss", value=loss, limit=9.0, message=HOSTILE, detector="loss-spike", severity="high", step=step
    )
    decision = Decision(step, verdict, (Response(verdict),), (finding,), f"loss-spike: {HOSTILE}")
    return Record(measurement, decision, Action(step, verdict, restored_step, 1))


def make_records(num_steps: int = 60) -> list[Record]:
    """A falling loss with a skip, a NaN, a rollback, and a review now and then."""
    records = []
    for step in range(1, num_steps + 1):
        if step == 20:
            records.append(make_record(step, 1e9, "skip"))
        elif step == 25:
            records.append(make_record(step, math.nan, "skip"))
        elif step == 40:
            records.append(make_record(step, 50.0, "rollback", 34))
        else:
            records.append(make_record(step, 1.0 + 10.0 / step))
        if step % max(num_steps // 4, 1) == 0:
            reviewed = Measurement(step, {"val_loss": 2.0 + 10.0 / step}, "review")
            records.append(Record(reviewed, Decision(step, clock="review"), Action(step)))
    return records


def remember(records: list[Record]) -> RunLog:
    """The run of some records, as one without a folder is kept."""
    memory = Memory()
    for record in records:
        memory.write(record)
    return memory.log


def write_run(folder: Path) -> Path:
    """The same as a run folder."""
    journal = Journal(folder, describe_run(["body", "head"], ["group_grad_norm"], ["torch.float32"], {"policy": {}}))
    for record in make_records():
        journal.write(record)
    journal.close()
    return folder


def test_a_folder_and_a_memory_show_the_same(tmp_path: Path) -> None:
    """A run that was kept in memory is outlined as its folder is."""
    assert repr(outline_run(remember(make_records()))) == repr(outline_run(view_run(write_run(tmp_path / "run")).log))


def test_what_is_displayed_can_be_read_everywhere(tmp_path: Path) -> None:
    """A run gives a figure of Plotly as JSON, a drawing without script or network, and text, all of it escaped."""
    view = RunView(view_run(write_run(tmp_path / "run")).log, HOSTILE)
    bundle = view._repr_mimebundle_()
    assert bundle.keys() == {"text/plain", "text/html", PLOTLY}
    drawing = ElementTree.fromstring(bundle["text/html"])
    tags = {each.tag.rpartition("}")[2] for each in drawing.iter()}
    assert tags == {"div", "p", "svg", "path", "g", "title", "circle", "text", "rect"}
    assert not any("http" in value for each in drawing.iter() for value in each.attrib.values())
    assert len(drawing.findall(".//{*}circle")) == 3
    assert HOSTILE not in json.dumps(bundle[PLOTLY])
    assert view._repr_mimebundle_(include=["text/plain"]) == {"text/plain": HOSTILE}
    assert PLOTLY not in view._repr_mimebundle_(exclude=[PLOTLY])


def test_what_a_rollback_undid_is_drawn_apart() -> None:
    """The steps that were undone are a faint curve of their own, and the live one has none of them."""
    figure = draw_run(remember(make_records()))
    curves = {each.name: each for each in figure.data}
    assert set(range(35, 41)).isdisjoint(curves["training loss"].x)
    assert [x for x, y in zip(curves["undone"].x, curves["undone"].y, strict=True) if y is not None] == [*range(35, 41)]
    assert curves["undone"].opacity < 0.5
    assert list(curves["decisions"].x) == [20, 25, 40]
    assert curves["decisions"].marker.symbol == ("x", "x", "diamond")
    assert figure.layout.yaxis.title.text == "loss, up to 1e+09"
    assert figure.layout.yaxis.range[1] < 3


@pytest.mark.parametrize("num_steps", [10_000, 100_000])
def test_a_long_run_is_small_and_has_its_spike(num_steps: int) -> None:
    """However long a run, what is displayed has a bounded size, and a spike of a single step is in it."""
    losses = {step: 1.0 + 10.0 / step for step in range(1, num_steps + 1)}
    spike = num_steps // 2 + 7
    losses[spike] = 60.0
    measurements = [
        Measurement(step, {"loss": loss, "grad_norm": loss, "learning_rate": 1 / step}) for step, loss in losses.items()
    ]
    log = RunLog(Path("run"), {}, measurements, ())
    bundle = RunView(log)._repr_mimebundle_()
    assert len(bundle["text/html"].encode()) < MAX_HTML
    assert len(json.dumps(bundle[PLOTLY])) < MAX_FIGURE
    drawn = bundle[PLOTLY]["data"][0]
    assert spike in drawn["x"]
    assert find_series(log, "loss")[spike] == 60.0


def test_many_decisions_are_not_all_marked() -> None:
    """Of thousands of skips the first are marked, and every rollback."""
    skips = [make_record(step, 20.0, "skip") for step in range(1, 5001)]
    log = remember([*skips, make_record(5001, 20.0, "rollback", 4990)])
    bundle = RunView(log)._repr_mimebundle_()
    assert outline_run(log).marks[-1].verdict == "rollback"
    assert len(bundle["text/html"].encode()) < MAX_HTML
    assert len(json.dumps(bundle[PLOTLY])) < MAX_FIGURE


@pytest.mark.parametrize(
    "records",
    [
        pytest.param([], id="nothing"),
        pytest.param([make_record(1, math.nan)], id="one-nan"),
        pytest.param([make_record(1, 2.0)], id="one-step"),
        pytest.param([make_record(step, 0.0) for step in range(1, 9)], id="zero"),
        pytest.param([make_record(step, -float(step)) for step in range(1, 9)], id="below-zero"),
        pytest.param([make_record(step, math.inf, "halt") for step in range(1, 3)], id="never-finite"),
    ],
)
def test_odd_runs_are_displayed_too(records: list[Record]) -> None:
    """A run that was hardly begun, or has no number to draw, is displayed all the same."""
    bundle = RunView(remember(records), "odd")._repr_mimebundle_()
    ElementTree.fromstring(bundle["text/html"])
    assert bundle[PLOTLY]["data"]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a long run without a folder no more than so many measurements are kept, all along it, and with its spike."""
    monkeypatch.setattr(notebook, "MOST_KEPT", 64)
    log = remember([make_record(step, 50.0 if step == 333 else 1.0 / step) for step in range(1, 1001)])
    steps = [each.step for each in log.measurements]
    assert 32 <= len(steps) <= 64
    assert {1, 333} <= set(steps)
    assert steps[-1] > 960
    assert all(0 < later - step <= 64 for step, later in pairwise(steps))


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_frame_has_a_row_for_each_measurement(library: Any, tmp_path: Path) -> None:
    """Every step and review is a row, with its numbers, what was found and what was done."""
    require(library)
    view = view_run(write_run(tmp_path / "run"))
    frame = view.to_frame(library)
    assert type(frame).__module__.startswith(library)
    assert len(frame) == len(view.log.measurements) == 64
    assert list(frame.columns) == ["step", "clock", "loss", "grad_norm", "val_loss", "verdict", "found"]
    columns = {name: list(frame[name]) for name in frame.columns}
    assert columns["step"][:3] == [1, 2, 3]
    assert columns["loss"][:2] == [11.0, 6.0]
    assert columns["verdict"].count("skip") == 2
    assert columns["found"][columns["verdict"].index("rollback")] == "loss-spike"
    with_groups = view.to_frame(library, groups=True)
    assert list(with_groups["group_grad_norm/head"])[:2] == [2.0, 2.0]


def test_polars_tells_what_was_not_measured_from_nan(tmp_path: Path) -> None:
    """In Polars a loss that is NaN is NaN, and one that was not measured is null."""
    require("polars")
    frame = view_run(write_run(tmp_path / "run")).to_frame("polars")
    assert frame["loss"].is_nan().sum() == 1
    assert frame["loss"].null_count() == 4


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_an_empty_run_is_an_empty_frame(library: Any) -> None:
    """A run in which nothing was measured has a frame without rows."""
    require(library)
    assert len(RunView(remember([])).to_frame(library)) == 0


def test_an_unknown_library_is_refused() -> None:
    """A library that is none of the two is named."""
    with pytest.raises(InputError, match="library is 'numpy'; it has to be one of pandas, polars"):
        RunView(remember([])).to_frame("numpy")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("hidden", "told"),
    [
        pytest.param(["pandas"], "polars", id="no-pandas"),
        pytest.param(["pandas", "polars"], "to_frame: it needs pandas or polars, which is not installed", id="neither"),
    ],
)
def test_a_missing_library_is_named(hidden: list[str], told: str) -> None:
    """Without pandas Polars is taken, without both it is said what to install; displaying needs none of them."""
    require("polars")
    code = (
        "import sys\n"
        f"sys.modules |= dict.fromkeys({hidden!r})\n"
        "import trimtab\n"
        "from trimtab.report.notebook import Memory, RunView\n"
        "view = RunView(Memory().log)\n"
        "view._repr_mimebundle_()\n"
        "assert not any(sys.modules.get(name) for name in ('IPython', 'torch', 'pandas'))\n"
        "try:\n    print(type(view.to_frame()).__module__)\n"
        "except trimtab.InputError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert told in done.stdout, done.stderr


def test_columns_are_alike_long(tmp_path: Path) -> None:
    """Every column has an entry for every row."""
    log = view_run(write_run(tmp_path / "run")).log
    assert {len(each) for each in list_columns(log, groups=True).values()} == {len(log.measurements)}
