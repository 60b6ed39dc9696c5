"""`eval-mode`: training in eval mode, seen in real loops."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from trimtab import Policy, Supervisor


def find_steps(set_mode: Callable[[nn.Module, int], object], *layers: nn.Module, num_steps: int = 8) -> list[int]:
    """The steps with a finding, in a loop that sets the model's mode before each step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), *layers, nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    supervisor = Supervisor(model, optimizer, policy=Policy.observe())
    found = []
    for step in range(1, num_steps + 1):
        set_mode(model, step)
        optimizer.zero_grad()
        loss = model(torch.randn(5, 3)).square().mean()
        loss.backward()
        if any(each.detector == "eval-mode" for each in supervisor.check(loss).findings):
            found.append(step)
        optimizer.step()
    supervisor.finish()
    return found


@pytest.mark.parametrize(
    ("set_mode", "layers", "steps"),
    [
        pytest.param(lambda model, step: model.train(step < 4), [nn.Dropout()], [4], id="never-put-back"),
        pytest.param(lambda model, _: model.eval(), [nn.BatchNorm1d(4)], [1], id="from-the-first-step-on"),
        pytest.param(lambda model, step: model.train(step % 4 != 0), [nn.Dropout()], [4, 8], id="now-and-then"),
        pytest.param(lambda model, _: model.train(), [nn.Dropout()], [], id="training-mode"),
        pytest.param(lambda model, _: model.eval(), [nn.Tanh()], [], id="mode-has-no-effect"),
        pytest.param(lambda model, _: model.eval(), [nn.Dropout(0.0)], [], id="dropout-of-nothing"),
        pytest.param(lambda model, _: model[1].eval(), [nn.BatchNorm1d(4)], [], id="one-layer-on-purpose"),
    ],
)
def test_training_in_eval_mode(
    set_mode: Callable[[nn.Module, int], object], layers: list[nn.Module], steps: list[int]
) -> None:
    """It is found at its first step, and single layers in eval mode are no finding."""
    assert find_steps(set_mode, *layers) == steps


def test_it_is_said_once() -> None:
    """A run that stays so is told so at its first step alone."""
    assert find_steps(lambda model, _: model.eval(), nn.Dropout(), num_steps=220) == [1]
