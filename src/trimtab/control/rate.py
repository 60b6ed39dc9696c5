"""A factor on the learning rate, for the optimizer's step alone: a schedule never sees it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from torch.optim import Optimizer


@contextmanager
def scale_rate(optimizer: Optimizer, factor: float) -> Iterator[None]:
    """Multiply the learning rates within a `with` block; after it they are what they were, bit for bit.

    Args:
        optimizer: whose learning rates.
        factor: by what; 1 leaves them alone.
    """
    if factor == 1.0:
        yield
        return
    rates = [group["lr"] for group in optimizer.param_groups]
    shared = {id(rate): (rate, rate.clone()) for rate in rates if isinstance(rate, Tensor)}  # groups may share one
    try:
        for rate, _ in shared.values():
            rate.mul_(factor)
        for group in optimizer.param_groups:
            if not isinstance(group["lr"], Tensor):
                group["lr"] *= factor
        yield
    finally:
        for rate, before in shared.values():
            rate.copy_(before)
        for group, before in zip(optimizer.param_groups, rates, strict=True):
            if not isinstance(before, Tensor):
                group["lr"] = before


def ramp_down(num_done: int, num_steps: int) -> float:
    """The factor of a finalization at a step: linearly from 1 to one step before 0, where it stays.

    Args:
        num_done: steps of the finalization that are done.
        num_steps: how many it has.
    """
    return max(num_steps - num_done, 1) / num_steps
