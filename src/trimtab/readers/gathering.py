"""Entries of a log, whatever its format, to one array of numbers per column."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from trimtab.readers.cells import is_missing, parse_number
from trimtab.readers.columns import match_name
from trimtab.readers.sources import count, list_some

Entry: TypeAlias = tuple[int, Mapping[str, Any]]
"""What a log has in one place: the number of the line, and their names to cells."""

MAX_ENTRIES = 2_000_000
"""Entries that are read; they take some 100 MB with four columns."""

MAX_COLUMNS = 256
"""Columns that are kept besides those whose names are known."""


@dataclass(slots=True)
class Numbers:
    """The numbers of one column."""

    rows: array[int] = field(default_factory=lambda: array("q"))
    """The entries that have one, counted from 0."""

    values: array[float] = field(default_factory=lambda: array("d"))
    """The numbers, NaN and infinity included."""

    text: tuple[int, str] | None = None
    """The first cell that is no number, with its line."""

    num_texts: int = 0
    """How many cells are no numbers."""


@dataclass(slots=True)
class Table:
    """A log's numbers by column, as far as they are of use."""

    columns: dict[str, Numbers] = field(default_factory=dict)
    """Their name to the numbers, in the order of their first appearance."""

    num_rows: int = 0
    """How many entries there are."""

    notes: list[str] = field(default_factory=list)
    """What was odd."""

    def spread(self, name: str) -> NDArray[np.float64]:
        """A column as an array with a number for each entry; NaN where there is none."""
        numbers = self.columns[name]
        found = np.full(self.num_rows, np.nan)
        found[np.asarray(numbers.rows, dtype=np.int64)] = numbers.values
        return found

    def has_number(self, name: str) -> NDArray[np.bool_]:
        """For each entry, True if the column has a number there, NaN included."""
        found = np.zeros(self.num_rows, dtype=np.bool_)
        found[np.asarray(self.columns[name].rows, dtype=np.int64)] = True
        return found

    @property
    def counts(self) -> dict[str, int]:
        """How many numbers each column has."""
        return {name: len(numbers.rows) for name, numbers in self.columns.items()}


def gather(entries: Iterable[Entry], keep: Iterable[str] = (), decimal_comma: bool = False) -> Table:
    """The numbers of all entries by column; what is no number is noted, and columns without any are dropped.

    Args:
        entries: what the log has, in its order.
        keep: names that are kept whatever the number of columns.
        decimal_comma: True if a single comma is the decimal point.
    """
    table, keep = Table(), set(keep)
    columns, left_out = table.columns, set[str]()
    for line, cells in entries:
        row = table.num_rows
        if row == MAX_ENTRIES:
            table.notes.append(f"the log is read up to line {line}: it has more than {MAX_ENTRIES} entries")
            break
        table.num_rows += 1
        for name, cell in cells.items():
            numbers = columns.get(name)
            if numbers is None:
                if not _has_room(columns, name, keep):
                    left_out.add(name)
                    continue
                numbers = columns[name] = Numbers()
            number = cell if type(cell) is float else parse_number(cell, decimal_comma)
            if number is not None:
                numbers.rows.append(row)
                numbers.values.append(number)
            elif not is_missing(cell):
                numbers.num_texts += 1
                numbers.text = numbers.text or (line, str(cell)[:40])
    if left_out:
        table.notes.append(
            f"{len(left_out)} columns beyond the first {MAX_COLUMNS} are left out: {list_some(left_out)}"
        )
    _drop_texts(table)
    return table


def _has_room(columns: Mapping[str, Numbers], name: str, keep: set[str]) -> bool:
    return len(columns) < MAX_COLUMNS or name in keep or match_name(name) is not None


def _drop_texts(table: Table) -> None:
    """Drop the columns that are mostly text, and note the texts in the others."""
    dropped = [name for name, each in table.columns.items() if each.num_texts > len(each.rows)]
    for name in dropped:
        del table.columns[name]
    for name in [name for name, each in table.columns.items() if not each.rows]:
        del table.columns[name]
    if dropped:
        table.notes.append(f"columns that are no numbers are left out: {list_some(map(repr, dropped))}")
    for name, each in table.columns.items():
        if each.num_texts:
            line, text = each.text or (0, "")
            num = count(each.num_texts, "cell", "cells")
            table.notes.append(f"{num} of {name!r} hold no number, such as {text!r} in line {line}; not measured there")
