"""A head on frozen embeddings: how much they say of a column that they were not shown, on rows held out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import InputError
from trimtab.tabular.columns import Table
from trimtab.tabular.inference import ColumnType
from trimtab.tabular.preparing import read_numbers, read_texts

HELD_OUT = 0.2
"""The share of rows with a target that neither the embedding nor the head is trained on."""

MOST_CLASSES = 200
"""Values of a target that is told by class."""

FEWEST = 20
"""Rows with a target that there have to be."""

STRENGTHS = (0.001, 0.01, 0.1, 1.0)
"""Of the inverse of the penalty of the head, the ones that are tried on a tenth of the rows it is trained on."""

MOST_ITERATIONS = 300
"""Of the solver of a classifier."""


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """What a head is to tell."""

    name: str
    """The column."""

    values: NDArray[Any]
    """Of each row, a number or the text of a class; only those of `rows` mean something."""

    rows: NDArray[np.int64]
    """The rows that have a value."""

    is_number: bool
    """True if it is a number, False if it is a class."""


def read_target(table: Table, told: ColumnType) -> Target:
    """The values of the target.

    Args:
        table: the table.
        told: what its column was taken for.

    Raises:
        InputError: if it is nothing that can be told, or too few rows have a value.
    """
    column = table.find(told.name)
    assert column is not None
    if told.kind in ("identifier", "dropped", "text"):
        raise InputError(
            f"--target {told.name}: its kind is {told.kind} ({told.reason}); it has to be a number or a class, "
            f"or say what it is with --column {told.name}=categorical"
        )
    is_number = told.kind in ("scalar", "timestamp")
    if is_number:
        values: NDArray[Any] = read_numbers(column, told.kind, told.form)
        rows = np.flatnonzero(np.isfinite(values))
    else:
        values = np.array(read_texts(column, told.kind), dtype=object)
        rows = np.flatnonzero([each is not None for each in values])
        num_classes = len(set(values[rows]))
        if num_classes > MOST_CLASSES:
            raise InputError(f"--target {told.name}: it has {num_classes} values; {MOST_CLASSES} are the most")
    if len(rows) < FEWEST:
        raise InputError(f"--target {told.name}: {len(rows)} rows have a value; {FEWEST} are the least")
    return Target(told.name, values, rows, is_number)


def split_rows(target: Target, num_rows: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows to train on, those without a target among them, and those held out.

    Args:
        target: the target.
        num_rows: rows of the table.
        seed: of the draw.
    """
    drawn = np.random.default_rng(seed).permutation(target.rows)
    held_out = np.sort(drawn[: max(int(len(drawn) * HELD_OUT), 1)])
    return np.setdiff1d(np.arange(num_rows), held_out), held_out


def measure_head(
    vectors: NDArray[np.float32], target: Target, trained_on: NDArray[np.int64], held_out: NDArray[np.int64]
) -> dict[str, Any]:
    """Train a linear head on frozen embeddings and measure it on the rows held out.

    Args:
        vectors: the embeddings of all rows.
        target: what to tell.
        trained_on: the rows to train on.
        held_out: the rows to measure on.

    Returns:
        Of classes `accuracy`, `balanced_accuracy` and `accuracy_of_guessing`, the share of the most frequent class; of
        numbers `r2`, the share of the variance that is told, and `mean_error`; the rows of each, and the penalty.
    """
    known = np.intersect1d(trained_on, target.rows)
    center, spread = vectors[known].mean(0), vectors[known].std(0) + 1e-6
    inputs = (vectors - center) / spread
    tried = np.random.default_rng(0).permutation(known)
    part = max(len(known) // 10, 1)
    scores = {
        each: _fit_head(inputs, target, tried[part:], each).score(inputs[tried[:part]], target.values[tried[:part]])
        for each in STRENGTHS
    }
    strength = max(scores, key=lambda each: scores[each])
    head = _fit_head(inputs, target, known, strength)
    guesses = head.predict(inputs[held_out])
    return {
        "target": target.name,
        **_score(guesses, target, known, held_out),
        "num_trained_on": len(known),
        "num_held_out": len(held_out),
        "strength": strength,
    }


def _fit_head(inputs: NDArray[Any], target: Target, rows: NDArray[np.int64], strength: float) -> Any:
    import warnings

    from sklearn.dummy import DummyClassifier
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression, Ridge

    values = target.values[rows]
    if target.is_number:
        return Ridge(alpha=1 / strength).fit(inputs[rows], values.astype(float))
    if len(set(values)) < 2:
        return DummyClassifier().fit(inputs[rows], values.astype(str))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=strength, max_iter=MOST_ITERATIONS).fit(inputs[rows], values.astype(str))


def _score(
    guesses: NDArray[Any], target: Target, known: NDArray[np.int64], held_out: NDArray[np.int64]
) -> Mapping[str, float]:
    truth = target.values[held_out]
    if target.is_number:
        truth = truth.astype(float)
        total = float(np.square(truth - truth.mean()).sum())
        left = float(np.square(truth - guesses).sum())
        return {"r2": 1 - left / total if total else 0.0, "mean_error": float(np.abs(truth - guesses).mean())}
    classes, counts = np.unique(target.values[known].astype(str), return_counts=True)
    hits = guesses == truth.astype(str)
    recalls = [float(hits[truth == each].mean()) for each in set(truth)]
    return {
        "accuracy": float(hits.mean()),
        "balanced_accuracy": float(np.mean(recalls)),
        "accuracy_of_guessing": float(np.mean(truth.astype(str) == classes[counts.argmax()])),
    }
