"""What a process of a run does: it trains, from the beginning or from where the run was left.

Both contestants train the same model on the same batches, with the same clipping and schedule. `nothing` is the loop
that most people write; with checkpoints it saves model, optimizer, schedule and step with `torch.save`, and loads the
newest file when it is started. `trimtab` is `trimtab.fit` with a run folder, or on several ranks a `Supervisor` in
place of `clip_grad_norm_`.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from trimtab.bench.processes.parts import (
    CHECKPOINT_EVERY,
    CLIP_NORM,
    RUN,
    STEPS,
    Parts,
    Task,
    compute_loss,
    find_checkpoints,
    name_end,
)
from trimtab.journal import write_aside
from trimtab.loop import fit
from trimtab.supervisor import Supervisor

PATIENCE = 60.0
"""Seconds that a process waits for another rank, or for a checkpoint that is being written, before it gives up."""

WRITER = "trimtab-checkpoint"
"""The thread in which Trimtab writes a checkpoint."""


def perform(task: Task, parts: Parts) -> bool:
    """Do what a process is to do; returns False if the run did not come to its end."""
    if task.contestant == "trimtab" and task.num_ranks == 1:
        is_finished = train_by_fit(task, parts)
    else:
        train_by_hand(task, parts)
        is_finished = True
    parts.injector.close()
    if is_finished:
        end = {"loss": parts.measure(), "digest": parts.digest()}
        write_aside(task.folder / name_end(task.rank), json.dumps(end))
    if task.num_ranks > 1:
        leave_ranks(task)
    return is_finished


def train_by_fit(task: Task, parts: Parts) -> bool:
    """Train by `fit`, whose loss and optimizer call the faults at their places."""
    first = next(parts.model.parameters())  # its gradient is the last of a backward pass
    first.register_post_accumulate_grad_hook(lambda _: parts.injector.gradients(parts.step))
    parts.optimizer.register_step_post_hook(lambda *_: _end_step(task, parts))
    begun: set[int] = set()

    def compute(model: nn.Module, batch: Any) -> Tensor:
        if not model.training:
            return compute_loss(model, batch)
        if parts.step not in begun:
            begun.add(parts.step)
            parts.injector.start(parts.step)
        return compute_loss(model, parts.injector.batch(parts.step, batch))

    result = fit(
        parts.model,
        parts.optimizer,
        compute,
        parts.loader,
        val_loader=DataLoader(parts.held_out, len(parts.held_out)),
        epochs=task.num_epochs,
        scheduler=parts.scheduler,
        clip_norm=CLIP_NORM,
        run=task.folder / RUN,
        checkpoint_every=CHECKPOINT_EVERY,
        progress=False,
    )
    return result.is_complete


def train_by_hand(task: Task, parts: Parts) -> None:
    """Train in the loop that most people write, on one rank or several."""
    if task.saves:
        load_newest(find_checkpoints(task), parts)
    model = parts.model if task.num_ranks == 1 else join_ranks(task, parts.model)
    supervisor = None
    if task.contestant == "trimtab":
        supervisor = Supervisor(model, parts.optimizer, parts.scheduler, clip_norm=CLIP_NORM, run=task.folder / RUN)

    def limit(loss: Tensor) -> None:
        if supervisor is None:
            nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        else:
            supervisor.check(loss)

    while parts.step <= task.num_steps:
        for batch in parts.loader:
            make_step(task, parts, model, batch, limit)
            if parts.step > task.num_steps:
                break
    if supervisor is not None:
        supervisor.finish()


def make_step(task: Task, parts: Parts, model: nn.Module, batch: Any, limit: Callable[[Tensor], None]) -> None:
    """One step of a loop by hand, with the faults at their places.

    Args:
        task: what the process is to do.
        parts: what is trained.
        model: the model, as the loop calls it.
        batch: the batch.
        limit: called between backward and the optimizer's step.
    """
    step = parts.step
    parts.injector.start(step)
    loss = compute_loss(model, parts.injector.batch(step, batch))
    parts.optimizer.zero_grad()
    loss.backward()
    parts.injector.gradients(step)
    limit(loss)
    parts.optimizer.step()
    _end_step(task, parts)
    parts.scheduler.step()
    if task.saves and step % CHECKPOINT_EVERY == 0:
        save(find_checkpoints(task) / f"step-{step:06d}.pt", parts)


def _end_step(task: Task, parts: Parts) -> None:
    """Let faults act after the optimizer's step, and note the step for whoever counts."""
    step = parts.step
    if ("corrupted-checkpoint", step) in task.faults:
        wait_until(partial(is_written, find_checkpoints(task)))
    parts.injector.end(step)
    if task.rank == 0:
        with (task.folder / STEPS).open("a") as file:
            file.write(f"{step}\n")


def save(path: Path, parts: Parts) -> None:
    """Write a checkpoint as a plain loop does."""
    path.parent.mkdir(exist_ok=True)
    state = {name: getattr(parts, name).state_dict() for name in ("model", "optimizer", "scheduler")}
    torch.save(state, path)


def load_newest(folder: Path, parts: Parts) -> None:
    """Go on from the newest file of a plain loop, if there is one."""
    newest = max(folder.glob("step-*.pt"), default=None)
    if newest is not None:
        state = torch.load(newest)
        for name, held in state.items():
            getattr(parts, name).load_state_dict(held)


def is_written(folder: Path) -> bool:
    """True if there is a checkpoint, and none is being written."""
    is_writing = any(each.name == WRITER for each in threading.enumerate())
    return any(folder.glob("step-*")) and not is_writing and not any(folder.glob(".*"))


def wait_until(is_so: Callable[[], bool]) -> None:
    """Wait for something, up to `PATIENCE`."""
    deadline = time.monotonic() + PATIENCE
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.005)


def join_ranks(task: Task, model: nn.Module) -> nn.Module:
    """Meet the other ranks, and average gradients with them; each rank goes on with random numbers of its own."""
    store = f"file://{task.folder.resolve()}/store"
    distributed.init_process_group(
        "gloo", store, timedelta(seconds=PATIENCE), world_size=task.num_ranks, rank=task.rank
    )
    torch.manual_seed(task.seed * task.num_ranks + task.rank)
    return DistributedDataParallel(model)


def leave_ranks(task: Task) -> None:
    """End this process once all ranks have come to their end; an ordinary exit may wait for the others' connections."""
    wait_until(lambda: all((task.folder / name_end(rank)).exists() for rank in range(task.num_ranks)))
    os._exit(0)
