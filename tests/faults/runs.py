"""A small real training, in a loop that every fault can act in, and what was seen of each of its steps."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import ExponentialLR, LRScheduler

from trimtab.faults import Hit, Injection, Injector, faults, inject

STEP = 3
NUM_STEPS = 16
RATE = 0.01
SCALE = 2.0**10
LOOPED = sorted(set(faults) - {"killed-process"})
"""All faults that a loop survives."""

WEAK = {"slow-steps": 0.001, "leaking-worker": 0.1}
"""Strengths that keep the tests fast."""


class Net(nn.Module):
    """A model of bytes or of rows of four numbers, with a layer of each kind that faults look for."""

    self_updating = ("average",)

    def __init__(self) -> None:
        super().__init__()
        self.bytes = nn.Embedding(256, 4)
        self.wide = nn.Linear(4, 16)
        self.relu = nn.ReLU()
        self.norm = nn.BatchNorm1d(16)
        self.drop = nn.Dropout(0.0)
        self.head = nn.Linear(16, 256)
        self.average = nn.Linear(4, 1).requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Any integers, or floating-point numbers with a last dimension of 4, to logits of bytes."""
        rows = inputs if inputs.is_floating_point() else self.bytes(inputs)
        hidden = self.norm(self.relu(self.wide(rows.flatten(0, -2))))
        logits: Tensor = self.head(self.drop(hidden))
        return logits


class Parts(NamedTuple):
    """A training that is made."""

    model: Net
    optimizer: Optimizer
    scheduler: LRScheduler
    scaler: GradScaler

    def make_injector(self, injections: Iterable[Injection], folder: Path | None = None) -> Injector:
        """An injector that was handed everything."""
        return Injector(
            list(injections), self.model, self.optimizer, scheduler=self.scheduler, scaler=self.scaler, folder=folder
        )


class Seen(NamedTuple):
    """One step of a loop, as a fault left it."""

    step: int
    batch: Any
    loss: float
    gradients: dict[str, Tensor]
    rate: float
    rate_after: float
    num_moves: int
    scale: float
    is_training: bool
    num_optimized: int
    frozen: list[str]
    seconds: float
    weights: dict[str, Tensor]
    buffers: dict[str, Tensor]
    moments: dict[str, Tensor]


def make_parts() -> Parts:
    """A small model and what trains it, the same each time; the global random numbers are left as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Net()
    optimizer = AdamW([each for each in model.parameters() if each.requires_grad], RATE)
    return Parts(model, optimizer, ExponentialLR(optimizer, 0.9), GradScaler("cpu", SCALE))


def plan(name: str, *, duration: int | None = None, seed: int = 0) -> Injection:
    """A fault at `STEP`, no slower than it has to be."""
    return inject(name, STEP, duration=duration, strength=WEAK.get(name), seed=seed)


def list_steps(injection: Injection) -> list[int]:
    """The steps of the loop at which it acts."""
    return [step for step in range(1, NUM_STEPS + 1) if injection.acts_at(step)]


def draw_tokens(step: int) -> Tensor:
    """The loop's own batch: windows of bytes, of which each is the target of the one before."""
    return (torch.arange(40) * (step + 3) % 251).view(4, 10)


def draw_rows(step: int) -> tuple[Tensor, Tensor]:
    """The loop's own batch where a fault needs floating-point inputs: rows and labels."""
    return torch.sin(torch.arange(32.0) * step).view(8, 4), torch.arange(8) * step % 251


def draw_batch(step: int, injections: Iterable[Injection]) -> Any:
    """The batch that the faults need."""
    needs_floats = any(faults[each.fault].needs == "floats" for each in injections)
    return draw_rows(step) if needs_floats else draw_tokens(step)


def compute_loss(model: nn.Module, batch: Any) -> Tensor:
    """The mean cross-entropy of either kind of batch."""
    inputs, targets = (batch[:, :-1], batch[:, 1:]) if isinstance(batch, Tensor) else batch
    return nn.functional.cross_entropy(model(inputs), targets.flatten())


def run_loop(*injections: Injection, folder: Path | None = None) -> tuple[list[Seen], list[Hit]]:
    """Train for a few steps with faults; the loop draws nothing from the global generators."""
    parts = make_parts()
    injector = parts.make_injector(injections, folder)
    seen = []
    for step in range(1, NUM_STEPS + 1):
        if folder is not None:
            (folder / f"step-{step:06}").write_bytes(bytes(range(256)))
        seen.append(_make_step(step, parts, injector))
    injector.close()
    return seen, injector.hits


def _make_step(step: int, parts: Parts, injector: Injector) -> Seen:
    model, optimizer, scheduler, scaler = parts
    began = time.perf_counter()
    injector.start(step)
    optimizer.zero_grad()
    own = draw_batch(step, injector.injections)
    try:
        batch = injector.batch(step, own)
    except torch.OutOfMemoryError:
        batch = injector.batch(step, own)
    loss = injector.loss(step, compute_loss(model, batch))
    scale = scaler.get_scale()
    scaler.scale(loss).backward()
    injector.gradients(step)
    scaler.unscale_(optimizer)
    named = model.named_parameters()
    gradients = {name: each.grad.clone() for name, each in named if each.grad is not None}
    rate, is_training = optimizer.param_groups[0]["lr"], model.training
    if loss.isfinite() and all(each.isfinite().all() for each in gradients.values()):
        scaler.step(optimizer)
    scaler.update()
    injector.end(step)
    rate_after, num_moves = optimizer.param_groups[0]["lr"], scheduler.last_epoch
    if step > 1:
        scheduler.step()
    names = {id(each): name for name, each in model.named_parameters()}
    return Seen(
        step,
        batch,
        loss.item(),
        gradients,
        rate,
        rate_after,
        num_moves,
        scale,
        is_training,
        sum(len(group["params"]) for group in optimizer.param_groups),
        [name for name, each in model.named_parameters() if not each.requires_grad],
        time.perf_counter() - began,
        {name: each.detach().clone() for name, each in model.named_parameters()},
        {name: each.clone() for name, each in model.named_buffers()},
        {names[id(each)]: state["exp_avg"].clone() for each, state in optimizer.state.items()},
    )
