"""Corrupted optimizer moments are told from healthy ones, and named."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from trimtab.state.buffers import BufferCopies
from trimtab.state.live import LiveState, Snapshot
from trimtab.state.moments import TIMES, find_corrupt_moments


def train(
    make: type[torch.optim.Optimizer] = torch.optim.AdamW, steps: int = 12
) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Linear(4, 2)
    optimizer = make(model.parameters(), lr=0.01)  # type: ignore[call-arg]
    for seed in range(steps):
        take_step(model, optimizer, seed)
    return model, optimizer


def take_step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    (model(x) - x[:, :2]).square().mean().backward()
    optimizer.step()


def keep(optimizer: torch.optim.Optimizer) -> Snapshot:
    snapshot = Snapshot()
    LiveState(optimizer, BufferCopies(nn.Module())).copy_into(snapshot)
    return snapshot


def find(model: nn.Module, optimizer: torch.optim.Optimizer, snapshot: Snapshot | None) -> list[str]:
    return find_corrupt_moments(optimizer, snapshot, {id(each): name for name, each in model.named_parameters()})


def get_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state: dict[str, Tensor] = optimizer.state[model.get_parameter("weight")]
    return state


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("has_snapshot", [True, False])
def test_moment_that_is_not_finite_is_named(value: float, has_snapshot: bool) -> None:
    """One number that is not finite is enough, with a snapshot or without."""
    model, optimizer = train()
    snapshot = keep(optimizer) if has_snapshot else None
    get_state(model, optimizer)["exp_avg_sq"].view(-1)[3] = value
    assert find(model, optimizer, snapshot) == ["weight: exp_avg_sq"]


def test_moment_far_larger_than_before_is_named() -> None:
    """So is one whose norm is more than a thousand times what it was, and none below."""
    model, optimizer = train()
    snapshot = keep(optimizer)
    get_state(model, optimizer)["exp_avg"].mul_(0.99 * TIMES)
    assert find(model, optimizer, snapshot) == []
    get_state(model, optimizer)["exp_avg"].mul_(1.02)
    assert find(model, optimizer, snapshot) == ["weight: exp_avg"]
    assert find(model, optimizer, None) == []


@pytest.mark.parametrize("make", [torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.SGD])
def test_healthy_moments_are_not_named(make: type[torch.optim.Optimizer]) -> None:
    """What a few healthy steps make of moments, step counts included, is nothing to name."""
    model, optimizer = train(make, 2)
    snapshot = keep(optimizer)
    for seed in range(12):
        take_step(model, optimizer, seed)
    assert find(model, optimizer, snapshot) == []


def test_moments_that_began_at_zero_are_not_named() -> None:
    """A moment that was exactly 0 says nothing of scale."""
    model, optimizer = train()
    for state in optimizer.state.values():
        state["exp_avg"].zero_()
    snapshot = keep(optimizer)
    take_step(model, optimizer, 1)
    assert find(model, optimizer, snapshot) == []


def test_parameter_without_a_name_is_told_so() -> None:
    """A parameter the model does not own is one of the others."""
    _, optimizer = train()
    next(iter(optimizer.state.values()))["exp_avg"].fill_(math.nan)
    assert find_corrupt_moments(optimizer, None, {}) == ["(other): exp_avg"]
