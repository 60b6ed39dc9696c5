"""The loss of a batch once more, to tell a fault that passes from one that stays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

ComputeLoss: TypeAlias = Callable[[nn.Module, Any], Tensor | Mapping[str, Tensor]]
"""`compute_loss(model, batch)`: the loss, 0-d, or several losses by name whose sum is the loss."""


@torch.no_grad()
def rerun_loss(model: nn.Module, compute_loss: ComputeLoss, batch: Any) -> float:
    """The loss of a batch, computed once more without gradients.

    Args:
        model: the model, in the mode it is in; setting back its buffers is the caller's business.
        compute_loss: gives the loss of a batch.
        batch: the batch.
    """
    loss = compute_loss(model, batch)
    return float(sum(loss.values()) if isinstance(loss, Mapping) else loss)


def tell_rerun(before: float, after: float) -> str:
    """What a rerun says of a fault, in one sentence."""
    if after == before or (after != after and before != before):
        return f"rerun: the loss is {after:.6g} again, so the fault lies in this batch or these weights"
    return f"rerun: the loss is {after:.6g} this time, so the fault did not recur"
