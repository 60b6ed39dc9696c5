"""Small real runs of `fit`: models, data and losses from fixed seeds, and all that a run leaves as bits."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from torch.utils.data import DataLoader, Dataset

from tests.laws.training import flatten
from trimtab import fit
from trimtab.loop import FitResult

NUM_SAMPLES, BATCH_SIZE = 44, 8
"""Five batches and a half an epoch."""

NUM_STEPS = -(-NUM_SAMPLES // BATCH_SIZE)
"""Steps of an epoch."""

Event: TypeAlias = Callable[["Parts"], object]
Batch: TypeAlias = tuple[Tensor, Tensor, Tensor]


class Samples(Dataset[Batch]):
    """Samples that know their number; augmented from all three global generators, if they are noisy."""

    def __init__(self, num: int = NUM_SAMPLES, *, noise: float = 0.0) -> None:
        self.x = torch.randn(num, 6, generator=torch.Generator().manual_seed(7))
        self.noise = noise

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Batch:
        x = self.x[index]
        if self.noise:
            drawn = random.random() + np.random.random()  # noqa: NPY002  the global generator is meant
            x = x + self.noise * (drawn + torch.randn(6))
        return x, self.x[index].sum(), torch.tensor(index)


class SmoothNet(nn.Module):
    """A network whose loss does not depend on how a batch is split."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).squeeze(1)  # type: ignore[no-any-return]


class NoisyNet(SmoothNet):
    """A network with running statistics and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1)
        )


@dataclass(slots=True)
class Parts:
    """What a run is made of, and what was seen of it."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: LRScheduler
    loader: Any
    on_loss: Event | None = None
    num_losses: int = 0
    pending: list[int] = field(default_factory=list)
    trained: list[list[int]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    loss_at_hand: float = 0.0

    def compute_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean squared error; notes which samples it is of, and calls what is to happen on a training loss."""
        x, y, index = batch
        if model.training:
            self.num_losses += 1
            if self.on_loss is not None:
                self.on_loss(self)
        loss = functional.mse_loss(model(x), y)
        if model.training:
            self.pending += index.tolist()
            self.loss_at_hand += float(loss.detach()) * len(index)
        return loss

    def note_update(self, *_: Any) -> None:
        """The optimizer has stepped, so what was computed before counts."""
        self.trained.append(self.pending)
        self.losses.append(self.loss_at_hand / len(self.pending))
        self.drop()

    def drop(self) -> None:
        """What was computed does not count."""
        self.pending, self.loss_at_hand = [], 0.0

    def fit(self, **options: Any) -> FitResult:
        """Train; three epochs, if nothing else is said."""
        options = {"epochs": 3, "scheduler": self.scheduler, **options}
        return fit(self.model, self.optimizer, self.compute_loss, self.loader, **options)

    def capture(self) -> dict[str, Any]:
        """The whole state of the run, each number as its bits."""
        random_numbers = {
            "python": random.getstate(),
            "numpy": np.random.get_state(),  # noqa: NPY002
            "torch": torch.get_rng_state(),
        }
        parts: dict[str, Any] = {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler}
        states = {name: part.state_dict() for name, part in parts.items()}
        return dict(flatten({**states, **random_numbers}))


def make_loader(*, noise: float = 0.0, **options: Any) -> DataLoader[Batch]:
    """A loader that shuffles, if nothing else is said."""
    return DataLoader(Samples(noise=noise), **{"batch_size": BATCH_SIZE, "shuffle": True, **options})


def make_parts(
    model: Callable[[], nn.Module] = SmoothNet, loader: Any = None, *, seed: int = 0, on_loss: Event | None = None
) -> Parts:
    """A run from a seed; another seed is another beginning, which a resume has to make up for."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    net = model()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    scheduler = OneCycleLR(optimizer, 0.02, total_steps=100)
    parts = Parts(net, optimizer, scheduler, make_loader() if loader is None else loader, on_loss)
    optimizer.register_step_post_hook(parts.note_update)
    return parts


def train_slowly(folder: Path) -> None:
    """A process that trains, says when it has begun, and says how it ended."""

    def say(parts: Parts) -> None:
        if parts.num_losses == NUM_STEPS + 2:
            sys.stdout.write("training\n")
            sys.stdout.flush()
        if parts.num_losses > NUM_STEPS + 2:
            time.sleep(0.05)

    result = make_parts(NoisyNet, on_loss=say).fit(run=folder, epochs=100, checkpoint_every=3)
    sys.stdout.write(f"{result.status} {result.num_steps}\n")
