"""Columns that give a target away: each of them tells it alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.tabular.columns import Column, Table
from trimtab.tabular.head import Target
from trimtab.tabular.inference import ColumnType
from trimtab.tabular.preparing import read_numbers, read_texts

TOLD = 0.98
"""The share of what guessing gets wrong that a column has to tell alone to give a target away."""

NUM_BINS = 64
"""Bins of a number by which a target is told."""

MOST_REPEATED = 0.5
"""The share of distinct values above which a category tells nothing of other rows."""


def find_leaks(
    table: Table, types: Mapping[str, ColumnType], target: Target, trained_on: NDArray[np.int64]
) -> dict[str, float]:
    """The columns that tell a target alone, with the share of what guessing gets wrong that they tell.

    A column tells by the most frequent class, or the mean number, of the rows that have the same value or lie in the
    same bin; a number also by a line. It is measured on a third of the rows trained on, and learned from the others.

    Args:
        table: the table.
        types: what its columns are.
        target: the target.
        trained_on: the rows trained on.
    """
    rows = np.random.default_rng(0).permutation(np.intersect1d(trained_on, target.rows))
    measured, learned = rows[: len(rows) // 3], rows[len(rows) // 3 :]
    if not len(measured):
        return {}
    shares = {
        column.name: _measure(column, types[column.name], target, learned, measured)
        for column in table.columns
        if types[column.name].is_feature and column.name != target.name
    }
    return {name: share for name, share in shares.items() if share >= TOLD}


def _measure(
    column: Column, told: ColumnType, target: Target, learned: NDArray[np.int64], measured: NDArray[np.int64]
) -> float:
    codes = _encode(column, told, learned)
    shares = [_tell(codes, target, learned, measured)]
    if target.is_number and told.kind in ("scalar", "timestamp"):
        shares.append(_tell_by_line(read_numbers(column, told.kind, told.form), target, learned, measured))
    return max(shares)


def _encode(column: Column, told: ColumnType, learned: NDArray[np.int64]) -> NDArray[np.int64]:
    """The value of each row as a whole number, of numbers the bin; a missing one is a value, too."""
    if told.kind in ("scalar", "timestamp"):
        numbers = read_numbers(column, told.kind, told.form)
        finite = numbers[learned][np.isfinite(numbers[learned])]
        known = np.unique(finite)
        bounds = known if len(known) <= NUM_BINS else np.quantile(finite, np.linspace(0, 1, NUM_BINS + 1)[1:-1])
        return np.where(np.isnan(numbers), -1, np.searchsorted(bounds, numbers))
    places: dict[str | None, int] = {}
    texts = read_texts(column, told.kind)
    codes = np.array([places.setdefault(each, len(places)) for each in texts], np.int64)
    return codes if len(places) <= MOST_REPEATED * len(texts) else np.zeros_like(codes)


def _tell(codes: NDArray[np.int64], target: Target, learned: NDArray[np.int64], measured: NDArray[np.int64]) -> float:
    """The share of what guessing gets wrong that the value of a column tells."""
    known, places = np.unique(codes, return_inverse=True)
    if target.is_number:
        values = target.values.astype(float)
        counts = np.bincount(places[learned], minlength=len(known))
        sums = np.bincount(places[learned], values[learned], minlength=len(known))
        guess = values[learned].mean()
        means = np.where(counts > 0, sums / np.maximum(counts, 1), guess)
        return _compare(np.square(values[measured] - means[places[measured]]).sum(), values[measured], guess)
    classes, labels = np.unique(target.values.astype(str), return_inverse=True)
    table = np.zeros((len(known), len(classes)))
    np.add.at(table, (places[learned], labels[learned]), 1)
    most = int(table.sum(0).argmax())
    best = np.where(table.sum(1) > 0, table.argmax(1), most)
    wrong, guessed_wrong = (float(np.mean(each != labels[measured])) for each in (best[places[measured]], most))
    return 1 - wrong / guessed_wrong if guessed_wrong else 0.0


def _tell_by_line(
    numbers: NDArray[np.float64], target: Target, learned: NDArray[np.int64], measured: NDArray[np.int64]
) -> float:
    values = target.values.astype(float)
    fitting, judged = (rows[np.isfinite(numbers[rows])] for rows in (learned, measured))
    if len(fitting) < 3 or len(judged) < 3 or len(judged) < len(measured) / 2:
        return 0.0
    inputs, wanted = numbers[fitting] - numbers[fitting].mean(), values[fitting] - values[fitting].mean()
    total = float(np.square(inputs).sum())
    slope = float((inputs * wanted).sum()) / total if total and np.isfinite(total) else 0.0
    told = values[fitting].mean() + slope * (numbers[judged] - numbers[fitting].mean())
    return _compare(np.square(values[judged] - told).sum(), values[judged], float(values[fitting].mean()))


def _compare(left: Any, values: NDArray[np.float64], guess: float) -> float:
    total = float(np.square(values - guess).sum())
    return 1 - float(left) / total if total else 0.0
