"""Small contrastive trainings on real images and a real table, in which something can be made to go wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.scenarios.representation.data import Columned, load
from trimtab import Policy, Supervisor
from trimtab.control.guarding import RepresentationGuard
from trimtab.losses import compute_centring, compute_diversity, compute_spread, normalize_rows

BATCH = 128
RATE = 3e-3
TEMPERATURE = 0.2


def contrast(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """The symmetric InfoNCE of pairs."""
    logits = normalize_rows(first) @ normalize_rows(second).mT / temperature
    targets = torch.arange(len(logits))
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.mT, targets)) / 2


def attract(first: Tensor, second: Tensor, _: float) -> Tensor:
    """1 − the cosine of pairs, which says nothing of other rows."""
    return 1 - (normalize_rows(first) * normalize_rows(second)).sum(-1).mean()


@dataclass(frozen=True, slots=True)
class Scenario:
    """A training, and what is made to go wrong in it."""

    joint: Callable[[Tensor, Tensor, float], Tensor] = contrast
    """The loss of pairs."""

    weights: Mapping[str, float] = field(default_factory=dict)
    """The knobs that differ from the healthy ones."""

    onset: int = 0
    """Epochs before it begins."""

    spoil: Callable[[nn.Module], None] | None = None
    """What happens at the onset, beside the weights."""

    healthy: Mapping[str, float] = field(default_factory=dict)
    """The knobs of the healthy run to compare with, where they differ from the usual ones beside what goes wrong."""

    signs: tuple[str, ...] = ("embedding-collapse",)
    """The detectors of which one has to find it."""

    epochs: int = 30


def bias_output(model: nn.Module) -> None:
    """A last layer that adds the same large vector to every row."""
    with torch.no_grad():
        [each for each in model.modules() if isinstance(each, nn.Linear)][-1].bias.fill_(30.0)


def kill_columns(model: nn.Module) -> None:
    """Columns whose encoders give the same whatever they are shown, without a gradient."""
    assert isinstance(model, Columned)
    for name in model.dead:
        first = next(model.columns[name].children())
        assert isinstance(first, nn.Linear)
        with torch.no_grad():
            first.weight.zero_()
            first.bias.fill_(-20.0)


ONSET = 10
"""Epochs of a healthy training before a trouble begins that does not come with its loss."""

SCENARIOS = {
    "collapse": Scenario(attract, {"spread": 0.0}),
    "small-spread": Scenario(attract, {"spread": 0.01}),
    "dimensional-collapse": Scenario(
        contrast,
        {"spread": 0.0, "temperature": 5.0},
        healthy={"spread": 0.0},
        signs=("dimensional-collapse",),
        epochs=40,
    ),
    "hemisphere": Scenario(
        contrast,
        {"spread": 0.0, "temperature": 0.02},
        onset=ONSET,
        spoil=bias_output,
        signs=("one-sided-embeddings",),
    ),
    "late-rescue": Scenario(
        attract,
        {"spread": 0.0},
        onset=ONSET,
        signs=("embedding-collapse", "dimensional-collapse", "embedding-shrinkage"),
    ),
    "dead-columns": Scenario(contrast, onset=ONSET, spoil=kill_columns, signs=("dead-columns",), epochs=40),
}
"""What is made to go wrong; the last one where there are columns: in tables, and in images cut into strips."""

HEALTHY_WEIGHTS = {
    "joint": 1.0,
    "temperature": TEMPERATURE,
    "spread": 0.5,
    "centring": 0.0,
    "diversity": 0.0,
    "diversity_temperature": 0.1,
}


class Run:
    """One training with a review before it and after each epoch.

    Attributes:
        found: detector and review, the one before the first epoch being 0, of every finding of an embedding detector.
        metrics: the metrics of each review.
    """

    def __init__(
        self, data: str, scenario: Scenario, *, guarded: bool, dimensions: int = 32, seed: int = 0, folder: Any = None
    ) -> None:
        torch.manual_seed(seed)
        self.task = load(data)
        self.model = self.task.build(dimensions)
        self.scenario = scenario
        self.weights = {**HEALTHY_WEIGHTS, **(scenario.weights if scenario.onset == 0 else {})}
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=RATE)
        self.supervisor = Supervisor(self.model, self.optimizer, policy=Policy.default(), run=folder)
        if not isinstance(self.model, Columned):
            del self.weights["diversity"], self.weights["diversity_temperature"]
        columns = dict(self.model.columns.items()) if isinstance(self.model, Columned) else {}
        self.guard = RepresentationGuard(self.supervisor, self.weights, columns=columns) if guarded else None
        self.generator = torch.Generator().manual_seed(seed)
        self.found: list[tuple[str, int]] = []
        self.metrics: list[dict[str, float]] = []
        self.history_of_weights: list[dict[str, float]] = []

    def train(self) -> Run:
        """All epochs."""
        if self.scenario.onset == 0 and self.scenario.spoil is not None:
            self.scenario.spoil(self.model)
        self.review()
        for epoch in range(1, self.scenario.epochs + 1):
            if epoch - 1 == self.scenario.onset > 0:
                self.weights.update(self.scenario.weights)
                if self.scenario.spoil is not None:
                    self.scenario.spoil(self.model)
                    self.supervisor.trust_state()  # or the next steps would be found and rolled back
                    self.supervisor.declare_loss_change()
            self.train_epoch()
            self.review()
        if self.guard is not None:
            self.guard.complete()
        self.supervisor.finish()
        return self

    def train_epoch(self) -> None:
        """One epoch."""
        rows = self.task.rows[torch.randperm(len(self.task.rows), generator=self.generator)]
        for batch in rows.split(BATCH):
            if len(batch) == BATCH:
                loss = self.compute_loss(batch)
                self.optimizer.zero_grad()
                loss.backward()
                self.supervisor.check(loss)
                self.optimizer.step()

    def compute_loss(self, batch: Tensor) -> Tensor:
        """The loss with the weights as they are now."""
        weights = self.weights
        first, second = (self.model(self.task.draw(batch, self.generator)) for _ in range(2))
        both = torch.cat([first, second])
        loss = weights["joint"] * self.scenario.joint(first, second, weights["temperature"])
        loss = loss + weights["spread"] * compute_spread(both) + weights["centring"] * compute_centring(both)
        if isinstance(self.model, Columned) and weights["diversity"]:
            tokens, values = self.model.encode(batch), self.task.read_values(batch)
            sameness = compute_diversity(tokens, values, temperature=weights["diversity_temperature"])
            loss = loss + weights["diversity"] * sameness
        return loss

    def review(self) -> None:
        """Hand the sample to the supervisor."""
        self.model.eval()
        with torch.no_grad():
            sample = self.task.observe(self.model)
        self.model.train()
        decision = self.supervisor.review(**sample)
        assert self.supervisor.record is not None
        values = self.supervisor.record.measurement.values
        self.metrics.append({name: each for name, each in values.items() if isinstance(each, float)})
        self.found += [(each.detector, len(self.metrics) - 1) for each in decision.findings]
        self.history_of_weights.append(dict(self.weights))

    @property
    def recall(self) -> float:
        """The recall of the last three reviews, their mean."""
        return float(np.mean([each["recall_at_1"] for each in self.metrics[-3:]]))

    @property
    def first_sign(self) -> int | None:
        """The first review at which one of the scenario's detectors found something; None if none did."""
        return min((review for name, review in self.found if name in self.scenario.signs), default=None)


@cache
def train_healthy(data: str, name: str, seed: int = 0) -> Run:
    """The training of a scenario without what goes wrong in it, guarded."""
    scenario = SCENARIOS[name]
    return Run(
        data, Scenario(scenario.joint, scenario.healthy, epochs=scenario.epochs), guarded=True, seed=seed
    ).train()


@cache
def train_spoilt(data: str, name: str, *, guarded: bool, seed: int = 0) -> Run:
    """The training of a scenario."""
    return Run(data, SCENARIOS[name], guarded=guarded, seed=seed).train()
