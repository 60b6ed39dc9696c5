"""From the entries of a log to a `Log`: the same for every format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import InputError
from trimtab.readers import Log
from trimtab.readers.columns import EPOCH, STEP, Column, choose_columns, note_displaced
from trimtab.readers.gathering import Entry, Table, gather
from trimtab.readers.repairs import put_right
from trimtab.readers.sources import Notes, list_some
from trimtab.readers.stepping import Stepping, find_steps
from trimtab.types import Clock, Measurement, Value

MAIN = ("loss", "val_loss", "grad_norm", "train_accuracy", "val_accuracy")
"""The metrics by which repeats, restarts and gaps are found; the first that the log has."""

Rows: TypeAlias = dict[int, dict[str, Value]]


def build_log(
    path: Path,
    format: str,
    entries: Iterable[Entry],
    names: Mapping[str, str],
    *,
    notes: Sequence[str] = (),
    info: Mapping[str, Any] | None = None,
    decimal_comma: bool = False,
) -> Log:
    """A log from its entries: columns chosen, numbers parsed, steps put right, metrics brought together by step.

    Args:
        path: where it was read from.
        format: the reader's name.
        entries: what it has, in the order it was written.
        names: their name to ours, where the caller says.
        notes: what the reader found odd; a list may grow while the entries come.
        info: what the reader knows of the run.
        decimal_comma: True if a single comma is the decimal point.

    Raises:
        InputError: if there is no entry, no column whose name is known, or no step that can be used.
    """
    table = gather(entries, names, decimal_comma)
    if not table.columns:
        reason = "".join(f": {note}" for note in [*notes, *table.notes][-1:])
        raise InputError(f"log: {str(path)!r} has no line of numbers that could be read{reason}")
    columns = _choose(path, table, names)
    main = _find_main(table, columns)
    stepping = find_steps(table, columns, main)
    numbers = table.columns[main]
    put_right(stepping, np.asarray(numbers.rows, dtype=np.int64), np.asarray(numbers.values, dtype=np.float64))
    unused = [name for name in table.columns if name not in columns]
    said = note_displaced(columns, names)
    said += [f"columns that say nothing of the training are left out: {list_some(map(repr, unused))}"] if unused else []
    measurements = _bring_together(table, columns, stepping)
    _note_blank_end(table, columns, main, stepping)
    if not measurements:
        raise InputError(f"log: {str(path)!r} has no number that belongs to a step")
    return Log(
        source=str(path),
        format=format,
        measurements=measurements,
        notes=(*notes, *table.notes, *said, *stepping.notes),
        columns={name: column.metric for name, column in columns.items()},
        info={**_describe_run(table, columns), **_count(table, stepping, notes), **(info or {})},
    )


def _choose(path: Path, table: Table, names: Mapping[str, str]) -> dict[str, Column]:
    columns = choose_columns(table.counts, names)
    if not any(each.is_known and each.metric not in (STEP, EPOCH) for each in columns.values()):
        raise InputError(
            f"log: {str(path)!r} has no column that is known by its name among {list_some(map(repr, table.columns))}; "
            "say which is which: --map 'their name=loss', or mapping={'their name': 'loss'} in Python"
        )
    return columns


def _find_main(table: Table, columns: Mapping[str, Column]) -> str:
    """Their name of the metric that the log is about."""
    by_metric = {column.metric: name for name, column in columns.items() if column.is_known}
    for metric in MAIN:
        if metric in by_metric:
            return by_metric[metric]
    rest = [name for metric, name in by_metric.items() if metric not in (STEP, EPOCH)]
    return max(rest, key=lambda name: table.counts[name])


def _bring_together(table: Table, columns: Mapping[str, Column], stepping: Stepping) -> list[Measurement]:
    """The numbers of all columns by step and clock; of a number that is there more than once, the last."""
    by_clock: dict[Clock, Rows] = {"step": {}, "review": {}}
    for name, column in columns.items():
        if column.clock is not None and column.metric != STEP:
            _put(by_clock[column.clock], column.metric, *_select(table, name, column, stepping))
    is_of_review = _has_any(table, columns, "review") & ~_has_any(table, columns, "step")
    alone: list[str] = []
    for name, column in columns.items():
        if column.clock is None:
            _put(by_clock["review"], column.metric, *_select(table, name, column, stepping, is_of_review))
            steps, values = _select(table, name, column, stepping, ~is_of_review)
            beside = [pair for pair in zip(steps, values, strict=True) if pair[0] in by_clock["step"]]
            _put(by_clock["step"], column.metric, [step for step, _ in beside], [value for _, value in beside])
            alone += [repr(name)] if len(beside) < len(steps) and not column.is_known else []
    if alone:
        stepping.notes.append(f"at steps without a known metric these are left out: {list_some(alone)}")
    ordered = sorted((step, clock == "review") for clock, rows in by_clock.items() for step in rows)
    clocks: tuple[Clock, Clock] = ("step", "review")
    return [Measurement(step, by_clock[clocks[is_review]][step], clocks[is_review]) for step, is_review in ordered]


def _has_any(table: Table, columns: Mapping[str, Column], clock: Clock | None) -> NDArray[np.bool_]:
    """For each entry, True if it has a number of a column of a clock; of no clock, one that is not known by name."""
    found = np.zeros(table.num_rows, dtype=np.bool_)
    for name, column in columns.items():
        if column.clock == clock and column.metric not in (STEP, EPOCH):
            found |= table.has_number(name)
    return found


def _select(
    table: Table, name: str, column: Column, stepping: Stepping, chosen: NDArray[np.bool_] | None = None
) -> tuple[list[int], list[float]]:
    """The steps and the numbers of a column, of the entries that are chosen and whose step can be used."""
    steps = stepping.steps
    rows = np.asarray(table.columns[name].rows, dtype=np.int64)
    values = np.asarray(table.columns[name].values, dtype=np.float64) * column.factor
    kept = steps[rows] >= 0
    if chosen is not None:
        kept &= chosen[rows]
    return steps[rows][kept].tolist(), values[kept].tolist()


def _put(rows: Rows, metric: str, steps: Sequence[int], values: Sequence[float]) -> None:
    """Put numbers into the rows of their steps."""
    for step, value in zip(steps, values, strict=True):
        row = rows.get(step)
        if row is None:
            row = rows[step] = {}
        row[metric] = value


def _note_blank_end(table: Table, columns: Mapping[str, Column], main: str, stepping: Stepping) -> None:
    """Note it if the log goes on without the metric that it is about, which it had at every step before."""
    has_main = table.has_number(main)
    is_other = _has_any(table, columns, "review") | _has_any(table, columns, None)
    lacks_main = ~has_main & (~is_other | _has_any(table, columns, "step"))
    last = int(np.flatnonzero(has_main)[-1])
    is_beyond = lacks_main & (stepping.steps > stepping.steps[last])
    if is_beyond[last:].any() and not lacks_main[:last].any():
        step = int(stepping.steps[is_beyond].min())
        stepping.notes.append(f"from step {step} on {main!r} is empty; pandas and others write NaN as an empty cell")


def _count(table: Table, stepping: Stepping, notes: Sequence[str]) -> dict[str, int]:
    """How many entries were read, and what became of those that are no records of their own."""
    num_left_out = notes.num_skipped if isinstance(notes, Notes) else 0
    return {
        "num_entries": table.num_rows,
        "num_skipped": num_left_out + stepping.num_unusable,
        "num_duplicates": stepping.num_duplicates,
        "num_restarts": stepping.num_restarts,
    }


def _describe_run(table: Table, columns: Mapping[str, Column]) -> dict[str, Any]:
    """What the numbers themselves say of the run."""
    info: dict[str, Any] = {}
    for name, column in columns.items():
        values = np.asarray(table.columns[name].values)
        finite = values[np.isfinite(values)]
        if column.metric == "learning_rate" and len(finite):
            info["learning_rate"] = float(finite.max())
        if column.metric == "loss_scale" and len(finite) and finite.max() > 1:
            info["dtype"] = "float16"  # a loss scale other than 1 is of no use in any other regime
    return info
