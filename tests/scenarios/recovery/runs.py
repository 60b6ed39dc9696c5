"""Small real trainings that something happens to: a task that may change, and faults at chosen steps."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.laws.training import Event, Training, make_training
from trimtab import Decision, Policy, Supervisor

HELD_OUT = torch.randn(32, 6, generator=torch.Generator().manual_seed(7))
"""Samples that no run trains on; shape (samples, inputs)."""

DAMAGE = 1.0
"""Standard deviation of what a destructive update adds to every weight: the loss rises a hundredfold."""


class Mlp(nn.Module):
    """A small network without dropout, so that its loss falls smoothly."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 16)
        self.norm = nn.LayerNorm(16)
        self.outer = nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.outer(torch.tanh(self.norm(self.inner(x))))
        return outputs.squeeze(-1)


class Task:
    """What a run learns, which may change on the way; it probes the run on held-out samples of the same task."""

    def __init__(self) -> None:
        self.scale = 1.0
        self.shift = 0.0
        self.bad_steps: Collection[int] = ()
        self.num_probes = 0
        self.bias: Callable[[Task], float] = lambda _: 0.0

    def apply(self, targets: Tensor) -> Tensor:
        return self.scale * targets + self.shift

    def distort(self, training: Training, _: int, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The targets as they are now; those of a bad step are off by far."""
        is_bad = training.batches.position in self.bad_steps
        return inputs, self.apply(targets) + (100.0 if is_bad else 0.0)

    @torch.no_grad()
    def probe(self, model: nn.Module) -> float:
        """The loss of the held-out samples, plus whatever disturbs the measurement."""
        self.num_probes += 1
        targets = self.apply(HELD_OUT @ torch.linspace(-1, 1, 6) + 2.0)
        return float(functional.mse_loss(model(HELD_OUT), targets)) + self.bias(self)


def make_run(task: Task | None = None, *parts: Event, optimizer: Any = "adamw", **fields: Any) -> Training:
    """A training of a task by a small network."""
    fields = {"model": Mlp, **fields}
    training = make_training(optimizer, *parts, **fields)
    if task is not None:
        training.distort = task.distort
    return training


def probed_policy(table: dict[str, Any] | None = None) -> Policy:
    """The default policy with a cadence of the probe that does not depend on how fast the machine is."""
    return Policy.from_dict({"probe_budget": 1.0, **(table or {})})


def get_supervisor(training: Training) -> Supervisor:
    assert training.supervisor is not None
    return training.supervisor


def damage(training: Training, size: float = DAMAGE, seed: int = 105) -> None:
    """Ruin all weights, as a destructive update does."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in training.model.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))


def damage_at(*steps: int, size: float = DAMAGE) -> Event:
    """A part of a run: the updates of some steps are destructive, once each."""

    def add(training: Training) -> None:
        left = set(steps)

        def strike(training: Training) -> None:
            if training.batches.position in left:
                left.remove(training.batches.position)
                damage(training, size)

        training.after_update = strike

    return add


def count_rejected(decisions: list[Decision]) -> int:
    return sum(not each.proceed for each in decisions)


def count_interventions(decisions: list[Decision]) -> int:
    return sum(bool(each.responses) for each in decisions)


def list_findings(supervisor: Supervisor) -> list[tuple[int, str]]:
    """Step and detector of everything that was found."""
    return [(each.step, each.detector) for decision in supervisor.ledger for each in decision.findings]
