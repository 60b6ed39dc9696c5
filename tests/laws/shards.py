"""The ranks of a run whose model is sharded: `python -m tests.laws.shards FOLDER SCENARIO …`."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
from torch.distributed.fsdp import CPUOffloadPolicy, FullyShardedDataParallel, fully_shard

from tests.laws.models import Net
from tests.laws.ranks import BAD_STEP, NUM_STEPS, is_last_rank, main, on_last_rank
from tests.laws.spoils import Failure, toy_probe
from tests.laws.training import Training, capture_optimizer, capture_weights, make_training
from trimtab import InputError, Plan, Policy, Supervisor
from trimtab.probes import Reading
from trimtab.probes.subject import Moment
from trimtab.ranks import take_part

FROZEN_FROM = 12


class Owning(Net):
    """A network whose output is no view of another tensor, of which sharding warns."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).clone()


class Mixed(Net):
    """A network one parameter of which every rank has whole; its group is cut otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.whole = nn.Parameter(torch.ones(16))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.whole.mean()


def shard() -> nn.Module:
    """A network cut over all ranks, one layer a unit of its own."""
    net = Owning()
    fully_shard(net.inner)
    fully_shard(net)
    return net


def shard_offloaded() -> nn.Module:
    """The same network, whose parts wait on the host."""
    net, policy = Owning(), CPUOffloadPolicy(pin_memory=False)
    fully_shard(net.inner, offload_policy=policy)
    fully_shard(net, offload_policy=policy)
    return net


def shard_in_part() -> nn.Module:
    """A network one parameter of which is not cut."""
    net = Mixed()
    fully_shard(net, ignored_params={net.whole})
    return net


def make_run(model: Callable[[], nn.Module] = shard, **fields: Any) -> Training:
    """A sharded run whose ranks have data and random numbers of their own."""
    training = make_training(fields.pop("optimizer", "adamw"), model=model, **fields)
    training.batches.seed = 1000 * distributed.get_rank()
    torch.manual_seed(distributed.get_rank())
    return training


def run_healthy(_: Path) -> Training:
    """Nothing happens, and nobody looks."""
    return make_run().run(NUM_STEPS)


def run_watched(folder: Path) -> Training:
    """A supervisor looks on."""
    return make_run().supervise(run=folder / "watched", strict=True).run(NUM_STEPS)


def run_left_out(_: Path) -> Training:
    """One step is left out on all ranks, and nobody looks."""

    def leave_out(training: Training) -> None:
        if training.batches.position == BAD_STEP:
            training.optimizer.zero_grad()

    return make_run(after_backward=leave_out).run(NUM_STEPS)


def run_nan(folder: Path) -> Training:
    """One number of the last rank's part of a gradient is NaN."""

    def spoil(training: Training) -> None:
        if on_last_rank(training):
            take_part(training.model.inner.weight.grad)[0, 0] = math.nan  # type: ignore[union-attr]

    return make_run(after_backward=spoil).supervise(run=folder / "nan", strict=True).run(NUM_STEPS)


def run_nan_loss(folder: Path) -> Training:
    """The last rank has a NaN batch, so that all ranks' parts of all gradients are NaN."""

    def distort(training: Training, _: int, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return inputs * math.nan if on_last_rank(training) else inputs, targets

    return make_run(distort=distort).supervise(run=folder / "nan-loss", strict=True).run(NUM_STEPS)


def ruin(training: Training) -> None:
    """Make the last rank's part of the first weights NaN after the bad step's update, once."""
    if on_last_rank(training) and not {"rollback", "skip"} & set(training.verdicts):
        with torch.no_grad():
            take_part(next(training.model.parameters())).fill_(math.nan)


def run_ruined(_: Path) -> Training:
    """The last rank's part of the weights is ruined."""
    training = make_run(after_update=ruin)
    return training.supervise(data=training.batches, strict=True).run(NUM_STEPS)


def run_offloaded(_: Path) -> Training:
    """The same, of a model whose parts wait on the host."""
    training = make_run(shard_offloaded, after_update=ruin)
    return training.supervise(data=training.batches, strict=True).run(NUM_STEPS)


def run_reset(_: Path) -> Training:
    """As above, after all ranks have lost their optimizer's state: it comes back too, cut as it was."""

    def lose(training: Training) -> None:
        if training.batches.position == BAD_STEP and "rollback" not in training.verdicts:
            training.optimizer.state.clear()
        ruin(training)

    training = make_run(after_update=lose)
    return training.supervise(data=training.batches, strict=True).run(NUM_STEPS)


def run_repaired(_: Path) -> Training:
    """As `run_ruined`, and the answer is to mend the numbers that are not finite."""
    policy = Policy({"nonfinite": Plan(ladder=("skip+repair",))})
    training = make_run(after_update=ruin)
    training.supervise(policy=policy, strict=True).run(BAD_STEP + 1)
    assert training.supervisor is not None
    parameter = next(training.model.parameters())
    kept, part = training.supervisor._controls.snapshots.find_copy(parameter), take_part(parameter)
    is_kept = kept is not None and torch.equal(part, kept)
    training.told["is_mended"] = is_kept if is_last_rank() else bool(torch.isfinite(part).all())
    return training


def run_frozen(_: Path) -> Training:
    """A group is frozen by hand in the middle."""
    training = make_run(optimizer="adamw-foreach").supervise(strict=True).run(FROZEN_FROM)
    assert training.supervisor is not None
    training.supervisor.freeze("inner")
    before = {**capture_weights(training), **capture_optimizer(training)}
    training.run(NUM_STEPS)
    after = {**capture_weights(training), **capture_optimizer(training)}
    training.told["changed"] = sorted(name for name in after if after[name] != before[name])
    return training


def run_clipped(_: Path) -> Training:
    """Gradients are clipped by PyTorch."""
    return make_run(optimizer="sgd", clip_norm=0.5).run(NUM_STEPS)


def run_supervised_clipped(_: Path) -> Training:
    """Gradients are clipped by a supervisor."""
    return make_run(optimizer="sgd", clip_norm=0.5).supervise(strict=True).run(NUM_STEPS)


def run_faulty_reading(_: Path) -> Training:
    """A probe fails on the last rank once all have agreed, at every step; gradients are clipped all the same."""

    def fail_on_last_rank(_: Moment) -> Reading:
        yield torch.ones(1)
        if is_last_rank():
            raise Failure("a toy probe failed")
        return {}

    with toy_probe(fail_on_last_rank, size=lambda _: 1):
        return make_run(optimizer="sgd", clip_norm=0.5).supervise(strict=False).run(NUM_STEPS)


def run_measured(model: Callable[[], nn.Module]) -> Callable[[Path], Training]:
    """Norms by group are compared with those of the whole gradients and weights, put together from all ranks."""

    def run(_: Path) -> Training:
        training = make_run(model)
        off: list[float] = []

        def average(training: Training) -> None:
            whole = getattr(training.model, "whole", None)  # FSDP leaves what it does not cut to the loop
            if whole is not None:
                distributed.all_reduce(whole.grad)

        def compare(training: Training) -> None:
            assert training.supervisor is not None
            record = training.supervisor.record
            assert record is not None
            values = record.measurement.values
            subject = training.supervisor._subject
            for metric, tensors in (
                ("group_grad_norm", [each.grad for each in subject.parameters]),
                ("weight_norm", [each.detach() for each in subject.parameters]),
            ):
                norms = [float(join(each).double().norm()) for each in tensors]
                squares = [0.0] * len(subject.groups)
                for group, norm in zip(subject.group_of.tolist(), norms, strict=True):
                    squares[group] += norm**2
                measured = values[metric]
                assert isinstance(measured, tuple)
                off.extend(
                    abs(found**2 - square) / square for found, square in zip(measured, squares, strict=True) if square
                )
                if metric == "group_grad_norm":
                    off.append(abs(values["grad_norm"] / math.hypot(*norms) - 1))  # type: ignore[operator]

        training.after_backward, training.after_check = average, compare
        groups = {"first": ["inner", "whole"], "last": ["norm", "outer"]} if model is shard_in_part else None
        training.supervise(groups=groups, strict=True).run(BAD_STEP)
        training.told["worst"] = max(off)
        return training

    return run


def join(tensor: Any) -> Tensor:
    """A whole tensor of the parts of all ranks."""
    whole: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole


def run_refused(_: Path) -> Training:
    """What cannot be supervised, and what is said of it."""
    training = make_run()
    parameters = list(training.model.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.distributed.optim import PostLocalSGDOptimizer, ZeroRedundancyOptimizer  # warns of itself

        flat = FullyShardedDataParallel(nn.Linear(4, 2), device_id=torch.device("cpu"))
        zero = ZeroRedundancyOptimizer(nn.Linear(4, 2).parameters(), torch.optim.SGD, lr=0.1)
        local = PostLocalSGDOptimizer(torch.optim.SGD(parameters, lr=0.1), PeriodicModelAverager(period=4))
    tried: dict[str, Callable[[], Supervisor]] = {
        "flat": lambda: Supervisor(flat, torch.optim.SGD(flat.parameters(), lr=0.1)),
        "zero": lambda: Supervisor(nn.Linear(4, 2), zero),
        "local": lambda: Supervisor(training.model, local),
        "probe": lambda: Supervisor(training.model, training.optimizer, probe=lambda _: 0.0),
        "self-updating": lambda: Supervisor(training.model, training.optimizer, self_updating=["inner"]),
    }
    for name, make in tried.items():
        try:
            make()
        except InputError as error:
            training.told[name] = str(error)
    return training


SCENARIOS: Mapping[str, Callable[[Path], Training]] = {
    "healthy": run_healthy,
    "watched": run_watched,
    "left-out": run_left_out,
    "nan": run_nan,
    "nan-loss": run_nan_loss,
    "ruined": run_ruined,
    "offloaded": run_offloaded,
    "reset": run_reset,
    "repaired": run_repaired,
    "frozen": run_frozen,
    "clipped": run_clipped,
    "supervised-clipped": run_supervised_clipped,
    "faulty-reading": run_faulty_reading,
    "refused": run_refused,
    "measured": run_measured(shard),
    "measured-mixed": run_measured(shard_in_part),
}


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:], scenarios=SCENARIOS)
