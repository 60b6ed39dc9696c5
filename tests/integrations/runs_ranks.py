"""The small training of `runs` on many ranks: `python -m tests.integrations.runs_ranks FOLDER`.

With data for all, every rank has the whole batch: then losses and gradients are those of one process, and so are the
decisions. With data of its own each rank has a part of the batch, as people train.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from tests.forks import end, fork_ranks, join_group
from tests.integrations.runs import BATCH_SIZE, FAULTS, HEALTHY, Net, Run, Samples, Setting, make_parts, tell
from trimtab import Supervisor
from trimtab.ranks import take_part

SECONDS = 60

KINDS: Mapping[str, int] = {"ddp-2": 2, "fsdp-2": 2, "ddp-4": 4}
"""How many ranks train in which way."""

LAST_COMPARED = 64
"""The step that a run with data for all ends with, a few after the last fault."""

RUNS = [
    *((fault, True, "own", 1e6) for fault in (*FAULTS, "none")),
    ("none", False, "own", 1e6),
    *((fault, True, "all", 1.0) for fault in FAULTS),
]
"""Fault, whether a supervisor is there, whose data each rank has, and clipping of every run."""


class Owning(Net):
    """The network, whose predictions are no view of another tensor, of which sharding warns."""

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        return {name: each.clone() for name, each in super().forward(x, labels).items()}


def wrap(kind: str, net: Net) -> nn.Module:
    """The network as ranks train it."""
    if kind.startswith("ddp"):
        return DistributedDataParallel(net)
    for each in net.layers:
        if list(each.parameters()):
            fully_shard(each)
    fully_shard(net)
    return net


def make_run(kind: str, setting: Setting, data: str) -> Run:
    """One run on all ranks; its model is whole afterwards, with the running statistics of this rank."""
    rank, num_ranks = distributed.get_rank(), distributed.get_world_size()
    net = Owning()
    model = wrap(kind, net)
    optimizer, scheduler = make_stepped(model)
    supervisor = None
    if setting.is_supervised:
        supervisor = Supervisor(model, optimizer, scheduler, clip_norm=setting.clip_norm, strict=True)
    for step, batch in enumerate(DataLoader(Samples(spoils=setting.fault.spoils), batch_size=BATCH_SIZE), 1):
        part = {name: each[rank::num_ranks] if data == "own" else each for name, each in batch.items()}
        optimizer.zero_grad()
        loss = model(**part)["loss"]
        loss.backward()
        if supervisor is None:
            nn.utils.clip_grad_norm_(model.parameters(), setting.clip_norm)
        else:
            supervisor.check(loss)
        optimizer.step()
        scheduler.step()
        overwrite(net, setting, step)
        if data == "all" and step == LAST_COMPARED:
            break
    whole = Net()
    whole.load_state_dict({name: join(each) for name, each in net.state_dict().items()})
    return Run(whole, [] if supervisor is None else tell(supervisor.ledger), step)


def make_stepped(model: nn.Module) -> tuple[Optimizer, LRScheduler]:
    """Optimizer and schedule of a wrapped model."""
    _, optimizer, scheduler = make_parts(model=model)  # type: ignore[arg-type]
    return optimizer, scheduler


def overwrite(net: Net, setting: Setting, step: int) -> None:
    """The fault of `Fault.strike`, on the last rank alone; a sharded weight is overwritten in that rank's part."""
    if step == setting.fault.overwritten_after and distributed.get_rank() == distributed.get_world_size() - 1:
        with torch.no_grad():
            take_part(next(net.parameters()))[3, 2] = float("nan")


def join(tensor: Any) -> Tensor:
    """A whole tensor of the parts of all ranks."""
    whole: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole


def act(folder: Path, rank: int, num_ranks: int) -> None:
    """Make all runs of so many ranks."""
    join_group(folder / "store", rank, num_ranks, SECONDS)
    for kind in (kind for kind, num in KINDS.items() if num == num_ranks):
        for fault, is_supervised, data, clip_norm in RUNS:
            setting = Setting(FAULTS.get(fault, HEALTHY), is_supervised, clip_norm=clip_norm)
            made = make_run(kind, setting, data)
            result = {"loss": made.loss, "bits": made.bits, "decisions": made.decisions, "num_steps": made.num_steps}
            name = "-".join((kind, fault, "seen" if is_supervised else "alone", data, str(rank)))
            (folder / f"{name}.pickle").write_bytes(pickle.dumps(result))


def main(folder: Path) -> None:
    """Make the runs of two ranks, then those of four."""
    codes = []
    for num_ranks in sorted(set(KINDS.values())):
        own = folder / str(num_ranks)
        own.mkdir()
        codes += fork_ranks(num_ranks, lambda rank: act(own, rank, num_ranks), own)  # noqa: B023
    end(codes)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
