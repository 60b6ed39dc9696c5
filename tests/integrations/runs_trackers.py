"""A small training with trackers; as `python -m tests.integrations.runs_trackers FOLDER` on two ranks."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from tests.forks import end, fork_ranks, join_group
from tests.integrations.runs import BATCH_SIZE, Fault, Samples, make_parts
from trimtab import Policy, Supervisor
from trimtab.integrations import Tracker
from trimtab.types import Record

NUM_STEPS = 60

SECONDS = 60

TROUBLE = Fault(spoils={20: float("nan")}, overwritten_after=30)
"""A batch that is NaN, which is skipped, and a weight that is overwritten, which is rolled back."""

POLICY = Policy.default().change({"detectors": {"nonfinite": {"ladder": ["skip", "rollback", "halt"]}}})

SKIPPED, ROLLED_BACK = 20, 31
"""The steps at which that is found."""


class Collector(Tracker):
    """Keeps what it is told, and by which thread."""

    def __init__(self) -> None:
        self.groups: tuple[str, ...] = ()
        self.records: list[Record] = []
        self.events: list[Mapping[str, Any]] = []
        self.calls: list[str] = []
        self.threads: set[str] = set()

    def open(self, manifest: Mapping[str, Any]) -> None:
        self.groups = tuple(manifest["groups"])
        self.calls.append("open")

    def write(self, record: Record) -> None:
        self.records.append(record)
        self.threads.add(threading.current_thread().name)

    def write_event(self, event: str, **fields: Any) -> None:
        self.events.append({"event": event, **fields})

    def flush(self) -> None:
        self.calls.append("flush")

    def close(self) -> None:
        self.calls.append("close")


def train(
    trackers: Sequence[Tracker] = (), fault: Fault = TROUBLE, num_steps: int = NUM_STEPS, **options: Any
) -> list[Tensor]:
    """Train in a plain loop, with a review every 25 steps; returns the parameters."""
    model, optimizer, scheduler = make_parts(NUM_STEPS)
    with Supervisor(model, optimizer, scheduler, policy=POLICY, trackers=trackers, **options) as supervisor:
        for step, batch in enumerate(DataLoader(Samples(spoils=fault.spoils), batch_size=BATCH_SIZE), 1):
            optimizer.zero_grad()
            loss = model(**batch)["loss"]
            loss.backward()
            supervisor.check(loss, parts={"mse": loss})
            optimizer.step()
            scheduler.step()
            fault.strike(model, step)
            if step % 25 == 0:
                supervisor.review(val_loss=1.0 / step, bleu=0.5)
            if step == num_steps:
                break
    return [each.detach().clone() for each in model.parameters()]


def train_on_rank(rank: int, folder: Path) -> None:
    """Train on one of two ranks, each of which hands over a tracker; keeps how much it was told."""
    join_group(folder / "store", rank, 2, SECONDS)
    collector = Collector()
    train([collector])
    torch.save([len(collector.records), collector.calls], folder / f"told-{rank}.pt")


if __name__ == "__main__":
    main = Path(sys.argv[1])
    end(fork_ranks(2, lambda rank: train_on_rank(rank, main), main))
