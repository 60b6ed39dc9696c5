"""The probe `gradient_agreement`, on real accumulation."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from trimtab import Supervisor


def train(draw: Callable[[int], Tensor], num_micro_batches: int, scale: float = 1.0) -> tuple[Supervisor, list[Tensor]]:
    """Take the two steps up to the first sampled one; returns the gradients of its micro-batches too."""
    torch.manual_seed(0)
    model = nn.Linear(6, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    supervisor = Supervisor(model, optimizer)
    gradients: list[Tensor] = []
    for _ in range(2):
        gradients, before = [], torch.zeros(7)
        optimizer.zero_grad()
        for index in range(num_micro_batches):
            loss = scale * model(draw(index)).square().mean()
            loss.backward()
            total = torch.cat([each.grad.reshape(-1) for each in model.parameters() if each.grad is not None])
            gradients.append(total - before)
            before = total
        supervisor.check(loss)
        optimizer.step()
    return supervisor, gradients


@pytest.mark.parametrize(
    "scale", [pytest.param(1.0, id="plain"), pytest.param(1024.0, id="scaled"), pytest.param(1e-6, id="tiny")]
)
@pytest.mark.parametrize("num_micro_batches", [2, 3, 5])
def test_it_is_the_mean_cosine_of_consecutive_micro_batches(num_micro_batches: int, scale: float) -> None:
    """Whatever their number, and whatever the loss is scaled by."""
    supervisor, gradients = train(lambda _: torch.randn(8, 6), num_micro_batches, scale)
    pairs = pairwise(gradients)
    cosines = [torch.cosine_similarity(one, other, dim=0, eps=0.0) for one, other in pairs]
    assert supervisor.history.newest.values["gradient_agreement"] == pytest.approx(
        float(torch.stack(cosines).mean()), abs=2e-3
    )


def test_equal_micro_batches_agree() -> None:
    """The same micro-batch twice pulls the same way."""
    same = torch.randn(8, 6)
    supervisor, _ = train(lambda _: same, 2)
    assert supervisor.history.newest.values["gradient_agreement"] == pytest.approx(1.0, abs=1e-6)


def test_one_micro_batch_has_nothing_to_agree_with() -> None:
    """Then the metric is absent."""
    supervisor, _ = train(lambda _: torch.randn(8, 6), 1)
    assert "gradient_agreement" not in supervisor.history.newest.values
