"""Small real trainings on handwritten digits and diabetes records, each in a way of its own, under a supervisor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise

import torch
from sklearn.datasets import load_diabetes, load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from trimtab import Policy, Supervisor
from trimtab.types import Finding

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Data:
    """Inputs and targets, for training and for validation."""

    x: Tensor
    y: Tensor
    val_x: Tensor
    val_y: Tensor


@cache
def load_images() -> tuple[Tensor, Tensor]:
    """Handwritten digits in one fixed random order; shapes (1797, 64) and (1797,)."""
    digits = load_digits()
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(7))
    return torch.tensor(digits.data / 16.0, dtype=torch.float32)[order], torch.tensor(digits.target)[order]


@cache
def load_records() -> tuple[Tensor, Tensor]:
    """Diabetes records, standardized; shapes (442, 10) and (442,)."""
    found = load_diabetes()
    order = torch.randperm(442, generator=torch.Generator().manual_seed(7))
    x = torch.tensor(found.data, dtype=torch.float32)[order]
    y = torch.tensor(found.target, dtype=torch.float32)[order]
    return (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()


def cut_images(num: int = 1200, num_val: int = 400) -> Data:
    """So many images to train on, and others to validate on."""
    x, y = load_images()
    return Data(x[:num], y[:num], x[-num_val:], y[-num_val:])


def cut_records(num: int = 300) -> Data:
    """So many records to train on, and the rest to validate on."""
    x, y = load_records()
    return Data(x[:num], y[:num], x[num:], y[num:])


def make_mlp(*widths: int, act: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """A perceptron of these widths, inputs and outputs included."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), act()]
    return nn.Sequential(*layers[:-1])


def square(outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean squared error of one output a row."""
    return functional.mse_loss(outputs.squeeze(-1), targets)


@dataclass
class Run:
    """A training to be made."""

    data: Data = field(default_factory=cut_images)
    model: nn.Module = field(default_factory=lambda: make_mlp(64, 64, 10))
    optimizer: Callable[[nn.Module], Optimizer] = lambda model: torch.optim.Adam(model.parameters(), 2e-3)
    loss: Loss = functional.cross_entropy
    epochs: int = 25
    batch: int = 64
    before: Callable[[int, nn.Module, Optimizer], None] | None = None
    """What happens before each epoch, counted from 1."""

    def train(self) -> list[Finding]:
        """Train, review once an epoch, and list what was found; nothing acts."""
        optimizer = self.optimizer(self.model)
        findings: list[Finding] = []
        generator = torch.Generator().manual_seed(3)
        with Supervisor(self.model, optimizer, policy=Policy.observe()) as supervisor:
            for epoch in range(1, self.epochs + 1):
                if self.before is not None:
                    self.before(epoch, self.model, optimizer)
                for rows in torch.randperm(len(self.data.x), generator=generator).split(self.batch):
                    optimizer.zero_grad()
                    loss = self.loss(self.model(self.data.x[rows]), self.data.y[rows])
                    loss.backward()
                    findings += supervisor.check(loss).findings
                    optimizer.step()
                findings += supervisor.review(val_loss=self.validate()).findings
            self.reviews = supervisor.reviews
            self.history = supervisor.history
        return findings

    @torch.no_grad()
    def validate(self) -> float:
        """The loss on what is not trained on."""
        self.model.eval()
        loss = float(self.loss(self.model(self.data.val_x), self.data.val_y))
        self.model.train()
        return loss
