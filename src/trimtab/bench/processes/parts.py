"""What a process of a run trains: a small classifier that reads digits under noise.

The noise is drawn anew for every batch, so the loss stays well above zero. The model has neither BatchNorm nor dropout:
a batch that is computed in parts then has the same gradient up to rounding.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler
from torch.utils.data import DataLoader, TensorDataset

from trimtab.faults import Injector, inject

Contestant: TypeAlias = Literal["nothing", "trimtab"]
"""Who trains: a plain loop, or Trimtab."""

BATCH_SIZE = 48
STEPS_AN_EPOCH = 28
WIDTH = 128
RATE = 3e-3
NOISE = 0.5  # standard deviation, where ink is 1 and paper is 0
CLIP_NORM = 1.0

CHECKPOINT_EVERY = 10
"""Steps between two checkpoints, of both contestants."""

DATA, STEPS, RUN, CHECKPOINTS = "digits.pt", "steps.txt", "run", "checkpoints"


@dataclass(frozen=True, slots=True)
class Task:
    """What one process is to do."""

    folder: Path
    """The folder of the run, which all its processes share; the data lie beside it."""

    contestant: Contestant
    """Who trains."""

    seed: int
    """The seed of weights and batches."""

    num_epochs: int
    """The epochs of the run, of `STEPS_AN_EPOCH` steps each."""

    faults: Sequence[tuple[str, int]] = ()
    """The faults that happen to this process, each with its step."""

    saves: bool = False
    """Whether a plain loop writes checkpoints; Trimtab always does, where it has one rank."""

    rank: int = 0
    """The rank of the process."""

    num_ranks: int = 1
    """The ranks of the run."""

    @property
    def num_steps(self) -> int:
        """The optimizer steps of the run."""
        return self.num_epochs * STEPS_AN_EPOCH

    def to_json(self) -> str:
        """The task as text for a command line."""
        return json.dumps({name: getattr(self, name) for name in self.__slots__} | {"folder": str(self.folder)})


def parse_task(text: str) -> Task:
    """The task of a command line."""
    fields = json.loads(text)
    return Task(
        **{**fields, "folder": Path(fields["folder"]), "faults": [(name, step) for name, step in fields["faults"]]}
    )


class Parts:
    """What is trained: model, optimizer, schedule and data, and the faults that happen to them.

    Args:
        task: what the process is to do.

    Attributes:
        model: the model.
        optimizer: its optimizer.
        scheduler: the schedule, whose count of steps is the run's.
        loader: the training batches.
        held_out: the samples that the end is judged by.
        injector: the faults.
    """

    def __init__(self, task: Task) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(task.seed)
        data = torch.load(task.folder.parent / DATA)
        self.model: nn.Module = nn.Sequential(
            *(nn.Linear(64, WIDTH), nn.LayerNorm(WIDTH), nn.GELU()),
            *(nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.GELU()),
            nn.Linear(WIDTH, 10),
        )
        self.optimizer: Optimizer = torch.optim.AdamW(self.model.parameters(), lr=RATE)
        self.scheduler: LRScheduler = CosineAnnealingLR(self.optimizer, task.num_steps)
        self.held_out = TensorDataset(*data["held_out"])
        self.loader = DataLoader(
            TensorDataset(*data["training"]), BATCH_SIZE, shuffle=True, drop_last=True, collate_fn=draw_noise
        )
        assert len(self.loader) == STEPS_AN_EPOCH
        self.injector = Injector(
            [inject(name, step, seed=task.seed) for name, step in task.faults],
            self.model,
            self.optimizer,
            folder=find_checkpoints(task),
        )

    @property
    def step(self) -> int:
        """The step that is being made, from 1 on."""
        return int(self.scheduler.last_epoch) + 1

    def measure(self) -> float:
        """The mean loss of the samples held out; infinite for a broken model."""
        self.model.eval()
        with torch.no_grad():
            loss = float(compute_loss(self.model, self.held_out.tensors))
        return loss if math.isfinite(loss) else math.inf

    def digest(self) -> str:
        """A digest of every bit of the weights."""
        digest = hashlib.sha256()
        for parameter in self.model.parameters():
            digest.update(parameter.detach().numpy().tobytes())
        return digest.hexdigest()


def draw_noise(samples: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """A batch of some samples, the inputs under noise drawn from the global generator."""
    inputs, targets = (torch.stack(each) for each in zip(*samples, strict=True))
    return inputs + NOISE * torch.randn(inputs.shape), targets


def compute_loss(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
    """The mean cross-entropy, in nats an image; 0-d."""
    inputs, targets = batch
    return F.cross_entropy(model(inputs), targets)


def find_checkpoints(task: Task) -> Path:
    """Where a contestant's checkpoints lie."""
    return task.folder / RUN / CHECKPOINTS if task.contestant == "trimtab" else task.folder / CHECKPOINTS


def name_end(rank: int) -> str:
    """The name of the file in which a process that has finished writes its end."""
    return f"end-{rank}.json"
