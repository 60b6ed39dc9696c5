"""Which distributed trainings can be supervised: each refusal says what to use in its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

from trimtab.errors import InputError
from trimtab.probes.agreement import require_alike
from trimtab.probes.subject import Subject
from trimtab.ranks import is_distributed, is_sharded

if TYPE_CHECKING:
    from torch.optim import Optimizer

OPTIMIZERS: Mapping[str, str] = {
    "PostLocalSGDOptimizer": "lets ranks part between two averagings, so that there is no common step to judge; "
    "use one that updates all ranks alike",
    "ZeroRedundancyOptimizer": "hides what it keeps of earlier gradients, so that no rollback can restore it; "
    "shard the model with torch.distributed.fsdp.fully_shard",
}
"""Optimizers of `torch.distributed` that cannot be supervised, and why."""


def refuse_unsupported(
    model: nn.Module, optimizer: Optimizer, *, has_probe: bool = False, updates_itself: bool = False
) -> None:
    """See that a training is distributed in a way that can be supervised.

    Args:
        model: the model.
        optimizer: its optimizer.
        has_probe: True if the state is to be measured by a probe.
        updates_itself: True if parameters change outside the optimizer.

    Raises:
        InputError: if it is not.
    """
    for kind in type(optimizer).__mro__:
        if kind.__name__ in OPTIMIZERS and kind.__module__.startswith("torch.distributed"):
            raise InputError(f"supervisor: optimizer is a {kind.__name__!r}, which {OPTIMIZERS[kind.__name__]}")
    for module in model.modules():
        if type(module).__name__ == "FullyShardedDataParallel":
            raise InputError(
                "supervisor: the model is wrapped in FullyShardedDataParallel, whose flat parameters do not say which "
                "part of what they are; use torch.distributed.fsdp.fully_shard, its successor"
            )
    if not any(map(is_sharded, model.parameters())):
        return
    if has_probe:
        raise InputError(
            "supervisor: probe measures the model in a forward pass, in which the ranks of a sharded model wait for "
            "one another, so that one that fails would hold all; leave probe out, and call review(val_loss=…)"
        )
    if updates_itself:
        raise InputError(
            "supervisor: self_updating names parameters of a sharded model, whose parts are exchanged in each forward "
            "pass; leave it out, and keep what updates itself in buffers"
        )


def require_alike_ranks(subject: Subject, settings: Mapping[str, object]) -> None:
    """See that all ranks supervise the same model with the same settings; nothing where there is one rank.

    Args:
        subject: the live training.
        settings: what the supervisor was given, by what it is called.

    Raises:
        InputError: on every rank, if they differ.
    """
    if not is_distributed():
        return
    named = zip(subject.names, subject.parameters, subject.num_parts, strict=True)
    parameters = [(name, tuple(each.shape), num_parts) for name, each, num_parts in named]
    groups = subject.groups, subject.group_of.tolist()
    with torch.no_grad():
        require_alike({"parameters": parameters, "groups": groups, **settings}, subject.device)
