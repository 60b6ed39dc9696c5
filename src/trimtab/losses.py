"""Losses that keep representations alive: each is added to a model's own loss, with a weight.

Rows in half precision are taken in float32, under autocast too: near 1, bfloat16 tells cosines apart by 0.004, which is
0.2 of a logit at a temperature of 0.02.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trimtab.errors import InputError

SHORTEST = 1e-6
"""The largest entry below which a row is not stretched to length 1: at 0 it has no direction, and its gradient stays
finite."""

TEMPERATURE = 0.1
"""What similarities are divided by: among unit vectors, one of another direction is then hardly a rival."""

NUM_PLANES = 64
"""Random planes of `compute_coverage`; the mean square over them is then within about a sixth of its expectation."""


def normalize_rows(embeddings: Tensor) -> Tensor:
    """Rows of length 1, with a finite gradient whatever they are; a row of zeros stays one.

    A row is first divided by its largest entry, so that no square overflows or vanishes.

    Args:
        embeddings: shape (…, dimensions); in half precision they are taken in float32.

    Returns:
        The same shape.
    """
    rows = embeddings.float() if embeddings.dtype in (torch.float16, torch.bfloat16) else embeddings
    scaled = rows / rows.detach().abs().amax(-1, keepdim=True).clamp_min(SHORTEST)
    lengths = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
    unit: Tensor = scaled / lengths.clamp_min(1.0)
    return unit


def compute_spread(embeddings: Tensor, *, temperature: float = TEMPERATURE) -> Tensor:
    """Rows that are told from each other: cross-entropy of each against the batch's self-similarity.

    mean over i of log Σⱼ exp(zᵢ·zⱼ / t) − zᵢ·zᵢ / t, with rows z of length 1: the target of each row is its own index.
    It is log n for n rows that are the same, and near 0 for rows far apart. It is the uniformity of Wang and Isola
    (arXiv 2005.10242, section 4.1) with the row itself in the sum, which makes it a cross-entropy and bounds it.

    Args:
        embeddings: shape (rows, dimensions), of any length.
        temperature: t, above 0.

    Returns:
        0-d, in nats, from 0 up to log n.
    """
    logits = _compare(normalize_rows(embeddings)) / temperature
    return (torch.logsumexp(logits, -1) - logits.diagonal()).mean()


def compute_diversity(
    tokens: Tensor | Mapping[str, Tensor], values: Tensor | Mapping[str, Tensor], *, temperature: float = TEMPERATURE
) -> Tensor:
    """Tokens of a column that differ where its values differ, column by column.

    Of each column the spread of its rows, against those alone that have another value, divided by its maximum: 1 for a
    dead column, whose tokens are all the same, and near 0 for one whose tokens are apart. The mean over columns is
    weighted by these numbers themselves, without a gradient through the weights: three dead columns among eighty good
    ones make it nearly 1, where a plain mean would be 0.04. A column in which all values are the same is left out.
    Tokens of zeros, which a dead rectifier gives, are the same as each other and like no other.

    Args:
        tokens: shape (rows, columns, dimensions), or by the column's name (rows, dimensions) each.
        values: what tokens stand for, as numbers: shape (rows, columns), or by the column's name (rows,) each; NaN, for
            what is missing, is a value like another.
        temperature: what similarities are divided by, above 0; the lower, the more it minds the nearest tokens alone.

    Returns:
        0-d, from 0 to 1.

    Raises:
        InputError: if there is no column.
    """
    if not len(tokens) or (not isinstance(tokens, Mapping) and not tokens.shape[1]):
        raise InputError("compute_diversity: there are no tokens; it has to have those of one column at least")
    if isinstance(tokens, Mapping):
        named: Any = values
        losses = torch.stack([_compute_sameness(each, named[name], temperature) for name, each in tokens.items()])
    else:
        losses = _compute_sameness(tokens.transpose(0, 1), torch.as_tensor(values).mT, temperature)
    weights = losses.detach()
    return (weights * losses).sum() / weights.sum().clamp_min(torch.finfo(losses.dtype).tiny)


def compute_coverage(
    embeddings: Tensor, *, num_planes: int = NUM_PLANES, generator: torch.Generator | None = None
) -> Tensor:
    """Rows on both sides of every plane through the origin: random planes, one-sidedness penalized.

    mean over planes of (mean over i of tanh(g·zᵢ))², with rows z of length 1 and normals g drawn from N(0, 1) anew at
    every call. It is 0 where every row has its opposite, and 0.39 for rows that are all the same. Of rows far on one
    side its gradient points another way with every draw of planes, and hardly moves them: add `compute_centring` to it.

    Args:
        embeddings: shape (rows, dimensions).
        num_planes: how many planes.
        generator: draws the normals, on the device of the embeddings; PyTorch's own if None.

    Returns:
        0-d, from 0 to 1.
    """
    unit = normalize_rows(embeddings)
    shape = (unit.shape[-1], num_planes)
    normals = torch.randn(shape, generator=generator, dtype=unit.dtype, device=unit.device)
    with torch.autocast(unit.device.type, enabled=False):
        return torch.tanh(unit @ normals).mean(0).square().mean()


def compute_centring(embeddings: Tensor) -> Tensor:
    """A mean of the rows at the origin: ‖mean z‖², with rows z of length 1.

    It is 1 for rows that are all the same, 0 where they cancel out, and about the mean cosine between rows. Its
    gradient points away from the mean at every step, so it moves rows that planes alone do not.

    Args:
        embeddings: shape (rows, dimensions).

    Returns:
        0-d, from 0 to 1.
    """
    return normalize_rows(embeddings).mean(0).square().sum()


def _compare(unit: Tensor) -> Tensor:
    """The cosines of all pairs of rows of length 1; shape (…, rows, rows)."""
    with torch.autocast(unit.device.type, enabled=False):
        return unit @ unit.mT


def _compute_sameness(tokens: Tensor, values: Tensor, temperature: float) -> Tensor:
    """How much the tokens of a column are the same where the values are not, from 0 to 1.

    Args:
        tokens: shape (…, rows, dimensions).
        values: shape (…, rows).
        temperature: what similarities are divided by.

    Returns:
        Shape (…).
    """
    unit = normalize_rows(tokens)
    unit = torch.cat([unit, (tokens == 0).all(-1, keepdim=True).to(unit)], -1)
    is_missing = torch.isnan(values)
    differs = (values[..., :, None] != values[..., None, :]) & ~(is_missing[..., :, None] & is_missing[..., None, :])
    rivals = (_compare(unit) - 1) / temperature  # a row's similarity with itself is 1, and the most
    own = torch.zeros_like(rivals[..., :1])
    logits = torch.cat([own, rivals.masked_fill(~differs, -torch.inf)], -1)
    highest = torch.log1p(differs.sum(-1).to(unit.dtype)).sum(-1)
    return torch.logsumexp(logits, -1).sum(-1) / highest.clamp_min(torch.finfo(unit.dtype).tiny)
