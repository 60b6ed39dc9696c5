"""The losses that keep representations alive: known points, permutations, and gradients that stay finite."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import log

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from trimtab import InputError
from trimtab.losses import compute_centring, compute_coverage, compute_diversity, compute_spread, normalize_rows

ROWS, DIMENSIONS = 12, 5

Loss = Callable[[Tensor], Tensor]


def cover(embeddings: Tensor) -> Tensor:
    """Coverage with the same planes at every call."""
    return compute_coverage(embeddings, generator=torch.Generator().manual_seed(0))


def differ(embeddings: Tensor) -> Tensor:
    """The diversity of one column whose values all differ."""
    return compute_diversity(embeddings[:, None], torch.arange(len(embeddings))[:, None])


LOSSES = [
    pytest.param(compute_spread, id="spread"),
    pytest.param(partial(compute_spread, temperature=0.01), id="spread-cold"),
    pytest.param(differ, id="diversity"),
    pytest.param(cover, id="coverage"),
    pytest.param(compute_centring, id="centring"),
]

DEGENERATE = {
    "zeros": torch.zeros(ROWS, DIMENSIONS),
    "one-zero": torch.cat([torch.zeros(1, DIMENSIONS), torch.ones(ROWS - 1, DIMENSIONS)]),
    "identical": torch.ones(ROWS, DIMENSIONS),
    "huge": torch.linspace(1, 2, ROWS * DIMENSIONS).reshape(ROWS, DIMENSIONS) * 1e38,
    "tiny": torch.linspace(1, 2, ROWS * DIMENSIONS).reshape(ROWS, DIMENSIONS) * 1e-38,
    "of-all-sizes": torch.logspace(-38, 38, ROWS)[:, None] * torch.ones(DIMENSIONS),
    "opposite": torch.tensor([1.0, -1.0]).repeat(ROWS // 2)[:, None] * torch.ones(DIMENSIONS),
}


@pytest.mark.parametrize("rows", DEGENERATE.values(), ids=DEGENERATE.keys())
@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_finite(loss: Loss, rows: Tensor) -> None:
    """Rows that are zero, the same, huge, tiny or opposite give a finite loss and a finite gradient."""
    embeddings = rows.clone().requires_grad_()
    value = loss(embeddings)
    value.backward()
    assert torch.isfinite(value.detach())
    assert embeddings.grad is not None
    assert torch.isfinite(embeddings.grad).all()


@pytest.mark.parametrize("loss", LOSSES)
@given(seed=st.integers(0, 2**32), scale=st.floats(1e-3, 1e3))
def test_order_and_length_do_not_matter(loss: Loss, seed: int, scale: float) -> None:
    """Rows in another order, or all of them longer, give the same number."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(ROWS, DIMENSIONS, generator=generator, dtype=torch.float64)
    order = torch.randperm(ROWS, generator=generator)
    assert float(loss(scale * rows[order])) == pytest.approx(float(loss(rows)), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("loss", LOSSES)
@given(seed=st.integers(0, 2**32))
def test_a_small_step_down_the_gradient_lowers_it(loss: Loss, seed: int) -> None:
    """The gradient is that of the number: a small step against it does not raise it."""
    rows = torch.randn(ROWS, DIMENSIONS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    embeddings = rows.requires_grad_()
    value = loss(embeddings)
    (gradient,) = torch.autograd.grad(value, embeddings)
    step = 1e-6 / max(float(gradient.norm()), 1e-6)
    assert float(loss((embeddings - step * gradient).detach())) <= float(value.detach()) + 1e-9


def test_known_points_of_the_spread() -> None:
    """Log n for rows that are the same, log n for rows of zeros, nearly 0 for orthogonal ones."""
    assert float(compute_spread(torch.ones(64, 3))) == pytest.approx(log(64), rel=1e-5)
    assert float(compute_spread(torch.zeros(64, 3))) == pytest.approx(log(64), rel=1e-5)
    expected = log(1 + 7 * torch.tensor(-10.0).exp())
    assert float(compute_spread(torch.eye(8))) == pytest.approx(expected, rel=1e-3)


def test_known_points_of_coverage_and_centring() -> None:
    """Opposite rows are covered and centred; rows that are the same are neither."""
    opposite, same = torch.cat([torch.eye(8), -torch.eye(8)]), torch.ones(16, 8)
    assert float(cover(opposite)) == pytest.approx(0, abs=1e-12)
    assert float(compute_centring(opposite)) == pytest.approx(0, abs=1e-12)
    assert float(compute_centring(same)) == pytest.approx(1, rel=1e-6)
    many = compute_coverage(same, num_planes=20_000, generator=torch.Generator().manual_seed(0))
    assert float(many) == pytest.approx(0.394, abs=0.01)


def test_centring_works_where_planes_do_not() -> None:
    """Rows far on one side are hardly moved by planes alone, and are by centring, with as many steps."""

    def train(loss: Loss) -> float:
        rows = torch.randn(64, 32, generator=torch.Generator().manual_seed(0)) + 20
        optimizer = torch.optim.Adam([rows.requires_grad_()], lr=0.05)
        for _ in range(300):
            optimizer.zero_grad()
            loss(rows).backward()
            optimizer.step()
        return float(compute_centring(rows.detach()))

    generator = torch.Generator().manual_seed(0)
    assert train(partial(compute_coverage, generator=generator)) > 0.9
    assert train(compute_centring) < 0.6


def test_dead_columns_do_not_hide() -> None:
    """Three dead columns among eighty good ones give nearly 1, and all of the gradient goes to them."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.eye(16).repeat(83, 1, 1).transpose(0, 1).clone()
    tokens[:, 80:] = torch.ones(16, 3, 16) + 1e-3 * torch.randn(16, 3, 16, generator=generator)
    tokens.requires_grad_()
    loss = compute_diversity(tokens, torch.arange(16)[:, None].expand(16, 83))
    loss.backward()
    assert loss > 0.9
    assert tokens.grad is not None
    norms = tokens.grad.norm(dim=(0, 2))
    assert norms[80:].min() > 100 * norms[:80].max()


def test_diversity_minds_values() -> None:
    """Tokens may be the same where values are; a constant column, and a table of them, cost nothing."""
    values = torch.tensor([0, 0, 1, 1])
    tokens = torch.eye(2)[values]
    assert float(compute_diversity({"a": tokens}, {"a": values})) < 1e-3
    assert float(compute_diversity({"a": torch.ones(4, 2)}, {"a": values})) == pytest.approx(1)
    assert float(compute_diversity({"a": torch.ones(4, 2)}, {"a": torch.zeros(4)})) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_taken_in_float32(dtype: torch.dtype) -> None:
    """Rows whose squares overflow in half precision are normalized all the same."""
    rows = torch.full((4, 512), 1e4).to(dtype)
    assert float(normalize_rows(rows).norm(dim=1).max()) == pytest.approx(1, rel=1e-5)
    assert float(compute_spread(rows)) == pytest.approx(log(4), rel=1e-4)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_changes_nothing(loss: Loss, dtype: torch.dtype) -> None:
    """Under autocast they are what they are without it."""
    rows = 1 + 0.01 * torch.randn(32, 16, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype):
        under = loss(rows)
    assert under.dtype == torch.float32
    assert float(under) == float(loss(rows))


def test_tokens_of_zeros_are_the_same() -> None:
    """A column whose encoder gives nothing but zeros is dead; one zero among other tokens is like none of them."""
    values = torch.arange(8)
    assert float(compute_diversity({"a": torch.zeros(8, 7)}, {"a": values})) == pytest.approx(1)
    tokens = torch.cat([torch.zeros(1, 7), torch.eye(7)])
    assert float(compute_diversity({"a": tokens}, {"a": values})) < 1e-3


def test_missing_values_are_the_same() -> None:
    """Tokens may be the same where the values of both rows are missing."""
    values = torch.tensor([torch.nan, torch.nan, 1.0, 1.0])
    assert float(compute_diversity({"a": torch.eye(2)[[0, 0, 1, 1]]}, {"a": values})) < 1e-3


def test_diversity_of_no_column_is_refused() -> None:
    """There is nothing to tell apart."""
    with pytest.raises(InputError, match="there are no tokens"):
        compute_diversity({}, {})
