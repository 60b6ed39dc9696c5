"""A device that is not there: numbers that lie "far" away, and a count of how often the host asks for some of them.

Tensors say that they are on the device `FAR`, and are computed on the CPU. What a GPU would make the host wait for is
counted: a copy to the host, and every number, truth value or shape that depends on the values. The device is there for
the whole process, so this is one of its own: `python -m tests.laws.far`.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from trimtab import Supervisor

_setup_privateuseone_for_python_backend("far")

FAR = torch.device("far:0")
"""The device."""

READS = ("_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "_unique2", "unique_dim")
"""Operations whose outcome the host has to wait for."""


class Far(Tensor):
    """A tensor on the device that is not there; its numbers are on the CPU."""

    numbers: Tensor

    @staticmethod
    def __new__(cls, numbers: Tensor, requires_grad: bool = False) -> Far:
        made: Far = torch.Tensor._make_wrapper_subclass(
            cls,
            numbers.size(),
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            device=FAR,
            requires_grad=requires_grad,
        )
        made.numbers = numbers
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return compute(func, args, dict(kwargs or {}), Counter())


class Watching(TorchDispatchMode):
    """Computes what is far, and counts in `num_reads` what the host waits for, by operation."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_reads: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        return compute(func, args, dict(kwargs or {}), self.num_reads)


def _empty_strided(size: Any, stride: Any, **options: Any) -> Tensor:
    """What `torch.tensor(…, device=FAR)` asks for, beside any mode."""
    return Far(torch.empty_strided(size, stride, dtype=options["dtype"]))


def _copy_from(source: Tensor, target: Far, non_blocking: bool = False) -> Far:  # noqa: ARG001
    """What fills it."""
    target.numbers.copy_(source)
    return target


LIBRARY = torch.library.Library("aten", "IMPL")
LIBRARY.impl("empty_strided", _empty_strided, "PrivateUse1")
LIBRARY.impl("_copy_from", _copy_from, "PrivateUse1")


def compute(func: Any, args: Any, kwargs: dict[str, Any], num_reads: Counter[str]) -> Any:
    """Do an operation on the CPU; its outcome is far if one of its tensors is, or if it is asked for there."""
    tensors: list[Tensor] = []
    tree_map(lambda each: tensors.append(each) if isinstance(each, Tensor) else None, (args, kwargs))
    is_far = any(isinstance(each, Far) for each in tensors)
    place = kwargs.get("device")
    goes_far = is_far if place is None else torch.device(place).type == FAR.type
    name = func._schema.name.rpartition("::")[2]
    if name == "copy_" and not isinstance(args[0], Far):
        goes_far = False
    if is_far and (name in READS or not goes_far):
        num_reads[name] += 1
    if place is not None and torch.device(place).type == FAR.type:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    near = lambda each: each.numbers if isinstance(each, Far) else each  # noqa: E731
    found = func(*tree_map(near, args), **tree_map(near, kwargs))
    known = {id(each.numbers): each for each in tensors if isinstance(each, Far)}

    def send(each: Any) -> Any:
        if not isinstance(each, Tensor) or not goes_far:
            return each
        return known[id(each)] if id(each) in known else Far(each)

    return tree_map(send, found)


def send_far(module: nn.Module) -> nn.Module:
    """Move a module's parameters and buffers there."""
    for each in module.modules():
        for name, parameter in each._parameters.items():
            if parameter is not None:
                each._parameters[name] = nn.Parameter(Far(parameter.detach()), requires_grad=parameter.requires_grad)
        for name, buffer in each._buffers.items():
            if buffer is not None:
                each._buffers[name] = Far(buffer)
    return module


class Net(nn.Module):
    """Two layers, running statistics, and a table that never changes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
        self.register_buffer("table", torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        """One number for each sample."""
        y: Tensor = self.layers(x) * self.table.mean()  # type: ignore[operator]
        return y


def count_reads(num_steps: int, *, bad_step: int | None = None, **options: Any) -> list[dict[str, int]]:
    """What the host waits for, step by step, in a check and in the hooks around the optimizer's step.

    Args:
        num_steps: steps to train.
        bad_step: at this step the loss is NaN.
        **options: those of the supervisor.
    """
    torch.manual_seed(0)
    model = send_far(Net())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, foreach=False)
    counts = []
    with Watching() as watching:
        supervisor = Supervisor(model, optimizer, strict=True, **options)
        for step in range(1, num_steps + 1):
            x = torch.randn(8, 4).to(FAR)
            optimizer.zero_grad()
            loss = (model(x) - x[:, :1]).square().mean() * (math.nan if step == bad_step else 1.0)
            loss.backward()
            watching.num_reads.clear()
            supervisor.check(loss)
            optimizer.step()
            counts.append(dict(watching.num_reads))
    return counts


def count_of_known_reads() -> list[dict[str, int]]:
    """What is counted of lines that make the host wait, one by one, and of some that do not."""
    x = torch.ones(3).to(FAR)
    lines: list[Callable[[], object]] = [
        lambda: x.sum().item(),
        lambda: bool(x.sum() > 0),
        lambda: x.cpu(),
        lambda: torch.equal(x, x),
        lambda: x.nonzero(),
        lambda: torch.empty(3).copy_(x),
        lambda: x * 2.0 + torch.zeros(3, device=FAR),
        lambda: x.mul_(torch.where(x > 0, 1.0, 0.5)),
    ]
    counts = []
    with Watching() as watching:
        for line in lines:
            watching.num_reads.clear()
            line()
            counts.append(dict(watching.num_reads))
    return counts


if __name__ == "__main__":
    told = {
        "known": count_of_known_reads(),
        "healthy": count_reads(105),
        "clipped": count_reads(12, clip_norm=1e-3),
        "bad": count_reads(30, bad_step=20),
    }
    sys.stdout.write(json.dumps(told))
    sys.stdout.flush()
    os._exit(0)  # the threads that autograd keeps for a device end with its library, and this one has none to end them
