"""How rows of a matrix lie on the sphere: spread, directions, nearest rows, and tokens of a column."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NUM_PLANES = 256
"""Random planes that one-sidedness is taken over; the same in every review."""

CHUNK_ROWS = 1024
"""Rows whose similarities with all others are in memory at a time."""


def normalize_exactly(rows: Tensor) -> Tensor:
    """Rows of length 1 in float64, or float32 where there is no such thing; a row of zeros stays one."""
    exact = rows.detach().to(torch.float32 if rows.device.type == "mps" else torch.float64)
    largest = exact.abs().amax(1, keepdim=True)
    scaled = torch.where(largest > 0, exact / largest, exact)  # so that no square overflows or vanishes
    unit: Tensor = scaled / torch.linalg.vector_norm(scaled, dim=1, keepdim=True).clamp_min(1.0)
    return unit


def measure_shape(unit: Tensor) -> dict[str, Tensor]:
    """What is measured of embeddings alone, see `trimtab.probes.embeddings.measure_embeddings`; each 0-d.

    Args:
        unit: rows of length 1; shape (rows, dimensions).
    """
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
        "one_sidedness": torch.where(torch.isfinite(std), (2 * sides - 1).abs().mean(), torch.nan),
    }
    return {name: torch.as_tensor(each, dtype=unit.dtype, device=unit.device) for name, each in numbers.items()}


def compute_effective_rank(rows: Tensor) -> Tensor:
    """How many directions rows take up: 1 for rows that are the same, NaN where a number is not finite.

    It is e to the entropy of the eigenvalues of their covariance, divided by their sum (Roy and Vetterli, EUSIPCO 2007,
    who take singular values). Of the covariance and not of the rows themselves: among the singular values of rows, what
    is left of the directions that have gone still counts, and hides it.

    Args:
        rows: centred; shape (rows, dimensions), float64 but on devices that have none.

    Returns:
        0-d, from 1 up to the number of dimensions, or of rows − 1 where there are no more.
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


def compute_recall(queries: Tensor, keys: Tensor) -> Tensor:
    """The share of queries whose nearest key is their own; of keys as near as each other the first is the nearest.

    Keys are taken from their mean, which changes no order and keeps the digits that tell keys apart when they are
    nearly the same: of those float32 has seven.

    Args:
        queries: rows of length 1; shape (rows, dimensions).
        keys: rows of length 1, the nearest of each query being that of the same number; the same shape.

    Returns:
        0-d; NaN where a number is not finite.
    """
    mean = keys.mean(0)
    apart = keys - mean
    offsets, targets = (apart @ mean).float(), apart.float().mT
    nearest = [(each.float() @ targets + offsets).argmax(1) for each in (queries - mean).split(CHUNK_ROWS)]
    hits = (torch.cat(nearest) == torch.arange(len(keys), device=keys.device)).to(keys.dtype)
    return torch.where(torch.isfinite(queries).all() & torch.isfinite(keys).all(), hits.mean(), torch.nan)


def compute_column_diversity(tokens: Tensor, values: Any) -> Tensor:
    """1 − the mean cosine over all pairs of tokens whose values differ.

    Tokens of zeros, which a dead rectifier gives, are the same as each other and like no other. Sums over all pairs are
    squares of sums, so that it costs as much as reading the tokens.

    Args:
        tokens: shape (rows, dimensions).
        values: numbers or texts, one a row; those that are missing are the same.

    Returns:
        0-d; NaN where no values differ, infinite where a token is not finite.
    """
    unit = normalize_exactly(tokens)
    unit = torch.cat([unit, (tokens == 0).all(1, keepdim=True).to(unit)], 1)
    codes = torch.from_numpy(encode_values(values)).to(unit.device)
    sums = unit.new_zeros(int(codes.max()) + 1, unit.shape[1]).index_add_(0, codes, unit)
    counts = torch.bincount(codes).to(unit.dtype)
    num_pairs = counts.sum().square() - counts.square().sum()
    cosines = sums.sum(0).square().sum() - sums.square().sum()
    return torch.where(torch.isfinite(cosines) | (num_pairs == 0), 1 - cosines / num_pairs, torch.inf)


def count_distinct(columns: Sequence[Any], num_rows: int) -> int:
    """The distinct rows, as far as the values of columns tell; all of them where there is no column."""
    if not columns:
        return num_rows
    codes = np.stack([encode_values(each) for each in columns], axis=1)
    return len(np.unique(codes, axis=0))


def read_values(values: Any) -> NDArray[Any] | None:
    """Values as an array, those of bfloat16 in float32; None where they are not one a row."""
    if isinstance(values, Tensor):
        host = values.detach().cpu()
        array = (host.float() if host.dtype == torch.bfloat16 else host).numpy()
    else:
        try:
            array = np.asarray(values)
        except ValueError:  # lists of different lengths
            return None
    return array if array.ndim == 1 else None


def encode_values(values: Any) -> NDArray[np.int64]:
    """A whole number for each value, the same for the same; shape (rows,)."""
    array = read_values(values)
    assert array is not None
    if array.dtype.kind in "OUS":
        known: dict[str, int] = {}
        return np.array([known.setdefault(repr(each), len(known)) for each in array.tolist()], dtype=np.int64)
    codes: NDArray[np.int64] = np.unique(array, return_inverse=True)[1].reshape(-1).astype(np.int64)
    return codes


@cache
def _draw_planes(dimensions: int) -> Tensor:
    return torch.randn(dimensions, NUM_PLANES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
