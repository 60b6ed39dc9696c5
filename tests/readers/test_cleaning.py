"""What is odd in a log is put right where it can be, and told in a note."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from math import inf, nan
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, strategies as st

from tests.readers.logs import column, is_same, read
from trimtab.diagnosis import diagnose
from trimtab.errors import InputError


def table(steps: Sequence[object], losses: Sequence[object] | None = None, name: str = "step") -> str:
    """A CSV of steps and losses; where no losses are given, they are 100, 101 and so on."""
    losses = range(100, 100 + len(steps)) if losses is None else losses
    return f"{name},loss\n" + "".join(f"{step},{loss}\n" for step, loss in zip(steps, losses, strict=True))


def said(folder: Path, text: str) -> str:
    """All notes on a CSV file."""
    return "\n".join(read(folder, "a.csv", text).notes)


@pytest.mark.parametrize(
    ("cell", "number"),
    [
        pytest.param(cell, number, id=repr(cell))
        for cell, number in {
            "nan": nan,
            "NaN": nan,
            "-nan": nan,
            "inf": inf,
            "-Infinity": -inf,
            "1e400": inf,
            '"1,234.5"': 1234.5,
            '"1,234,567"': 1234567.0,
            " 2.5 ": 2.5,
            "2.5%": 2.5,
            "\"tensor(2.5, device='cuda:0')\"": 2.5,
            "np.float64(2.5)": 2.5,
            "1_000": 1000.0,
            "": None,
            "null": None,
            "None": None,
            "N/A": None,
            "-": None,
            "oops": None,
        }.items()
    ],
)
def test_cell(tmp_path: Path, cell: str, number: float | None) -> None:
    """NaN and infinity are numbers, whatever they are written as; what is empty or no number was not measured."""
    log = read(tmp_path, "a.csv", f"step,loss,lr\n1,5,0\n2,{cell},0\n3,6,0\n4,7,0\n")
    expected = {1: 5.0, 3: 6.0, 4: 7.0} if number is None else {1: 5.0, 2: number, 3: 6.0, 4: 7.0}
    assert is_same(column(log, "loss"), expected)
    assert any("'oops' in line 3" in note for note in log.notes) == (cell == "oops")


@pytest.mark.parametrize(
    ("text", "loss", "note"),
    [
        pytest.param(
            table([10, 20, 30, 40, 30, 40, 50]),
            {10: 100, 20: 101, 30: 104, 40: 105, 50: 106},
            "the run went back from step 40 to 30",
            id="resumed",
        ),
        pytest.param(
            table([10, 20, 30, 40, 50, 25, 30]),
            {10: 100, 20: 101, 25: 105, 30: 106},
            "the run went back from step 50 to",
            id="resumed-and-ended-before-it-was-back",
        ),
        pytest.param(
            table([*range(10, 210, 10), *range(55, 255, 10)]),
            {
                **{s: 90 + s // 10 + 9 for s in range(10, 60, 10)},
                **{s: 120 + n for n, s in enumerate(range(55, 255, 10))},
            },
            "the run went back from step 200 to 55",
            id="resumed-at-other-steps",
        ),
        pytest.param(
            table([1, 2, 3, 1, 2, 3, 4], [5, 6, 7, 8, 9, 10, 11]),
            {1: 8, 2: 9, 3: 10, 4: 11},
            "the run went back from step 3 to 1",
            id="from-scratch",
        ),
        pytest.param(
            table([1, 1, 2, 2, 3, 3], [5, 5, 6, 6, 7, 7]),
            {1: 5, 2: 6, 3: 7},
            "every entry is there 2 times, as of several handlers or processes",
            id="two-handlers",
        ),
        pytest.param(
            table([1, 2, 1, 3, 2, 3], [5, 6, 5, 7, 6, 7]),
            {1: 5, 2: 6, 3: 7},
            "every entry is there 2 times",
            id="two-processes-that-alternate",
        ),
        pytest.param(
            table([1, 2, 3] * 3, [5, "nan", 7] * 3),
            {1: 5, 2: nan, 3: 7},
            "is there 3 times",
            id="one-file-after-another",
        ),
        pytest.param(
            table([1, 2, 2, 3], [5, 6, 6, 7]),
            {1: 5, 2: 6, 3: 7},
            "1 entry repeats another, at step 2",
            id="one-repeated",
        ),
        pytest.param(
            table([1, 2, 2, 3]),
            {1: 100, 2: 102, 3: 103},
            "1 step is there more than once with different numbers",
            id="conflict",
        ),
        pytest.param(
            table([1, 2, 4, 3, 5, 6]),
            {1: 100, 2: 101, 4: 102, 3: 103, 5: 104, 6: 105},
            "1 entry is out of order and sorted in, at step 3",
            id="one-late",
        ),
        pytest.param(
            table([1, 2, 3, 4, 40, 41, 42]),
            {1: 100, 2: 101, 3: 102, 4: 103, 40: 104, 41: 105, 42: 106},
            "steps are missing between 4 and 40",
            id="gap",
        ),
        pytest.param("loss\n5\n6\n", {1: 5, 2: 6}, "there is no step; the entries are counted from 1", id="no-step"),
        pytest.param(
            "loss,lr\n5,1\n6,1\n",
            {1: 5, 2: 6},
            "there is no step; the entries are counted from 1",
            id="no-step-two-columns",
        ),
        pytest.param(
            table([1, 2, 3] * 4),
            {step: 99 + step for step in range(1, 13)},
            "starts anew 3 times, as with each epoch",
            id="epochs-without-an-epoch",
        ),
        pytest.param(
            table([1, -2, 3.5, 4]),
            {1: 100, 4: 103},
            "2 entries are left out, where 'step' is no whole number",
            id="impossible-steps",
        ),
        pytest.param(table(["1", '"1,000"', "2.0e3"]), {1: 100, 1000: 101, 2000: 102}, "", id="steps-in-any-writing"),
        pytest.param(
            "step,loss\n1,5\nstep,loss\n2,6\n", {1: 5, 2: 6}, "the header stands again in line 3", id="header-again"
        ),
        pytest.param("step,loss\n1,5\n2\n3,7\n4,8,9\n", {1: 5, 3: 7}, "2 lines are not 2 cells wide", id="ragged"),
        pytest.param("step,lr,loss\n1,0,5\n2,0", {1: 5}, "line 3, the last, is cut short", id="cut-short"),
        pytest.param('step,loss,note\n1,5,"a\n2,6,b\n3,7,c\n', {1: 5, 2: 6, 3: 7}, "left out: 'note'", id="lost-quote"),
        pytest.param("step,loss,loss\n1,5,9\n", {1: 5}, "columns are there more than once", id="column-twice"),
        pytest.param("step,loss,host\n1,5,a\n2,6,b\n", {1: 5, 2: 6}, "are no numbers are left out: 'host'", id="text"),
        pytest.param(
            "step,loss,_runtime\n1,5,1\n",
            {1: 5},
            "say nothing of the training are left out: '_runtime'",
            id="clock-time",
        ),
        pytest.param(
            "step,loss,lr\n1,5,1\n2,6,1\n3,,1\n4,,1\n", {1: 5, 2: 6}, "from step 3 on 'loss' is empty", id="blank-end"
        ),
        pytest.param("step,loss,a\n1,5,1\n2,,1\n3,7,1\n", {1: 5, 3: 7}, "these are left out: 'a'", id="alone"),
        pytest.param("step,loss\n\n1,5\n\0\0\0\0", {1: 5}, "ends in zero bytes", id="zeros-at-the-end"),
    ],
)
def test_csv(tmp_path: Path, text: str, loss: dict[int, float], note: str) -> None:
    """The numbers are those that count, and the note names what was done."""
    log = read(tmp_path, "a.csv", text)
    assert is_same(column(log, "loss"), {step: float(value) for step, value in loss.items()})
    assert note in "\n".join(log.notes)
    assert bool(log.notes) == bool(note)


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param(range(1, 50), id="each"),
        pytest.param(range(0, 5000, 100), id="each-hundredth"),
        pytest.param([1, *range(10, 500, 10)], id="the-first-and-each-tenth"),
        pytest.param([*range(1, 11), *range(20, 100, 10), *range(100, 2000, 100)], id="seldomer-and-seldomer"),
        pytest.param([7], id="one"),
    ],
)
def test_says_nothing(tmp_path: Path, steps: Sequence[int]) -> None:
    """A log in order has no notes."""
    assert said(tmp_path, table(steps)) == ""


def test_alternating_writers_are_no_restarts(tmp_path: Path) -> None:
    """Two ranks that write their own losses into one file, one a little behind, do not look like a run set back."""
    steps = [step for start in range(1, 200) for step in (start + 1, start)]
    log = read(tmp_path, "a.csv", table(steps))
    assert list(column(log, "loss")) == list(range(1, 201))
    assert any("different numbers" in note for note in log.notes)
    assert not any("went back" in note for note in log.notes)


def test_restart_takes_the_other_columns_along(tmp_path: Path) -> None:
    """What a run had logged beyond the step it went back to is left out of every column, reviews included."""
    lines = [
        *({"step": step, "loss": step, "lr": 1} for step in (1, 2, 3, 4)),
        {"step": 4, "val_loss": 9},
        *({"step": step, "loss": 10 + step} for step in (3, 3.0)),
    ]
    log = read(tmp_path, "a.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    assert column(log, "loss") == {1: 1.0, 2: 2.0, 3: 13.0}
    assert column(log, "learning_rate") == {1: 1.0, 2: 1.0}
    assert column(log, "val_loss", "review") == {}


def test_jsonl_lines_that_are_none(tmp_path: Path) -> None:
    """Lines that are no JSON are noted by number, and one cut short at the end is told apart."""
    log = read(
        tmp_path, "a.jsonl", '{"step": 1, "loss": 5}\nWARNING: slow\n[1]\n{"step": 2, "loss": 6}\n{"step": 3, "lo'
    )
    assert column(log, "loss") == {1: 5.0, 2: 6.0}
    assert log.notes == (
        "line 5, the last, is cut short; it is left out",
        "2 lines are no JSON objects; they are left out: 2, 3",
    )


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=20))
def test_csv_round_trip(values: list[float]) -> None:
    """Any numbers that are written as CSV are read back to the last bit."""
    text = io.StringIO()
    csv.writer(text).writerows([["step", "loss"], *enumerate(values, 1)])
    with TemporaryDirectory() as folder:
        log = read(Path(folder), "a.csv", text.getvalue())
    assert is_same(column(log, "loss"), dict(enumerate(values, 1)))


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3)), min_size=1, max_size=60))
def test_any_order_of_steps(logged: list[tuple[int, int]]) -> None:
    """However the steps jump, each is there once, with a number that was logged, and what was logged last is kept."""
    with TemporaryDirectory() as folder:
        log = read(Path(folder), "a.csv", table([step for step, _ in logged], [loss for _, loss in logged]))
    losses = column(log, "loss")
    if not any("starts anew" in note for note in log.notes):
        assert set(losses.items()) <= {(step, float(loss)) for step, loss in logged}
        assert losses[logged[-1][0]] == logged[-1][1]


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Whatever follows a header, either a log is read or a sentence says why not; nothing else is raised."""
    with TemporaryDirectory() as folder:
        for name in ("a.csv", "a.jsonl", "a.json", "a.log"):
            with suppress(InputError):
                assert read(Path(folder), name, "step,loss\n" + text).measurements


def test_many_rows_in_time(tmp_path: Path) -> None:
    """A hundred thousand rows are read within seconds, and columns beyond what is of use do not fill the memory."""
    path_text = "step,loss,grad_norm,lr\n" + "".join(f"{step},2.5,{step}.5,1e-4\n" for step in range(100_000))
    start = time.process_time()
    log = read(tmp_path, "a.csv", path_text)
    assert time.process_time() - start < 5  # about 1 s alone
    assert len(log.measurements) == 100_000
    wide = read(
        tmp_path, "wide.csv", ",".join(["step", *(f"c{n}" for n in range(400)), "loss"]) + "\n" + "1," * 401 + "2"
    )
    assert column(wide, "loss") == {1: 2.0}
    assert len(wide.columns) < 300
    assert any("are left out" in note for note in wide.notes)


def test_counts_of_the_reading(tmp_path: Path) -> None:
    """What was read, left out, repeated and gone back on is counted, and the diagnosis says it."""
    rows = [f"{step},{3 / step}" for step in range(1, 41)]
    rows = [*rows[:20], "damaged", rows[19], *rows[10:], "40,0.1", "4"]
    log = read(tmp_path, "log.csv", "\n".join(["step,loss", *rows]))
    counts = {name: log.info[f"num_{name}"] for name in ("entries", "skipped", "duplicates", "restarts")}
    assert counts == {"entries": 52, "skipped": 2, "duplicates": 12, "restarts": 0}
    assert any(note.startswith("52 entries read: 2 skipped, 12 duplicates") for note in diagnose(log).notes)


def test_restarts_are_counted(tmp_path: Path) -> None:
    """A run that goes back and takes its steps again with other numbers has a restart for each time."""
    steps = [*range(1, 30), *range(15, 40), *range(30, 60)]
    rows = [f"{step},{3 / step + row * 1e-4}" for row, step in enumerate(steps)]
    log = read(tmp_path, "log.csv", "\n".join(["step,loss", *rows]))
    assert (log.info["num_restarts"], log.info["num_duplicates"]) == (2, 0)
    assert "84 entries read: 2 restarts" in diagnose(log).notes
