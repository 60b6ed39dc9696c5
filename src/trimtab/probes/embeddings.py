"""Embeddings of a fixed sample: how far they are spread, in how many directions, and what can be told by them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from trimtab.errors import InputError
from trimtab.probes import Reading, probe
from trimtab.probes.geometry import (
    compute_column_diversity,
    compute_recall,
    count_distinct,
    measure_shape,
    normalize_exactly,
    read_values,
)
from trimtab.probes.subject import Moment

JOINT = "joint"
"""The view that shows whole rows."""

DIVERSITY = "column_diversity"
"""What the metrics of columns begin with."""


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """A column of the sample's rows."""

    values: Any
    """What it holds: numbers or texts, one a row."""

    tokens: Tensor | None = None
    """What the model makes of each: shape (rows, dimensions); None where there is no such thing."""

    kind: str = "scalar"
    """Its kind, such as `scalar`, `category` or `text`: a view of that name shows the columns of the kind alone."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """What a model made of a fixed sample of rows."""

    embeddings: Tensor
    """Of each row; shape (rows, dimensions)."""

    views: Mapping[str, Tensor] = field(default_factory=dict)
    """Of the same rows in another view, by its name: `joint` for whole rows, else the kind of column or the one column
    that it shows alone."""

    columns: Mapping[str, Column] = field(default_factory=dict)
    """The columns of the rows."""

    @property
    def num_numbers(self) -> int:
        """How many numbers are measured of it."""
        num_tokens = sum(each.tokens is not None for each in self.columns.values())
        return len(SHAPE) + bool(self.views) + 2 * len(self.views) + num_tokens + bool(num_tokens)


SHAPE = (
    "embedding_rows",
    "embedding_dimensions",
    "embedding_std",
    "embedding_r",
    "mean_cosine",
    "effective_rank",
    "one_sidedness",
)
"""What is measured of embeddings alone."""


def read_sample(embeddings: Any, views: Any = None, columns: Any = None) -> Sample:
    """What `review` was handed, as a sample.

    Args:
        embeddings: shape (rows, dimensions).
        views: another view of the same rows, of that shape; or by name, see `Sample.views`.
        columns: `Column` by name, or what `Column` is made of: its values, or a tuple of them and tokens.

    Raises:
        InputError: if it is nothing of the kind.
    """
    if columns is not None and not isinstance(columns, Mapping):
        raise InputError(
            f"review: columns is a {type(columns).__name__}; it has to be a dict of columns by their names"
        )
    rows = _require_rows("embeddings", embeddings)
    if len(rows) < 2:
        raise InputError(f"review: embeddings has {len(rows)} rows; it has to have two at least, better a few hundred")
    given = {} if views is None else dict(views) if isinstance(views, Mapping) else {JOINT: views}
    seen = {name: _require_rows(f"the view {name!r}", each) for name, each in given.items()}
    for name, each in seen.items():
        if each.shape != rows.shape:
            raise InputError(
                f"review: the view {name!r} has shape {tuple(each.shape)}; it has to have that of embeddings, "
                f"{tuple(rows.shape)}: the same rows in the same order"
            )
    made = {name: _make_column(name, each, len(rows)) for name, each in (columns or {}).items()}
    return Sample(rows, seen, made)


def measure_embeddings(sample: Sample) -> dict[str, Tensor]:
    """What is measured of a sample, as 0-d tensors.

    `embedding_std` is the standard deviation of a dimension over unit rows, the mean over dimensions, and
    `embedding_r` that times √d: about √(1 − `mean_cosine`), whatever d is. `effective_rank` is that of Roy and
    Vetterli (EUSIPCO 2007) of the covariance of unit rows: e to the entropy of its eigenvalues, divided by their sum.
    `one_sidedness` is how far the share of rows on the fuller side of a random plane is above a half, times 2, the mean
    over planes: 0 for rows on all sides, 1 for rows that are the same.

    `recall_at_1` is the share of rows whose joint view is nearest to their own embedding, `recall_ceiling` the share
    that is possible, distinct rows ÷ rows as far as columns say, and `recall_chance` that of guessing. A view of a kind
    of column has both under the kind's name, as in `scalar_recall_at_1`, and a view of one column after `column_`, as
    in `column_recall_at_1_carat`. `column_diversity_…` is 1 − the mean cosine between tokens of different values: 0 for
    a dead column; `column_diversity` is the lowest of them.

    Args:
        sample: what the model made of the rows.
    """
    unit = normalize_exactly(sample.embeddings)
    return {
        **measure_shape(unit),
        **_measure_recall(unit, sample),
        **_measure_columns(sample),
    }


@probe("embeddings", size=lambda moment: 0 if moment.sample is None else moment.sample.num_numbers)
def read_embeddings(moment: Moment) -> Reading:
    """The metrics of `measure_embeddings`, of the sample that a review was handed.

    Every rank measures its own, and they are averaged. The diversity of a column whose values are all the same is
    absent; what is not finite because an embedding, a view or a token is not, stays so, and is found.
    """
    if moment.sample is None:
        return {}
    found = measure_embeddings(moment.sample)
    numbers = yield torch.stack([each.double().cpu() for each in found.values()])
    measured = dict(zip(found, map(float, numbers), strict=True))
    return {name: each for name, each in measured.items() if each == each or not name.startswith(DIVERSITY)}


def _measure_recall(unit: Tensor, sample: Sample) -> dict[str, Tensor]:
    if not sample.views:
        return {}
    found = {"recall_chance": unit.new_tensor(1 / len(unit))}
    for view, rows in sample.views.items():
        shown = [each for each in sample.columns.values() if view in (JOINT, each.kind)]
        prefix, suffix = "" if view == JOINT else f"{view}_", ""
        if not shown and view in sample.columns:
            shown, prefix, suffix = [sample.columns[view]], "column_", f"_{view}"
        num_distinct = count_distinct([each.values for each in shown], len(unit))
        found[f"{prefix}recall_at_1{suffix}"] = compute_recall(normalize_exactly(rows), unit)
        found[f"{prefix}recall_ceiling{suffix}"] = unit.new_tensor(num_distinct / len(unit))
    return found


def _measure_columns(sample: Sample) -> dict[str, Tensor]:
    found = {
        f"{DIVERSITY}_{name}": compute_column_diversity(each.tokens, each.values)
        for name, each in sample.columns.items()
        if each.tokens is not None
    }
    if not found:
        return {}
    numbers = torch.stack([each.cpu() for each in found.values()])
    told = numbers[~torch.isnan(numbers)]
    return {DIVERSITY: told.min() if len(told) else numbers[0], **found}


def _require_rows(name: str, given: Any) -> Tensor:
    if not isinstance(given, Tensor) or given.ndim != 2 or not given.is_floating_point() or not given.shape[1]:
        raise InputError(
            f"review: {name} is {_describe(given)}; it has to be a float tensor of shape (rows, dimensions)"
        )
    return given.detach()


def _describe(given: Any) -> str:
    return f"of shape {tuple(given.shape)}, {given.dtype}" if isinstance(given, Tensor) else type(given).__name__


def _make_column(name: str, given: Any, num_rows: int) -> Column:
    is_pair = isinstance(given, tuple) and len(given) in (2, 3) and isinstance(given[1], Tensor)
    column = given if isinstance(given, Column) else Column(*given) if is_pair else Column(given)
    values = read_values(column.values)
    if values is None:
        raise InputError(
            f"review: the values of the column {name!r} are {_describe(column.values)}; they have to be a list, array "
            "or tensor with one number or text for each row"
        )
    sizes = [len(values)] if column.tokens is None else [len(values), len(column.tokens)]
    if column.tokens is not None:
        _require_rows(f"the tokens of {name!r}", column.tokens)
    if any(size != num_rows for size in sizes):
        raise InputError(
            f"review: the column {name!r} has {' values and '.join(map(str, sizes))}"
            f"{' tokens' if len(sizes) > 1 else ' values'}; embeddings has {num_rows} rows"
        )
    return replace(column, values=values)
