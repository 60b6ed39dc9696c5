"""What is learned from the rows that are trained on before any training: scales, bins, vocabularies."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trimtab.tabular.columns import Column, Table
from trimtab.tabular.inference import YES, ColumnType
from trimtab.tabular.moments import CLOCK_FORM, parse_moments
from trimtab.tabular.numbers import parse_numbers
from trimtab.tabular.quantities import measure_spread

Part = Literal["numbers", "moments", "categories", "texts"]
"""The kinds of encoders: each encodes all of its columns at once."""

PARTS: Mapping[str, Part] = {
    "scalar": "numbers",
    "timestamp": "moments",
    "categorical": "categories",
    "boolean": "categories",
    "text": "texts",
}
"""By the kind of a column, the kind of its encoder."""

NUM_BINS = 16
"""Bins of a number, with about as many rows in each (Gorishniy et al., arXiv 2203.05556)."""

LARGEST = 1e6
"""The largest number in units of the column's own spread; what is further out, or infinite, counts as this."""

MIN_COUNT, FROM_ROWS = 2, 200
"""A category that occurs less often is unknown, in tables of so many rows or more."""

MOST_CATEGORIES = 4096
"""Categories of a column that have an embedding of their own: the most frequent ones."""

NUM_BUCKETS, ALL_BUCKETS = 4096, 2**17
"""Embeddings that the words of a text column share, and those of all such columns together at most."""

MOST_WORDS = 96
"""Words and trigrams of a text that are read, the first of them."""

NUM_UNKNOWN = 1
"""Codes of a category before its values: 0 is what was never or seldom seen."""


@dataclass(frozen=True, slots=True, eq=False)
class Encoding:
    """How the values of a column become numbers."""

    name: str
    """The column."""

    kind: str
    """What it is."""

    form: str = ""
    """How its texts are written, see `ColumnType.form`."""

    center: float = 0.0
    """Of a number or moment: its median."""

    scale: float = 1.0
    """Its spread."""

    knots: tuple[float, ...] = ()
    """The bounds of its bins, of numbers less their median and divided by their spread."""

    categories: tuple[str, ...] = ()
    """Of a category: the values that have an embedding, whose codes begin at `NUM_UNKNOWN`."""

    num_buckets: int = 0
    """Of a text: the embeddings its words share."""

    @property
    def part(self) -> Part:
        """The kind of its encoder."""
        return PARTS[self.kind]

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Encoding:
        """What `to_dict` gave."""
        return cls(**{**given, "knots": tuple(given["knots"]), "categories": tuple(given["categories"])})


@dataclass(frozen=True, slots=True, eq=False)
class Arrays:
    """Rows as numbers, the columns of each kind of encoder side by side, in the order of their encodings."""

    numbers: NDArray[np.float32]
    """Shape (rows, columns): less the median, divided by the spread; NaN where missing."""

    moments: NDArray[np.float64]
    """Shape (rows, columns): seconds since 1970; NaN where missing."""

    categories: NDArray[np.int32]
    """Shape (rows, columns): codes; -1 where missing."""

    texts: NDArray[np.int32]
    """Shape (rows, columns): the number of the text in `words`; -1 where missing."""

    words: tuple[NDArray[np.int32], ...] = field(default=())
    """Of each text column the buckets of each distinct text, shape (texts, words), filled up with -1."""

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return len(self.numbers)


def prepare(table: Table, types: Mapping[str, ColumnType]) -> list[Encoding]:
    """Learn how the columns of a table become numbers.

    Args:
        table: the rows that are trained on.
        types: what its columns are.

    Returns:
        An encoding for each column that is a feature, in the order of `PARTS`.
    """
    chosen = [each for each in table.columns if types[each.name].is_feature]
    num_texts = sum(types[each.name].kind == "text" for each in chosen)
    num_buckets = min(NUM_BUCKETS, max(256, ALL_BUCKETS // max(num_texts, 1)))
    encodings = [_prepare_column(each, types[each.name], num_buckets) for each in chosen]
    order = list(dict.fromkeys(PARTS.values()))
    return sorted(encodings, key=lambda each: order.index(each.part))


def _prepare_column(column: Column, told: ColumnType, num_buckets: int) -> Encoding:
    if told.kind in ("scalar", "timestamp"):
        center, scale, knots = measure_numbers(read_numbers(column, told.kind, told.form))
        return Encoding(column.name, told.kind, told.form, center, scale, knots)
    if told.kind == "text":
        return Encoding(column.name, told.kind, num_buckets=num_buckets)
    values = read_texts(column, told.kind)
    known, counts = np.unique([each for each in values if each is not None], return_counts=True)
    least = MIN_COUNT if column.num_rows >= FROM_ROWS else 1
    frequent = np.argsort(-counts, kind="stable")[:MOST_CATEGORIES]
    kept = [str(known[place]) for place in frequent if counts[place] >= least]
    return Encoding(column.name, told.kind, told.form, categories=tuple(kept))


def measure_numbers(numbers: NDArray[np.float64]) -> tuple[float, float, tuple[float, ...]]:
    """Median, spread, and the bounds of bins of numbers less the one and divided by the other.

    Args:
        numbers: some of which may be missing or infinite.
    """
    finite = numbers[np.isfinite(numbers)]
    if not len(finite):
        return 0.0, 1.0, tuple(np.linspace(0.0, 1.0, NUM_BINS + 1))
    center, scale = measure_spread(finite)
    scaled = np.clip((finite - center) / scale, -LARGEST, LARGEST)
    knots = np.quantile(scaled, np.linspace(0, 1, NUM_BINS + 1))
    return center, scale, tuple(map(float, knots))


def read_numbers(column: Column, kind: str, form: str) -> NDArray[np.float64]:
    """The values of a column as numbers, or as seconds since 1970; NaN where missing or unreadable.

    Args:
        column: any column.
        kind: `scalar` or `timestamp`.
        form: how its texts are written.
    """
    if column.codes is not None:
        read = (
            parse_moments(column.values, form)
            if kind == "timestamp" and form not in UNITS
            else parse_numbers(column.values, _choose_style(form))
        )
        found = np.append(read, np.nan)[column.codes]
    elif kind == "timestamp" and column.storage == "numbers" and form == DAY_NUMBERS:
        known, places = np.unique(column.values, return_inverse=True)
        days = parse_moments([f"{each:.0f}" if np.isfinite(each) else "" for each in known], form)
        found = days[places.reshape(-1)]
    else:
        found = column.values
    return found / UNITS[form] if form in UNITS else found


UNITS = {"seconds": 1.0, "milliseconds": 1000.0}
"""Forms of numbers that are moments: how many of them a second has."""

DAY_NUMBERS = "%Y%m%d"
"""The form of whole numbers such as 20130814."""


def _choose_style(form: str) -> Any:
    return form if form in ("point", "comma") else "plain"


def read_texts(column: Column, kind: str) -> list[str | None]:
    """The values of a column as texts, of a boolean one `yes` and `no`; None where missing."""
    if kind != "boolean":
        return _unify(column)
    return [None if each is None else "yes" if each.lower() in YES else "no" for each in _unify(column)]


def _unify(column: Column) -> list[str | None]:
    """Texts of which those that are whole numbers are the same whether they came as 7, 7.0 or the text 7.0."""
    if column.codes is None:
        return column.list_texts()
    known = [re.sub(r"^([+-]?[1-9]\d*|0)\.0+$", r"\1", each) for each in column.values]
    return [None if code < 0 else known[code] for code in column.codes]


def apply(table: Table, encodings: Sequence[Encoding]) -> Arrays:
    """The rows of a table as numbers.

    Args:
        table: any table; of a column that it does not have, every value is missing.
        encodings: how its columns become numbers.
    """
    by_part: dict[Part, list[NDArray[Any]]] = {part: [] for part in PARTS.values()}
    words: list[NDArray[np.int32]] = []
    for each in encodings:
        column = table.find(each.name)
        if column is None:
            column = Column(each.name, "texts", np.empty(0, object), np.full(table.num_rows, -1, np.int32))
        if each.part == "texts":
            places, buckets = _hash_texts(_unify(column), each.num_buckets)
            by_part["texts"].append(places)
            words.append(buckets)
        elif each.part == "categories":
            by_part["categories"].append(_look_up(read_texts(column, each.kind), each.categories))
        else:
            numbers = read_numbers(column, each.kind, each.form)
            by_part[each.part].append(_scale(numbers, each) if each.part == "numbers" else _bound(numbers, each))
    dtypes = {"numbers": np.float32, "moments": np.float64, "categories": np.int32, "texts": np.int32}
    stacked: dict[str, Any] = {
        part: np.stack(arrays, axis=1).astype(dtypes[part]) if arrays else np.empty((table.num_rows, 0), dtypes[part])
        for part, arrays in by_part.items()
    }
    return Arrays(**stacked, words=tuple(words))


def _scale(numbers: NDArray[np.float64], encoding: Encoding) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):
        return np.clip((numbers - encoding.center) / encoding.scale, -LARGEST, LARGEST)


def _bound(seconds: NDArray[np.float64], encoding: Encoding) -> NDArray[np.float64]:
    """Moments that are not infinitely far away."""
    far = LARGEST * encoding.scale
    return np.clip(seconds, encoding.center - far, encoding.center + far)


def _look_up(values: Sequence[str | None], categories: Sequence[str]) -> NDArray[np.int32]:
    codes = {each: code for code, each in enumerate(categories, start=NUM_UNKNOWN)}
    return np.array([-1 if each is None else codes.get(each, 0) for each in values], np.int32)


def _hash_texts(values: Sequence[str | None], num_buckets: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """For each row the number of its text, and the buckets of each distinct text."""
    known: dict[str, int] = {}
    places = np.array([-1 if each is None else known.setdefault(each, len(known)) for each in values], np.int32)
    hashed = [[zlib.crc32(word.encode()) % num_buckets for word in split_text(each)] for each in known]
    buckets = np.full((len(known), max(map(len, hashed), default=1)), -1, np.int32)
    for row, each in zip(buckets, hashed, strict=True):
        row[: len(each)] = each
    return places, buckets


def split_text(text: str) -> list[str]:
    """The words of a text and the trigrams in them, in lower case.

    `wing` is `wing`, `<wi`, `win`, `ing` and `ng>`.
    """
    parts: dict[str, None] = {}
    for word in re.findall(r"\w+|[^\w\s]", text.lower()[:4000]):
        padded = f"<{word[:40]}>"
        parts[word] = None
        parts.update(dict.fromkeys(padded[at : at + 3] for at in range(len(padded) - 2) if len(word) > 1))
        if len(parts) >= MOST_WORDS:
            break
    return list(parts)[:MOST_WORDS]


def is_time_of_day(encoding: Encoding) -> bool:
    """True of moments that are times of a day without one."""
    return encoding.form == CLOCK_FORM
