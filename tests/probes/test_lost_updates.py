"""`lost_updates`: what counts as lost, and real runs in bfloat16 and float32."""

from __future__ import annotations

from math import isnan

import pytest
import torch
from torch import nn
from torch.nn import functional

from trimtab import Supervisor
from trimtab.probes import measure, probes
from trimtab.probes.lost_updates import count_lost
from trimtab.probes.subject import Moment, Subject


@pytest.mark.parametrize(
    ("before", "now", "gradient", "counted"),
    [
        pytest.param([1.0, 1.0], [1.0, 1.0], [0.1, 0.1], (2, 2), id="all-lost"),
        pytest.param([1.0, 1.0], [1.0, 1.1], [0.1, 0.1], (1, 2), id="half-of-it"),
        pytest.param([1.0, 1.0], [1.0, 1.1], [0.0, 0.1], (0, 1), id="no-gradient-no-update"),
        pytest.param([1.0, 1.0], [1.0, 1.0], [torch.nan, 0.0], (1, 1), id="not-finite-is-a-gradient"),
        pytest.param([[1.0], [1.0]], [[1.0], [1.1]], [[0.1], [0.1]], (1, 2), id="matrix"),
        pytest.param([[1.0]] * 4, [[1.0]] * 4, [[0.1], [0.1], [0.0], [0.0]], (2, 2), id="half-of-the-rows"),
        pytest.param([[1.0]] * 4, [[1.0]] * 4, [[0.1], [0.0], [0.0], [0.0]], (0, 0), id="a-table-used-in-part"),
        pytest.param([1.0], [1.0], None, (0, 0), id="no-gradient-at-all"),
    ],
)
def test_counts(before: list[float], now: list[float], gradient: list[float] | None, counted: tuple[int, int]) -> None:
    """A weight is lost where it has a gradient and is bit for bit what it was."""
    parameter = torch.tensor(now)
    parameter.grad = None if gradient is None else torch.tensor(gradient)
    assert tuple(count_lost(parameter, torch.tensor(before)).tolist()) == counted


def test_sparse_gradients_are_left_out() -> None:
    """The rows of a sparse gradient are not those of the update before."""
    parameter = nn.Embedding(4, 2, sparse=True).weight
    functional.embedding(torch.tensor([1, 2]), parameter, sparse=True).sum().backward()
    assert count_lost(parameter.detach().requires_grad_(), parameter).tolist() == [0, 0]
    assert count_lost(parameter, parameter.detach().clone()).tolist() == [0, 0]


def make_moment(dtype: torch.dtype, *, is_due: bool, has_reference: bool = True) -> Moment:
    """A moment of a model with one layer of a dtype and one of float32, none of whose updates came through."""
    model = nn.ModuleDict({"low": nn.Linear(3, 3).to(dtype), "high": nn.Linear(3, 3)})
    for each in model.parameters():
        each.grad = torch.ones_like(each)
    subject = Subject(model, torch.optim.SGD(model.parameters(), lr=0.1))
    reference = [each.detach().clone() for each in subject.parameters] if has_reference else None
    return Moment(subject, is_ratio_due=is_due, reference=reference)


@pytest.mark.parametrize(
    ("dtype", "is_due", "size"),
    [
        pytest.param(torch.bfloat16, True, 4, id="bfloat16"),
        pytest.param(torch.float16, True, 4, id="float16"),
        pytest.param(torch.float32, True, 0, id="float32"),
        pytest.param(torch.float64, True, 0, id="float64"),
        pytest.param(torch.bfloat16, False, 0, id="not-due"),
    ],
)
def test_size_follows_what_all_ranks_share(dtype: torch.dtype, is_due: bool, size: int) -> None:
    """Two counts per parameter in half precision where the update is one to measure, with or without a reference."""
    for has_reference in (True, False):
        moment = make_moment(dtype, is_due=is_due, has_reference=has_reference)
        assert probes["lost_updates"].size(moment) == size
        values = measure(1, moment, only=["lost_updates"]).values
        assert ("lost_updates" in values) == (has_reference and size > 0)


def test_groups_in_float32_are_not_judged() -> None:
    """Of a mixed model only the groups with half-precision weights have a number."""
    shares = measure(1, make_moment(torch.bfloat16, is_due=True), only=["lost_updates"]).values["lost_updates"]
    assert isinstance(shares, tuple)
    assert shares[0] == 1.0
    assert isnan(shares[1])


def run(dtype: torch.dtype, rate: float) -> tuple[list[tuple[float, ...]], set[str]]:
    """Train for 70 steps: the shares measured, and what was found of them."""
    model = nn.Sequential(nn.Linear(16, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 1)).to(dtype)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    supervisor = Supervisor(model, optimizer)
    shares: list[tuple[float, ...]] = []
    found: set[str] = set()
    for _ in range(70):
        x = torch.randn(64, 16, dtype=dtype)
        loss = functional.mse_loss(model(x).float().squeeze(-1), x.sum(1).float())
        optimizer.zero_grad()
        loss.backward()
        decision = supervisor.check(loss)
        optimizer.step()
        share = supervisor.history.newest.values.get("lost_updates")
        shares += [share] if isinstance(share, tuple) else []
        found.update(each.detector for each in decision.findings if each.metric == "lost_updates")
    return shares, found


def test_small_rate_in_bfloat16_is_found() -> None:
    """bfloat16 weights at a rate of 1e-5 stay what they are, and that is found."""
    shares, found = run(torch.bfloat16, 1e-5)
    assert len(shares) >= 2
    assert min(map(max, shares)) > 0.95
    assert found == {"lost-update"}


def test_larger_rate_in_bfloat16_is_silent() -> None:
    """bfloat16 weights at a rate of 1e-2 move."""
    shares, found = run(torch.bfloat16, 1e-2)
    assert max(map(max, shares)) < 0.8
    assert not found


def test_float32_loses_nothing() -> None:
    """float32 weights at a rate of 1e-5 move, and nothing is measured of them."""
    assert run(torch.float32, 1e-5) == ([], set())
