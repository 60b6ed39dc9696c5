"""The step of each entry of a log."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import InputError
from trimtab.readers.columns import EPOCH, STEP, Column
from trimtab.readers.gathering import Table
from trimtab.readers.sources import count, list_some

Steps = NDArray[np.int64]
"""The step of each entry; negative where it has none that can be used."""

UNUSABLE = -1

LARGEST_STEP = 2.0**53
"""Beyond it not every step is a number of its own."""


@dataclass(slots=True)
class Stepping:
    """The steps of a log's entries, put right."""

    steps: Steps
    """The step of each entry; negative where it is left out."""

    notes: list[str] = field(default_factory=list)
    """What was put right, and what is odd."""

    num_unusable: int = 0
    """Entries that are left out since their step is no whole number from 0."""

    num_duplicates: int = 0
    """Entries of the main metric that hold a step again: the same number or another."""

    num_restarts: int = 0
    """How many times the run went back."""


def find_steps(table: Table, columns: dict[str, Column], main: str) -> Stepping:
    """The step of each entry, from the best column there is for it.

    Args:
        table: the log's numbers.
        columns: what each column is.
        main: their name of the column that is looked at for repeats, restarts and gaps.

    Raises:
        InputError: if no entry has a step that can be used.
    """
    by_metric = {column.metric: name for name, column in columns.items()}
    has_main = table.has_number(main)
    if STEP in by_metric:
        stepping = _read_steps(table, by_metric[STEP])
        if EPOCH in by_metric:
            _add_epochs(stepping, _fill(table.spread(by_metric[EPOCH])), has_main)
    else:
        stepping = _count_steps(table, by_metric.get(EPOCH), has_main)
    if not (stepping.steps >= 0).any():
        raise InputError("log: no entry has a step that is a whole number from 0; check the step column")
    return stepping


def _read_steps(table: Table, name: str) -> Stepping:
    numbers = table.spread(name)
    is_bad = ~np.isnan(numbers) & ~((numbers == np.floor(numbers)) & (numbers >= 0) & (numbers <= LARGEST_STEP))
    filled = _fill(np.where(is_bad, np.nan, numbers))
    filled[is_bad | np.isnan(filled)] = UNUSABLE
    stepping = Stepping(filled.astype(np.int64))
    if is_bad.any():
        examples = list_some(f"{each:g}" for each in numbers[is_bad])
        num = count(int(is_bad.sum()), "entry is", "entries are")
        stepping.num_unusable = int(is_bad.sum())
        stepping.notes.append(f"{num} left out, where {name!r} is no whole number from 0: {examples}")
    return stepping


def _fill(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """The numbers, with the one before where there is none, and the first before the first."""
    places = np.where(np.isnan(numbers), -1, np.arange(len(numbers)))
    known = np.maximum.accumulate(places) if len(places) else places
    first = int(np.argmax(places >= 0)) if (places >= 0).any() else 0
    return np.asarray(numbers[np.where(known >= 0, known, first)], dtype=np.float64)


def _add_epochs(stepping: Stepping, epochs: NDArray[np.float64], has_main: NDArray[np.bool_]) -> None:
    """Count on where the step starts anew with each epoch."""
    rows = np.flatnonzero(has_main & (stepping.steps >= 0))
    whole = epochs[rows]
    if len(rows) < 2 or not np.isfinite(whole).all() or (whole != np.floor(whole)).any():
        return
    falls, rises = np.diff(stepping.steps[rows]) < 0, np.diff(whole) > 0
    if not falls.any() or not rises[falls].all() or not falls[rises].all():
        return
    length = int(stepping.steps[rows].max()) + int(stepping.steps[rows].min() == 0)
    passed = np.nan_to_num(epochs - whole[0]).clip(0).astype(np.int64)
    stepping.steps = np.where(stepping.steps >= 0, stepping.steps + passed * length, UNUSABLE)
    stepping.notes.append(f"the step starts anew with each epoch; it is counted on, {length} to an epoch")


def _count_steps(table: Table, epoch: str | None, has_main: NDArray[np.bool_]) -> Stepping:
    """The epoch as the step where each entry has one of its own; otherwise the number of the entry."""
    if epoch is not None:
        epochs = _fill(table.spread(epoch))
        of_main = epochs[has_main]
        if (of_main == np.floor(of_main)).all() and len(np.unique(of_main)) * 2 > len(of_main) and of_main.min() >= 0:
            usable = np.where(np.isfinite(epochs) & (epochs >= 0), epochs, UNUSABLE)
            return Stepping(usable.astype(np.int64), [f"there is no step; {epoch!r} is taken for it"])
    return Stepping(np.maximum(np.cumsum(has_main), 1), ["there is no step; the entries are counted from 1"])
