"""The loss of a batch once more, to tell a fault that passes from one that stays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterator

ComputeLoss: TypeAlias = Callable[[nn.Module, Any], Tensor | Mapping[str, Tensor]]
"""`compute_loss(model, batch)`: the loss, 0-d, or several losses by name whose sum is the loss."""


@contextmanager
def keep_buffers(buffers: Iterable[Tensor]) -> Iterator[None]:
    """Set buffers back, in place, to what they are now."""
    kept = [(buffer, buffer.clone()) for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, copy in kept:
                buffer.copy_(copy)


def rerun_loss(model: nn.Module, compute_loss: ComputeLoss, batch: Any, buffers: Iterable[Tensor]) -> float:
    """The loss of a batch, computed once more without gradients; the buffers it changes are set back.

    Args:
        model: the model, in the mode it is in.
        compute_loss: gives the loss of a batch.
        batch: the batch.
        buffers: the buffers to set back.
    """
    with torch.no_grad(), keep_buffers(buffers):
        loss = compute_loss(model, batch)
        return float(sum(loss.values()) if isinstance(loss, Mapping) else loss)


def tell_rerun(before: float, after: float) -> str:
    """What a rerun says of a fault, in one sentence."""
    if after == before or (after != after and before != before):
        return f"rerun: the loss is {after:.6g} again, so the fault lies in this batch or these weights"
    return f"rerun: the loss is {after:.6g} this time, so the fault was transient"
