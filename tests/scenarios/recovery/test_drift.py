"""Slow drift is found before the run diverges; healthy runs, long plateaus and warm restarts give no alarm."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, OneCycleLR

from tests.laws.models import Net
from tests.laws.training import Event, Training
from tests.scenarios.recovery.runs import Mlp, Task, get_supervisor, list_findings, make_run, probed_policy
from trimtab import Policy

BEGIN = 150
"""The step after which something begins to drift."""

SLOW = {"drift", "innovation", "persistent-spike"}


def ramp_rate(training: Training) -> None:
    """The learning rate rises by 3 % a step."""
    if training.batches.position > BEGIN:
        for group in training.optimizer.param_groups:
            group["lr"] *= 1.03


def drift_targets(training: Training, _: int, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The targets turn away from what was learned, a little more each step, faster than they are followed."""
    share = max(training.batches.position - BEGIN, 0) / 40
    return inputs, targets + 0.3 * share**2 * torch.sin(37 * inputs).sum(1)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"after_update": ramp_rate}, id="learning-rate"),
        pytest.param({"distort": drift_targets}, id="targets"),
    ],
)
def test_drift_is_found_before_divergence(fields: dict[str, Any]) -> None:
    """A slow rise is found while the loss is still within ten times its level, and dated to after it began."""
    training = make_run(None, optimizer=partial(torch.optim.SGD, lr=0.02), model=Net, **fields)
    training.supervise(policy=Policy.observe())
    while training.batches.position < 500:
        training.step()
        found = [each for each in training.decisions[-1].findings if each.detector == "drift"]
        if found:
            break
    losses = get_supervisor(training).history.column("loss")
    level = float(torch.tensor(losses[BEGIN - 40 : BEGIN]).median())
    assert found
    assert found[0].since is not None
    assert BEGIN - 20 <= found[0].since <= found[0].step
    assert losses[-1] < 10 * level
    assert math.isfinite(losses[-1])


# Healthy runs.


def add_restarts(training: Training) -> None:
    training.scheduler = CosineAnnealingWarmRestarts(training.optimizer, 40, 2)


def add_one_cycle(training: Training) -> None:
    training.scheduler = OneCycleLR(training.optimizer, 0.03, total_steps=420)


class Recurrent(nn.Module):
    """A small recurrent network over the six inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.GRU(1, 12, batch_first=True)
        self.outer = nn.Linear(12, 1)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.cells(x.unsqueeze(-1))
        outputs: Tensor = self.outer(states[:, -1])
        return outputs.squeeze(-1)


def run_healthy(num_steps: int, seed: int, *parts: Event, optimizer: Any = "adamw", **fields: Any) -> Training:
    task = Task()
    training = make_run(task, *parts, optimizer=optimizer, **fields)
    training.batches.seed = 100_000 * seed
    training.supervise(probe=task.probe, policy=probed_policy())
    return training.run(num_steps)


@pytest.mark.parametrize(
    ("optimizer", "parts", "model", "seed"),
    [
        pytest.param("adamw", [], Mlp, 1, id="adamw"),
        pytest.param("adamw", [], Mlp, 2, id="adamw-again"),
        pytest.param("sgd", [], Mlp, 1, id="sgd"),
        pytest.param("adamw", [add_restarts], Mlp, 1, id="warm-restarts"),
        pytest.param("sgd", [add_restarts], Mlp, 2, id="warm-restarts-of-sgd"),
        pytest.param("sgd", [add_one_cycle], Mlp, 1, id="one-cycle"),
        pytest.param("adamw", [], Net, 1, id="batch-norm-and-dropout"),
        pytest.param("adamw", [], Net, 2, id="batch-norm-and-dropout-again"),
        pytest.param("sgd", [], Net, 2, id="batch-norm-dropout-and-momentum"),
        pytest.param("adamw", [], Recurrent, 1, id="recurrent"),
        pytest.param("adamw", [], Recurrent, 2, id="recurrent-again"),
    ],
)
def test_healthy_runs_give_no_alarm(
    optimizer: str, parts: list[Event], model: Callable[[], nn.Module], seed: int
) -> None:
    """Real small models, with schedules of every kind, give no drift, no innovation and no persistent spike."""
    training = run_healthy(400, seed, *parts, optimizer=optimizer, model=model)
    assert [each for each in list_findings(get_supervisor(training)) if each[1] in SLOW] == []
    assert set(training.verdicts) <= {"proceed", "clip"}


def test_long_plateau_gives_no_alarm() -> None:
    """Twelve hundred steps at a noisy level are no drift."""

    def disturb(training: Training, _: int, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        noise = torch.Generator().manual_seed(training.batches.position)
        return inputs, torch.randn(targets.shape, generator=noise)

    training = make_run(None, optimizer=partial(torch.optim.SGD, lr=1e-3), distort=disturb)
    training.supervise(policy=probed_policy()).run(1200)
    assert [each for each in list_findings(get_supervisor(training)) if each[1] in SLOW] == []
