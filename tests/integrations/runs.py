"""The same small training in four loops: a plain one, Lightning, the Hugging Face Trainer and Accelerate.

Model, data, schedule and clipping are the same from fixed seeds, and so are the faults: a batch that is NaN, a batch
whose targets are far too large, and a weight that something overwrites between two steps.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler
from torch.utils.data import DataLoader, Dataset

from tests.conftest import require
from trimtab import Decision, Policy, Supervisor

NUM_STEPS, BATCH_SIZE = 120, 16

Told: TypeAlias = tuple[int, str, str, str]
"""A decision: its step, clock, verdict and reason, numbers included."""


class Net(nn.Module):
    """A network with running statistics."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 1))

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """The predictions, and with targets the loss too, as the Hugging Face Trainer would have it."""
        predicted = self.layers(x).squeeze(1)
        if labels is None:
            return {"logits": predicted}
        return {"loss": functional.mse_loss(predicted.float(), labels), "logits": predicted}


def draw(num: int, seed: int) -> tuple[Tensor, Tensor]:
    """Inputs and noisy targets; shapes (samples, 6) and (samples,)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num, 6, generator=generator)
    return x, x.sum(1) + torch.randn(num, generator=generator)


class Samples(Dataset[dict[str, Tensor]]):
    """Samples as mappings, some batches of which may be spoilt.

    Args:
        num: how many.
        seed: of what they are drawn from.
        spoils: what becomes of the targets of a batch, by its number from 1 on.
    """

    def __init__(self, num: int = NUM_STEPS * BATCH_SIZE, seed: int = 1, spoils: Mapping[int, float] = {}) -> None:
        self.x, self.y = draw(num, seed)
        for batch, factor in spoils.items():
            self.y[(batch - 1) * BATCH_SIZE : batch * BATCH_SIZE] *= factor

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": self.x[index], "labels": self.y[index]}


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong in a run."""

    spoils: Mapping[int, float] = field(default_factory=dict)
    """What the targets of batches are multiplied by."""

    overwritten_after: int | None = None
    """The step after whose update a weight is overwritten."""

    found: str = ""
    """The detector that finds it."""

    def strike(self, model: nn.Module, step: int) -> None:
        """Overwrite a weight if it is time; called after the update of every step."""
        if step == self.overwritten_after:
            with torch.no_grad():
                next(model.parameters())[3, 2] = float("nan")


HEALTHY = Fault()

HALTING = Policy.from_dict({"detectors": {"nonfinite": {"ladder": ["halt"]}}})
"""The policy that ends a run at the first number that is not finite."""

FAULTS = {
    "nan-batch": Fault(spoils={20: float("nan")}, found="nonfinite"),
    "spike": Fault(spoils={60: 100.0}, found="loss-spike"),
    "overwritten-weight": Fault(overwritten_after=30, found="nonfinite"),
}


@dataclass(slots=True)
class Run:
    """A run that is over."""

    model: nn.Module
    """The model that was trained."""

    decisions: list[Told]
    """The decisions with findings; empty without a supervisor."""

    num_steps: int
    """Steps of the optimizer that were due."""

    @property
    def loss(self) -> float:
        """The loss on samples that nobody was trained on."""
        x, y = draw(512, seed=2)
        self.model.eval()
        with torch.no_grad():
            return float(self.model(x, y)["loss"])

    @property
    def bits(self) -> dict[str, Tensor]:
        """Parameters and buffers."""
        return dict(self.model.state_dict())


@dataclass(frozen=True, slots=True)
class Setting:
    """How a run is made; the same in every loop."""

    fault: Fault = HEALTHY
    """What goes wrong."""

    is_supervised: bool = True
    """Whether a supervisor is there."""

    num_micro_batches: int = 1
    """Batches of a step."""

    precision: str = "float32"
    """The dtype of the forward pass: `float32` or `bfloat16`."""

    clip_norm: float = 1.0
    """What gradients are clipped to."""

    options: Mapping[str, Any] = field(default_factory=dict)
    """Further options of the supervisor."""

    @property
    def num_steps(self) -> int:
        """Steps that all batches make."""
        return NUM_STEPS // self.num_micro_batches


def make_parts(num_steps: int = NUM_STEPS, model: Net | None = None) -> tuple[Net, Optimizer, LRScheduler]:
    """Model, optimizer and a schedule that ends with the run."""
    model = Net() if model is None else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    return model, optimizer, CosineAnnealingLR(optimizer, num_steps)


def tell(decisions: Iterable[Decision]) -> list[Told]:
    """Decisions as what they say."""
    return [(each.step, each.clock, each.verdict, each.reason) for each in decisions]


def run(loop: str, setting: Setting, folder: Path) -> Run:
    """Make a run in a loop: `plain`, or the name of the package whose loop it is.

    Args:
        loop: which.
        setting: how.
        folder: where a trainer may write.
    """
    if loop == "plain":
        return run_plain(setting)
    require(loop)
    made: Run = importlib.import_module(f"tests.integrations.runs_{loop}").make_run(setting, folder)
    return made


def run_plain(setting: Setting) -> Run:
    """A loop as people write it."""
    model, optimizer, scheduler = make_parts(setting.num_steps)
    supervisor = None
    if setting.is_supervised:
        supervisor = Supervisor(model, optimizer, scheduler, clip_norm=setting.clip_norm, **setting.options)
    loader = iter(DataLoader(Samples(spoils=setting.fault.spoils), batch_size=BATCH_SIZE))
    for step in range(1, setting.num_steps + 1):
        optimizer.zero_grad()
        total = torch.zeros(())
        for _ in range(setting.num_micro_batches):
            batch = next(loader)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=setting.precision == "bfloat16"):
                loss = model(**batch)["loss"] / setting.num_micro_batches
            loss.backward()
            total += loss.detach()
        if supervisor is None:
            nn.utils.clip_grad_norm_(model.parameters(), setting.clip_norm)
        else:
            supervisor.check(total, batch=batch if setting.num_micro_batches == 1 else None)
        optimizer.step()
        scheduler.step()
        setting.fault.strike(model, step)
    return Run(model, [] if supervisor is None else tell(supervisor.ledger), setting.num_steps)
