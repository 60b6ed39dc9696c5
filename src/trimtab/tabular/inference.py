"""What the columns of a table are, each with the reason: told from their values, and a little from their names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import InputError
from trimtab.tabular.columns import Column, Table
from trimtab.tabular.hints import names_codes, names_rows
from trimtab.tabular.moments import ISO, choose_form, is_ambiguous, parse_moments
from trimtab.tabular.numbers import Texts, choose_style, parse_numbers
from trimtab.tabular.quantities import (
    CODE_DIGITS,
    FEW_ROWS,
    count_digits,
    explain_moments,
    explain_row,
    is_round,
    tell_far,
)

Kind = Literal["scalar", "categorical", "text", "timestamp", "boolean", "identifier", "dropped"]
"""What a column is; the last two are no features."""

FEATURES = ("scalar", "categorical", "text", "timestamp", "boolean")
"""The kinds that a model is shown."""

MOST_READ = 0.95
"""The share of values that have to be numbers, or moments, for the column to be of them; the rest counts as missing."""

UNIQUE = 0.95
"""The share of distinct values from which a column nearly names its rows."""

REPEATED = 5
"""How often the values of a categorical column occur, on average at least."""

FEW = 30
"""As many distinct values are categories, if half of the rows at least have one that others have too."""

MANY_WORDS, MANY_TEXTS = 8, 50
"""Values of so many words on average, of which there are more than so many, are texts however often they occur."""


TRUTH = ({"yes", "no"}, {"y", "n"}, {"true", "false"}, {"t", "f"}, {"on", "off"}, {"0", "1"}, {"x"}, {"yes"}, {"true"})
"""What values are yes and no; one alone, where the others are missing."""

YES = frozenset("yes y true t on 1 1.0 x".split())
"""Of these, what is yes."""


SHOWN = 24
"""Letters of a value that are shown."""

OPAQUE = re.compile(r"\S+@\S+\.\w+|https?://\S+|[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}|[0-9a-fA-F]{16,}")
"""Addresses, links, UUIDs and hashes."""


@dataclass(frozen=True, slots=True)
class ColumnType:
    """What a column is, and why."""

    name: str
    """Its name."""

    kind: Kind
    """What it is."""

    reason: str
    """Why, in a few words."""

    form: str = ""
    """How its numbers or moments are written, where they are texts: see `parse_numbers` and `parse_moments`."""

    num_missing: int = 0
    """Rows without a value, those with one that cannot be read among them."""

    num_distinct: int = 0
    """Distinct values."""

    @property
    def is_feature(self) -> bool:
        """True if a model is shown it."""
        return self.kind in FEATURES

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return asdict(self)


def infer_types(
    table: Table, *, kinds: Mapping[str, str] | None = None, ignore: Sequence[str] = ()
) -> dict[str, ColumnType]:
    """Tell what each column of a table is.

    Args:
        table: the table.
        kinds: by the names of columns, what they are to be taken for.
        ignore: names of columns that are left out.

    Returns:
        By the names of the columns, in their order.

    Raises:
        InputError: if there is no such column or kind.
    """
    given = dict(kinds or {})
    unknown = [each for each in (*given, *ignore) if each not in table.names]
    if unknown:
        raise InputError(f"{table.source} has no column {unknown[0]!r}; it has {shorten(table.names)}")
    wrong = [each for each in given.items() if each[1] not in get_args(Kind)]
    if wrong:
        name, kind = wrong[0]
        raise InputError(f"--column {name}={kind}: there is no kind {kind!r}; there are {', '.join(get_args(Kind))}")
    types = {}
    for column in table.columns:
        if column.name in ignore:
            types[column.name] = ColumnType(column.name, "dropped", "left out, as was asked for")
        elif column.name in given:
            types[column.name] = _take_for(column, given[column.name])
        else:
            types[column.name] = infer_type(column)
    return types


def shorten(names: Sequence[str], most: int = 12) -> str:
    """Names in a row, the first of them if they are many."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def infer_type(column: Column) -> ColumnType:
    """Tell what a column is."""
    values, counts = count_values(column)
    num_missing = column.num_rows - int(counts.sum())
    if not len(values):
        return ColumnType(column.name, "dropped", "no row has a value", "", num_missing, 0)
    kind, reason, form, num_unread = _judge(column, values, counts)
    if num_unread:
        reason += f"; {num_unread:,} values cannot be read so and count as missing"
    return ColumnType(column.name, kind, reason, form, num_missing + num_unread, len(values))


def count_values(column: Column) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The distinct values of a column that are not missing, and how often each occurs."""
    if column.codes is None:
        return np.unique(column.values[~np.isnan(column.values)], return_counts=True)
    counts = np.bincount(column.codes[column.codes >= 0], minlength=len(column.values))
    return column.values[counts > 0], counts[counts > 0]


Verdict = tuple[Kind, str, str, int]
"""The kind, the reason, the form, and how many values cannot be read."""


def _judge(column: Column, values: NDArray[Any], counts: NDArray[np.int64]) -> Verdict:
    if len(values) == 1 and not _is_mark(column, values[0]):
        return "dropped", f"every value is {_show(values[0])}", _find_form(column, values), 0
    if column.storage == "moments":
        return "timestamp", "the table says so", "", 0
    if column.declared == "boolean":
        return "boolean", "the table says so", "", 0
    if column.storage == "numbers":
        return _judge_numbers(column.name, values, counts, "")
    words = {str(each).lower() for each in values}
    if words in TRUTH:
        return "boolean", f"the values are {_list(values)}", "", 0
    if column.declared == "categorical":
        return "categorical", "the table says so", "", 0
    return _judge_texts(column.name, values, counts)


def _is_mark(column: Column, value: Any) -> bool:
    """True of the one value of a column in which a mark is set or not."""
    return bool(column.is_missing.any()) and str(value).lower() in YES


def _judge_texts(name: str, values: NDArray[Any], counts: NDArray[np.int64]) -> Verdict:
    style = choose_style(values)
    numbers = parse_numbers(values, style)
    is_number = ~np.isnan(numbers)
    num_unread = int(counts[~is_number].sum())
    if num_unread <= (1 - MOST_READ) * counts.sum():
        padded = [each for each in values[is_number] if re.fullmatch(r"0\d+", each)]
        if padded:
            return _judge_codes(values, counts, f"whole numbers written with leading zeros, such as {padded[0]}")
        if not (num_unread and names_rows(name) and len(values) >= UNIQUE * counts.sum()):
            known = np.unique(numbers[is_number], return_inverse=True)
            summed = np.bincount(known[1].reshape(-1), counts[is_number]).astype(np.int64)
            kind, reason, form, _ = _judge_numbers(name, known[0], summed, style)
            if kind != "categorical" or not num_unread:
                return kind, reason, form, num_unread if form else 0
            return kind, reason, "", 0
    form, share = choose_form(values)
    if share >= MOST_READ:
        unread = int(counts[np.isnan(parse_moments(values, form))].sum())
        told = "dates and times" if form == ISO else f"dates or times of the form {form}"
        doubt = "; day and month could be the other way round" if is_ambiguous(values, form) else ""
        return "timestamp", told + doubt, form, unread
    return _judge_words(name, values, counts)


def _judge_numbers(name: str, values: NDArray[Any], counts: NDArray[np.int64], style: str) -> Verdict:
    num = int(counts.sum())
    if len(values) == 2 and set(values.tolist()) == {0.0, 1.0}:
        return "boolean", "the values are 0 and 1", style, 0
    if len(values) == 1:
        return "boolean", f"a value is {_show(values[0])} or missing", style, 0
    is_whole = bool(np.isfinite(values).all() and (values == np.round(values)).all())
    if not is_whole:
        return "scalar", "numbers" + tell_far(values, counts), style, 0
    moments = explain_moments(name, values)
    if moments:
        return "timestamp", moments[0], moments[1], 0
    is_unique = len(values) >= UNIQUE * num
    row = explain_row(name, values, is_unique and len(values) == num, is_nearly=is_unique)
    if row:
        return "identifier", row, style, 0
    if names_codes(name) and not is_unique:
        return "categorical", f"whole numbers, which under the name {name!r} are codes", "", 0
    digits = count_digits(values)
    if digits >= CODE_DIGITS and num >= REPEATED * len(values) and len(values) > REPEATED and not is_round(values):
        return "categorical", f"whole numbers of {digits} digits each, which occur again and again: codes", "", 0
    told = "whole numbers" if style in ("", "plain") else "numbers"
    return "scalar", told + tell_far(values, counts), style, 0


def _judge_codes(values: NDArray[Any], counts: NDArray[np.int64], reason: str) -> Verdict:
    if len(values) >= UNIQUE * counts.sum() and counts.sum() >= FEW_ROWS:
        return "identifier", f"{reason}, nearly all unique", "", 0
    return "categorical", reason, "", 0


def _judge_words(name: str, values: NDArray[Any], counts: NDArray[np.int64]) -> Verdict:
    num, distinct = int(counts.sum()), len(values)
    sample = values[np.unique(np.linspace(0, distinct - 1, 500).astype(int))]
    words = float(np.mean([len(each.split()) for each in sample]))
    if distinct >= UNIQUE * num and num >= FEW_ROWS:
        opaque = _explain_opaque(name, sample)
        if opaque:
            return "identifier", f"{opaque}, {'all' if distinct == num else 'nearly all'} of them unique", "", 0
    is_repeated = num >= REPEATED * distinct or (distinct <= FEW and num >= 2 * distinct)
    if num < FEW_ROWS:
        is_repeated = distinct < num or words < 2
    if is_repeated and not (words >= MANY_WORDS and distinct > MANY_TEXTS):
        return "categorical", f"{distinct:,} values, each of which occurs {num / distinct:,.0f} times on average", "", 0
    has_code_look = np.mean([bool(re.search(r"\d", each)) and " " not in each for each in sample]) > MOST_READ
    if has_code_look:
        return "categorical", f"codes, of which there are {distinct:,}", "", 0
    return "text", f"{distinct:,} different texts in {num:,} rows, of {words:.1f} words on average", "", 0


def _explain_opaque(name: str, sample: Texts) -> str:
    """What texts are that name a row and say nothing else; empty if they may say something."""
    if np.mean([OPAQUE.fullmatch(each) is not None for each in sample]) > MOST_READ:
        return "addresses or keys"
    is_single = np.mean([" " not in each for each in sample]) > MOST_READ
    if not is_single:
        return ""
    if names_rows(name):
        return f"texts without a space under the name {name!r}"
    if np.mean([any(sign.isdigit() for sign in each) for each in sample]) > MOST_READ:
        return "codes with digits"
    if len({len(each) for each in sample}) == 1 and all(each.isupper() for each in sample):
        return f"codes of {len(sample[0])} letters"
    return ""


def _take_for(column: Column, kind: str) -> ColumnType:
    """A column as it was asked to be taken."""
    values, counts = count_values(column)
    num_missing = column.num_rows - int(counts.sum())
    form: str = ""
    num_unread = 0
    if kind in ("scalar", "timestamp", "boolean") and column.storage == "texts" and len(values):
        words = {str(each).lower() for each in values}
        if kind == "scalar" or (kind == "boolean" and words not in TRUTH):
            form = style = choose_style(values)
            read = parse_numbers(values, style)
        elif kind == "timestamp":
            form = choose_form(values)[0] or ISO
            read = parse_moments(values, form)
        else:
            read = np.zeros(len(values))
        num_unread = int(counts[np.isnan(read)].sum())
    own = infer_type(column)
    doubt = f"; by itself it would be {own.kind}: {own.reason}" if own.kind != kind else ""
    reason = f"as was asked for{doubt}"
    if num_unread:
        reason += f"; {num_unread:,} values cannot be read so and count as missing"
    return ColumnType(column.name, kind, reason, form, num_missing + num_unread, len(values))  # type: ignore[arg-type]


def _find_form(column: Column, values: NDArray[Any]) -> str:
    return choose_style(values) if column.storage == "texts" else ""


def _show(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, (float, np.floating)) else str(value)
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}…")


def _list(values: Texts) -> str:
    return " and ".join(map(str, values))
