"""A run that is killed again and again, and has to end as the run that never was.

A small classifier with BatchNorm, dropout, a shuffled loader and a schedule is trained by `trimtab.fit` on digits, in
a process of its own. The process is killed with signal 9 at random times and started again until the run is finished.
Each resume is bit-exact if every step has the loss of the uninterrupted run, and the end its weights and moments.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from trimtab.journal import read_run
from trimtab.loop import fit
from trimtab.state.checkpoint import Loaded, read_checkpoint

NUM_SAMPLES, NUM_FEATURES, NUM_CLASSES = 1440, 64, 10
BATCH_SIZE = 24
CHECKPOINT_EVERY = 15
STEPS_AN_EPOCH = NUM_SAMPLES // BATCH_SIZE
READY = "ready"


@dataclass(frozen=True, slots=True)
class Crashes:
    """What became of a run that was killed."""

    num_kills: int
    """How often it was killed."""

    num_resumed: int
    """How often it went on from a checkpoint."""

    num_lost: int
    """Steps that were taken a second time, altogether."""

    differing_steps: tuple[int, ...]
    """Steps whose loss is not, bit for bit, that of the uninterrupted run."""

    differing_tensors: tuple[str, ...]
    """What of the final state is not."""

    seconds: float
    """How long it took, with the starts of the processes."""


def train(folder: Path, num_epochs: int) -> None:
    """Train, or go on with training, in this process; says when the first step is about to be made."""
    torch.set_num_threads(1)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  the global generator is what a checkpoint restores
    torch.manual_seed(0)
    inputs = torch.randn(NUM_SAMPLES, NUM_FEATURES)
    targets = (inputs @ torch.randn(NUM_FEATURES, NUM_CLASSES)).argmax(1)
    model = nn.Sequential(
        nn.Linear(NUM_FEATURES, 96), nn.BatchNorm1d(96), nn.ReLU(), nn.Dropout(0.2), nn.Linear(96, NUM_CLASSES)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_epochs * STEPS_AN_EPOCH)
    loader = DataLoader(TensorDataset(inputs, targets), BATCH_SIZE, shuffle=True, drop_last=True)

    def compute_loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    sys.stdout.write(f"{READY}\n")
    sys.stdout.flush()
    fit(
        model,
        optimizer,
        compute_loss,
        loader,
        val_loader=DataLoader(TensorDataset(inputs[:240], targets[:240]), 120),
        epochs=num_epochs,
        scheduler=scheduler,
        run=folder,
        checkpoint_every=CHECKPOINT_EVERY,
        progress=False,
    )


def run_uninterrupted(folder: Path, num_epochs: int) -> float:
    """Train in a process of its own that nobody kills; returns the seconds from its first step to its end."""
    process = _start(folder, num_epochs)
    began = time.monotonic()
    if process.wait() != 0:
        raise RuntimeError(f"the uninterrupted run failed with exit status {process.returncode}")
    return time.monotonic() - began


def run_with_crashes(
    folder: Path, reference: Path, num_epochs: int, num_kills: int, seconds: float, seed: int
) -> Crashes:
    """Train, kill `num_kills` times at random times, and compare with an uninterrupted run.

    Args:
        folder: the run folder.
        reference: the run folder of the uninterrupted run.
        num_epochs: the epochs of both.
        num_kills: how often to kill.
        seconds: how long the uninterrupted run took; each process lives a random time of up to a third of it.
        seed: decides the times.
    """
    draw = random.Random(seed)
    began = time.monotonic()
    num_killed = 0
    folders = [folder]
    while True:
        process = _start(folders[-1], num_epochs)
        try:
            process.wait(draw.uniform(0, seconds / 3) if num_killed < num_kills else None)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            num_killed += 1
            continue
        if process.returncode != 0:
            raise RuntimeError(f"the run failed with exit status {process.returncode} after {num_killed} kills")
        if num_killed >= num_kills:
            break
        folders.append(folder.with_name(f"{folder.name}-{len(folders) + 1}"))  # finished too early: another one
    return _compare(folders, reference, num_killed, time.monotonic() - began)


def _start(folder: Path, num_epochs: int) -> subprocess.Popen[str]:
    """A process that trains, returned when it is about to make its first step."""
    command = [sys.executable, "-m", "trimtab.bench.crash", str(folder), str(num_epochs)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert process.stdout is not None
    with process.stdout as told:
        told.readline()
    return process


def _compare(folders: list[Path], reference: Path, num_kills: int, seconds: float) -> Crashes:
    expected, expected_end = _read_losses(reference), _load_end(reference)
    num_resumed = num_lost = 0
    steps: list[int] = []
    tensors: list[str] = []
    for folder in folders:
        losses = _read_losses(folder)
        steps += [step for step in expected.keys() | losses.keys() if losses.get(step) != expected.get(step)]
        tensors += _list_differences(_load_end(folder).state, expected_end.state)
        num_lost += len(_read_rows(folder)) - len(losses)
        num_resumed += sum(event["event"] == "resumed" for event in read_run(folder).events)
    return Crashes(num_kills, num_resumed, num_lost, tuple(sorted(steps)), tuple(tensors), seconds)


def _read_rows(folder: Path) -> list[dict[str, Any]]:
    rows = map(json.loads, (folder / "journal.jsonl").read_text(encoding="utf-8").splitlines())
    return [row for row in rows if "clock" not in row]


def _read_losses(folder: Path) -> dict[int, float]:
    """The loss of every step; of a step that was taken twice, the later one."""
    return {row["step"]: row["loss"] for row in _read_rows(folder)}


def _load_end(folder: Path) -> Loaded:
    return read_checkpoint(max((folder / "checkpoints").glob("step-*")))


def _list_differences(one: object, other: object, where: str = "") -> list[str]:
    """Where two states differ in the model or the optimizer."""
    found = []
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [key for key in {**one, **other} if where or key in ("model", "optimizer", "partners", "rng")]
        for key in keys:
            found += _list_differences(one.get(key), other.get(key), f"{where}/{key}")
    elif isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)) and len(one) == len(other):
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            found += _list_differences(left, right, f"{where}/{index}")
    elif isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        found += [] if torch.equal(one, other) else [where]
    elif not _is_same(one, other):
        found.append(where)
    return found


def _is_same(one: object, other: object) -> bool:
    return bool((one == other) if not hasattr(one, "shape") else (one == other).all())  # type: ignore[attr-defined]


if __name__ == "__main__":
    train(Path(sys.argv[1]), int(sys.argv[2]))
