"""A compiled model is compiled as without a supervisor: no further graph, no break, no bit of difference."""

from __future__ import annotations

import torch
from torch import nn
from torch._dynamo.utils import counters
from torch.nn import functional

from trimtab import Supervisor

NUM_STEPS = 5
"""The second of them is a sampled step, with hooks in the forward pass."""


def train(*, is_supervised: bool) -> tuple[dict[str, torch.Tensor], int, int]:
    """The weights after a run of a compiled model with a fused optimizer, its graphs, and its graph breaks."""
    torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
    compiled: nn.Module = torch.compile(model, backend="eager")  # type: ignore[assignment]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    supervisor = Supervisor(compiled, optimizer, strict=True) if is_supervised else None
    for _ in range(NUM_STEPS):
        x = torch.randn(16, 6)
        loss = functional.mse_loss(compiled(x), x.sum(1, keepdim=True))
        optimizer.zero_grad()
        loss.backward()
        if supervisor is not None:
            supervisor.check(loss)
        optimizer.step()
    num_graphs, num_breaks = counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())
    return dict(model.state_dict()), num_graphs, num_breaks


def test_compiled_model_has_no_break_more() -> None:
    """Neither a usual nor a sampled step breaks a graph, and under a fused optimizer every bit is the same."""
    alone, num_graphs, num_breaks = train(is_supervised=False)
    seen, num_graphs_seen, num_breaks_seen = train(is_supervised=True)
    assert num_graphs >= 1
    assert (num_breaks, num_breaks_seen) == (0, 0)
    assert num_graphs_seen == num_graphs
    assert all(torch.equal(seen[name], alone[name]) for name in alone)
