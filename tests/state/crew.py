"""Ranks that save, and ranks that go on: `python -m tests.state.crew FOLDER KIND`."""

from __future__ import annotations

import pickle
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from tests.forks import end, fork_ranks, join_group
from tests.laws.models import Net
from tests.laws.training import Training, capture_random, flatten, make_training

SAVED_STEP, NUM_STEPS = 20, 26

SECONDS = 30

NUM_RANKS: Mapping[str, int] = {"save": 2, "resume-2": 2, "resume-1": 1, "resume-4": 4}
"""How many ranks save, and how many go on."""


class Owning(Net):
    """A network whose output is no view of another tensor, of which sharding warns."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).clone()


def make_model(kind: str, num_ranks: int) -> nn.Module:
    """The network as so many ranks train it; one rank alone has it whole."""
    net = Owning()
    if kind == "sharded" and num_ranks > 1:
        fully_shard(net.inner)
        fully_shard(net)
    return net


def make_run(folder: Path, kind: str, rank: int, num_ranks: int) -> Training:
    """A run whose ranks have data, random numbers and running statistics of their own."""
    training = make_training("adamw", model=lambda: make_model(kind, num_ranks))
    if kind == "replicated" and num_ranks > 1:
        training.model = DistributedDataParallel(training.model)
    training.batches.seed = 1000 * rank
    torch.manual_seed(rank)
    options = {"run": folder / "run", "resume": True, "checkpoint_every": SAVED_STEP, "data": training.batches}
    return training.supervise(strict=True, **options)


def join(value: Any) -> Any:
    """The same with every sharded tensor whole."""
    if isinstance(value, dict):
        return {key: join(each) for key, each in value.items()}
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def capture_whole(training: Training) -> dict[str, Any]:
    """Weights and optimizer of all ranks together."""
    model = getattr(training.model, "module", training.model)
    parameters = {name: join(parameter.detach()) for name, parameter in model.named_parameters()}
    optimizer = training.optimizer.state_dict()
    return dict(flatten({"weights": parameters, "optimizer": {**optimizer, "state": join(optimizer["state"])}}))


def capture_own(training: Training) -> dict[str, Any]:
    """What this rank alone has."""
    model = getattr(training.model, "module", training.model)
    position = {"position": training.batches.position}
    return {**dict(flatten({"buffers": dict(model.named_buffers()), "data": position})), **capture_random()}


def count_threads() -> int:
    """How many threads of gloo this process has."""
    tasks = Path("/proc/self/task").iterdir()
    return sum("gloo" in (task / "comm").read_text() for task in tasks)


def run(training: Training, until: int) -> None:
    """Take steps, each of them with what may be kept of it."""
    assert training.supervisor is not None
    while training.batches.position < until:
        training.step()
        training.supervisor.checkpoint({"note": "kept"})


def act(folder: Path, name: str, kind: str, rank: int, num_ranks: int) -> None:
    """Save, or go on; then say what there is."""
    join_group(folder / "store", rank, num_ranks, SECONDS)
    training = make_run(folder, kind, rank, num_ranks)
    assert training.supervisor is not None
    result: dict[str, Any] = {}
    if name == "save":
        run(training, SAVED_STEP)
    else:
        resumed = training.supervisor.resume()
        result["resumed"] = None if resumed is None else (resumed.step, dict(resumed.extra))
    result |= {"whole": capture_whole(training), "own": capture_own(training)}
    run(training, NUM_STEPS)
    result |= {"last": capture_whole(training), "last_own": capture_own(training)}
    result["threads"] = [count_threads()]
    training.supervisor.finish()
    result["threads"].append(count_threads())
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps(result))


def main(folder: Path, kind: str) -> None:
    """Two ranks save; one, two and four go on, each from a copy of their run."""
    codes = []
    for name, num_ranks in NUM_RANKS.items():
        own = folder / name
        own.mkdir()
        if name != "save":
            shutil.copytree(folder / "save" / "run", own / "run")
        codes += fork_ranks(num_ranks, lambda rank: act(own, name, kind, rank, num_ranks), own)  # noqa: B023
    end(codes)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
