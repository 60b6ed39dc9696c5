"""Buffers that become not finite between two steps: found at the next check, and put back by the skip."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from trimtab import Supervisor
from trimtab.errors import Halted

BAD_STEP = 12


def train(value: float, *, has_norm: bool = True) -> tuple[nn.Module, list[str], Supervisor]:
    """Train with BatchNorm, whose running mean is overwritten after one update: the model, verdicts, supervisor."""
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(4) if has_norm else nn.LayerNorm(4)
    model = nn.Sequential(nn.Linear(3, 4), norm, nn.Linear(4, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    supervisor = Supervisor(model, optimizer)
    verdicts = []
    for step in range(1, 25):
        loss = model(torch.randn(8, 3)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        try:
            verdicts.append(supervisor.check(loss).verdict)
        except Halted:
            verdicts.append("halt")
        optimizer.step()
        if step == BAD_STEP and isinstance(norm, nn.BatchNorm1d):
            assert norm.running_mean is not None
            norm.running_mean[1] = value
    return model, verdicts, supervisor


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_ruined_statistics_are_put_back(value: float) -> None:
    """One update is skipped, and with it the statistics are again what they were."""
    model, verdicts, _ = train(value)
    assert verdicts == ["proceed"] * BAD_STEP + ["skip"] + ["proceed"] * (24 - BAD_STEP - 1)
    assert all(bool(torch.isfinite(each).all()) for each in model.buffers())


def test_large_statistics_are_no_finding() -> None:
    """Large is not infinite, as long as its square can be told in float32."""
    _, verdicts, supervisor = train(1e18)
    assert set(verdicts) == {"proceed"}
    assert supervisor.history.column("buffer_norm").max() > 1e16


def test_models_without_buffers_measure_none() -> None:
    """No metric, and so no cost."""
    _, _, supervisor = train(math.nan, has_norm=False)
    assert not supervisor.history.has("buffer_norm")
