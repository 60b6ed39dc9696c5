"""Whether something has written into what an optimizer keeps of earlier gradients."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trimtab.ranks import take_part
from trimtab.state.live import Snapshot

TIMES = 1e3
"""A moment whose norm is this many times that in the newest proven snapshot was overwritten: over the few steps
between, averages of gradients that were clipped at four times their level move by far less."""


@torch.no_grad()
def find_corrupt_moments(
    optimizer: torch.optim.Optimizer, snapshot: Snapshot | None, names: Mapping[int, str]
) -> list[str]:
    """The optimizer tensors that are not finite, or far larger than in a snapshot; as `parameter: moment`.

    Of sharded ones this rank's part is looked at.

    Args:
        optimizer: the optimizer.
        snapshot: a few steps old; None to look for what is not finite alone.
        names: the names of parameters, by `id`.
    """
    found = []
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if not isinstance(value, Tensor) or not value.is_floating_point() or value.numel() == 0:
                continue
            norm = float(torch.linalg.vector_norm(take_part(value), dtype=torch.float64))
            kept = None if snapshot is None else snapshot.copies.get(("state", parameter, name))
            before = 0.0 if kept is None else float(torch.linalg.vector_norm(kept, dtype=torch.float64))
            if not norm < float("inf") or norm > TIMES * before > 0:
                found.append(f"{names.get(id(parameter), '(other)')}: {name}")
    return found
