"""`unoptimized-parameter`: parameters that are not in the optimizer, seen in real loops."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from trimtab import Policy, Supervisor


def find_steps(change: Callable[[nn.Sequential, torch.optim.Optimizer], None], num_steps: int = 3) -> list[int]:
    """The steps with a finding, in a loop whose model or optimizer is changed after the supervisor was made."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    supervisor = Supervisor(model, optimizer, policy=Policy.observe())
    change(model, optimizer)
    found = []
    for step in range(1, num_steps + 1):
        optimizer.zero_grad()
        loss = model(torch.randn(5, 3)).square().mean()
        loss.backward()
        if any(each.detector == "unoptimized-parameter" for each in supervisor.check(loss).findings):
            found.append(step)
        optimizer.step()
    supervisor.finish()
    return found


def replace_layer(model: nn.Sequential, _: torch.optim.Optimizer) -> None:
    model[2] = nn.Linear(4, 1)


def drop_parameter(_: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    del optimizer.param_groups[0]["params"][-1]


def freeze_layer(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    drop_parameter(model, optimizer)
    model[2].bias.requires_grad_(False)


def change_nothing(*_: object) -> None:
    pass


@pytest.mark.parametrize(
    ("change", "steps"),
    [
        pytest.param(replace_layer, [2], id="layer-replaced"),
        pytest.param(drop_parameter, [2], id="parameter-left-out"),
        pytest.param(freeze_layer, [], id="not-to-be-trained"),
        pytest.param(change_nothing, [], id="all-there"),
    ],
)
def test_parameters_outside_the_optimizer(
    change: Callable[[nn.Sequential, torch.optim.Optimizer], None], steps: list[int]
) -> None:
    """What gets gradients and no updates is found at the first sampled step."""
    assert find_steps(change) == steps
