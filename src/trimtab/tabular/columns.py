"""The columns of a table as they were read: texts, numbers or moments, and which of them are missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Storage = Literal["texts", "numbers", "moments"]
"""As what a column was read; what it means is told by `trimtab.tabular.inference`."""

MISSING = frozenset(
    "na n/a #n/a n.a. nan #nan null #null! none nil missing ? - -- --- . .. … – — * <na> #div/0! #value! nat".split()
) | {""}
"""Texts that stand for no value, in lower case."""

MOST_EXACT = 2**53
"""Whole numbers from here on are not exact in float64, and are read as texts: two codes stay two."""


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """A column of a table."""

    name: str
    """Its name, unique in the table."""

    storage: Storage
    """What `values` are."""

    values: NDArray[Any]
    """`texts`: the distinct ones, as objects; `numbers`: float64, one a row, missing ones NaN; `moments`: the same, as
    seconds since 1970."""

    codes: NDArray[np.int32] | None = None
    """Of texts: for each row the place of its text in `values`, or -1 where it is missing."""

    declared: str = ""
    """The kind that a typed table says it is: `boolean`, `timestamp`, `categorical`; empty where it says nothing."""

    @property
    def num_rows(self) -> int:
        """How many rows it has."""
        return len(self.values if self.codes is None else self.codes)

    @property
    def is_missing(self) -> NDArray[np.bool_]:
        """For each row whether its value is missing."""
        return np.isnan(self.values) if self.codes is None else self.codes < 0

    def take(self, rows: NDArray[Any]) -> Column:
        """The column of some rows, by number or by a mask."""
        if self.codes is None:
            return Column(self.name, self.storage, self.values[rows], None, self.declared)
        return Column(self.name, self.storage, self.values, self.codes[rows], self.declared)

    def list_texts(self) -> list[str | None]:
        """What each row holds, as a person would write it; None where it is missing."""
        if self.codes is not None:
            return [None if code < 0 else str(self.values[code]) for code in self.codes]
        if self.storage == "moments":
            stamps = [None if each != each else np.datetime64(round(each), "s") for each in self.values]
            return [None if each is None else str(each) for each in stamps]
        return [None if each != each else f"{each:.15g}" for each in self.values]


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A table as it was read."""

    columns: tuple[Column, ...]
    """Its columns, in their order."""

    source: str = "the table"
    """Where it is from, for messages."""

    notes: tuple[str, ...] = ()
    """What was noticed while reading it, a sentence each."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(each.name for each in self.columns)

    @property
    def num_rows(self) -> int:
        """How many rows it has."""
        return self.columns[0].num_rows if self.columns else 0

    def take(self, rows: NDArray[Any]) -> Table:
        """The table of some rows, by number or by a mask."""
        return Table(tuple(each.take(rows) for each in self.columns), self.source, self.notes)

    def find(self, name: str) -> Column | None:
        """The column of a name; None if there is none."""
        return next((each for each in self.columns if each.name == name), None)


def name_columns(given: Sequence[Any]) -> list[str]:
    """Names of columns that are texts, none of them empty, and no two the same.

    Args:
        given: the names as they are in the table; anything.
    """
    names: list[str] = []
    taken: set[str] = set()
    for number, each in enumerate(given, start=1):
        wanted = "" if each is None else " ".join(str(each).split())
        name = base = wanted or f"column_{number}"
        again = 1
        while name in taken:
            again += 1
            name = f"{base} ({again})"
        taken.add(name)
        names.append(name)
    return names


def make_texts(name: str, codes: NDArray[Any], texts: Sequence[Any], *, declared: str = "") -> Column:
    """A column of texts: spaces at their ends are cut off, and texts that stand for no value are missing.

    Args:
        name: its name.
        codes: for each row the place of its text, or -1.
        texts: the texts, with repetitions or without; None is missing.
        declared: the kind a typed table says it is.
    """
    known: dict[str, int] = {}
    places = np.full(len(texts) + 1, -1, np.int32)  # the last one is what code -1 finds
    for place, each in enumerate(texts):
        text = "" if each is None else str(each).strip()
        if text.lower() not in MISSING:
            places[place] = known.setdefault(text, len(known))
    values = np.empty(len(known), dtype=object)
    values[:] = list(known)
    return Column(name, "texts", values, places[codes], declared)


def make_column(name: str, series: Any) -> Column:
    """A column of a pandas series, by its dtype.

    Args:
        name: its name.
        series: the series.
    """
    import pandas as pd

    dtype = series.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return make_texts(name, series.cat.codes.to_numpy(), list(series.cat.categories), declared="categorical")
    if pd.api.types.is_bool_dtype(dtype):
        return Column(name, "numbers", series.astype("float64").to_numpy(np.float64, na_value=np.nan), None, "boolean")
    if pd.api.types.is_datetime64_any_dtype(dtype):
        naive = series.dt.tz_convert("UTC").dt.tz_localize(None) if series.dt.tz is not None else series
        return Column(name, "moments", _to_seconds(naive.to_numpy("datetime64[us]")), None, "timestamp")
    if pd.api.types.is_timedelta64_dtype(dtype):
        return Column(name, "numbers", series.dt.total_seconds().to_numpy(np.float64))
    if pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_complex_dtype(dtype):
        numbers = series.to_numpy(np.float64, na_value=np.nan)
        if not (pd.api.types.is_integer_dtype(dtype) and bool((np.abs(numbers) >= MOST_EXACT).any())):
            return Column(name, "numbers", numbers)
    objects = series.astype(object)
    codes, texts = pd.factorize(objects.where(objects.notna(), None).map(_to_text, na_action="ignore"))
    return make_texts(name, codes, list(texts))


def _to_seconds(moments: NDArray[Any]) -> NDArray[np.float64]:
    seconds = moments.astype("int64") / 1e6
    seconds[np.isnat(moments)] = np.nan
    return np.asarray(seconds, np.float64)


def _to_text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if not isinstance(value, (float, np.floating)):
        return str(value)
    number = float(value)
    return str(int(number)) if number.is_integer() and abs(number) < MOST_EXACT else str(number)
