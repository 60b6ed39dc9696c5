"""Embeddings of a fixed sample: how far they are spread, in how many directions, and what can be told by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trimtab.errors import InputError
from trimtab.probes import Reading, probe
from trimtab.probes.subject import Moment

JOINT = "joint"
"""The view that shows whole rows."""

NUM_PLANES = 256
"""Random planes that one-sidedness is taken over; the same in every review."""

CHUNK_ROWS = 1024
"""Rows whose similarities with all others are in memory at a time."""


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
    """Of the same rows in another view, by its name: `joint` for whole rows, else the kind of column it shows alone."""

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
    that is possible, distinct rows ÷ rows as far as columns say, and `recall_chance` that of guessing. A kind of column
    has both under its own name. `column_diversity_…` is 1 − the mean cosine between tokens of different values: 0 for a
    dead column; `column_diversity` is the lowest of them.

    Args:
        sample: what the model made of the rows.
    """
    unit = _normalize(sample.embeddings)
    return {
        **_measure_shape(unit),
        **_measure_recall(unit, sample),
        **_measure_columns(sample),
    }


@probe("embeddings", size=lambda moment: 0 if moment.sample is None else moment.sample.num_numbers)
def read_embeddings(moment: Moment) -> Reading:
    """The metrics of `measure_embeddings`, of the sample that a review was handed.

    Every rank measures its own, and they are averaged. What cannot be told is absent: the diversity of a column whose
    values are all the same.
    """
    if moment.sample is None:
        return {}
    found = measure_embeddings(moment.sample)
    numbers = yield torch.stack([each.double().cpu() for each in found.values()])
    measured = dict(zip(found, map(float, numbers), strict=True))
    return {name: each for name, each in measured.items() if each == each or name in SHAPE}


def _measure_shape(unit: Tensor) -> dict[str, Tensor]:
    num, dimensions = unit.shape
    mean = unit.mean(0)
    centred = unit - mean
    std = centred.square().mean(0).sqrt().mean()
    sides = (unit @ _draw_planes(dimensions).to(unit) > 0).to(unit.dtype).mean(0)
    numbers = {
        "embedding_rows": num,
        "embedding_dimensions": dimensions,
        "embedding_std": std,
        "embedding_r": std * dimensions**0.5,
        "mean_cosine": (num * mean.square().sum() - unit.square().sum() / num) / (num - 1),
        "effective_rank": compute_effective_rank(centred),
        "one_sidedness": (2 * sides - 1).abs().mean(),
    }
    return {name: torch.as_tensor(each, dtype=unit.dtype, device=unit.device) for name, each in numbers.items()}


def compute_effective_rank(rows: Tensor) -> Tensor:
    """How many directions rows take up: 1 for rows that are the same, NaN where a number is not finite.

    It is e to the entropy of the eigenvalues of their covariance, divided by their sum.

    Of the covariance and not of the rows themselves: among the singular values of rows, what is left of the directions
    that have gone still counts, and hides it.

    Args:
        rows: centred; shape (rows, dimensions), float64 but on devices that have none.
    """
    gram = rows.mT @ rows if rows.shape[0] >= rows.shape[1] else rows @ rows.mT
    if not bool(torch.isfinite(gram).all()):
        return gram.new_tensor(torch.nan)
    values = torch.linalg.eigvalsh(gram).clamp_min(0)
    total = values.sum()
    if not bool(total > 0):
        return gram.new_ones(())
    rank: Tensor = torch.special.entr(values / total).sum().exp()
    return rank


def _measure_recall(unit: Tensor, sample: Sample) -> dict[str, Tensor]:
    if not sample.views:
        return {}
    num = len(unit)
    found = {"recall_chance": unit.new_tensor(1 / num)}
    for name, view in sample.views.items():
        prefix = "" if name == JOINT else f"{name}_"
        shown = [each for each in sample.columns.values() if name in (JOINT, each.kind)]
        found[f"{prefix}recall_at_1"] = _compute_recall(_normalize(view), unit)
        found[f"{prefix}recall_ceiling"] = unit.new_tensor(count_distinct(shown, num) / num)
    return found


def _compute_recall(queries: Tensor, keys: Tensor) -> Tensor:
    """The share of queries whose nearest key is their own; NaN where one is not finite."""
    queries, keys = queries.float(), keys.float()
    nearest = torch.cat([(each @ keys.mT).argmax(1) for each in queries.split(CHUNK_ROWS)])
    hits = (nearest == torch.arange(len(keys), device=keys.device)).double()
    return torch.where(torch.isfinite(queries).all() & torch.isfinite(keys).all(), hits.mean(), torch.nan)


def count_distinct(columns: Sequence[Column], num_rows: int) -> int:
    """The distinct rows, as far as columns tell; all of them where there is none."""
    if not columns:
        return num_rows
    codes = np.stack([_encode(each.values) for each in columns], axis=1)
    return len(np.unique(codes, axis=0))


def _measure_columns(sample: Sample) -> dict[str, Tensor]:
    found = {
        f"column_diversity_{name}": compute_column_diversity(each.tokens, each.values)
        for name, each in sample.columns.items()
        if each.tokens is not None
    }
    if not found:
        return {}
    numbers = torch.stack([each.cpu() for each in found.values()])
    told = numbers[~torch.isnan(numbers)]
    return {"column_diversity": told.min() if len(told) else numbers[0], **found}


def compute_column_diversity(tokens: Tensor, values: Any) -> Tensor:
    """1 − the mean cosine over all pairs of tokens whose values differ; NaN where none do.

    Sums over all pairs are squares of sums, so that it costs as much as reading the tokens.
    """
    unit = _normalize(tokens)
    codes = torch.from_numpy(_encode(values)).to(unit.device)
    sums = unit.new_zeros(int(codes.max()) + 1, unit.shape[1]).index_add_(0, codes, unit)
    counts = torch.bincount(codes).to(unit.dtype)
    num_pairs = counts.sum().square() - counts.square().sum()
    cosines = sums.sum(0).square().sum() - sums.square().sum()
    return 1 - cosines / num_pairs


def _normalize(rows: Tensor) -> Tensor:
    """Rows of length 1 in float64, or float32 where there is no such thing; a row of zeros stays one."""
    exact = rows.detach().to(torch.float32 if rows.device.type == "mps" else torch.float64)
    unit: Tensor = exact / torch.linalg.vector_norm(exact, dim=1, keepdim=True).clamp_min(torch.finfo(exact.dtype).tiny)
    return unit


@cache
def _draw_planes(dimensions: int) -> Tensor:
    return torch.randn(dimensions, NUM_PLANES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _encode(values: Any) -> NDArray[np.int64]:
    """A whole number for each value, the same for the same; shape (rows,)."""
    array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
    if array.dtype.kind in "OUS":
        known: dict[str, int] = {}
        return np.array([known.setdefault(repr(each), len(known)) for each in array.tolist()], dtype=np.int64)
    codes: NDArray[np.int64] = np.unique(array, return_inverse=True)[1].reshape(-1).astype(np.int64)
    return codes


def _require_rows(name: str, given: Any) -> Tensor:
    if not isinstance(given, Tensor) or given.ndim != 2 or not given.is_floating_point():
        shown = f"of shape {tuple(given.shape)}, {given.dtype}" if isinstance(given, Tensor) else type(given).__name__
        raise InputError(f"review: {name} is {shown}; it has to be a float tensor of shape (rows, dimensions)")
    return given.detach()


def _make_column(name: str, given: Any, num_rows: int) -> Column:
    column = given if isinstance(given, Column) else Column(*given) if isinstance(given, tuple) else Column(given)
    sizes = [len(column.values)] if column.tokens is None else [len(column.values), len(column.tokens)]
    if column.tokens is not None:
        _require_rows(f"the tokens of {name!r}", column.tokens)
    if any(size != num_rows for size in sizes):
        raise InputError(
            f"review: the column {name!r} has {' values and '.join(map(str, sizes))}"
            f"{' tokens' if len(sizes) > 1 else ' values'}; embeddings has {num_rows} rows"
        )
    return column
