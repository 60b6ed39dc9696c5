"""What a batch that was found not finite says when it is looked at again: whether it recurs, and where it begins."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import Any

from torch import nn

from trimtab.probes.locate import locate_nonfinite
from trimtab.probes.rerun import ComputeLoss, judge_rerun


def inquire(
    model: nn.Module,
    compute_loss: ComputeLoss,
    batch: Any,
    loss: float,
    *,
    restore: Callable[[], None],
    locates: bool = True,
    scale: float = 1.0,
) -> str:
    """Compute a batch again and tell in a sentence or two what kind of fault it was, and where it begins.

    Args:
        model: the model; setting its buffers back is the caller's business.
        compute_loss: gives the loss of a batch.
        batch: the batch.
        loss: the loss it had; if that is finite, only where the gradients begin not to be is looked for.
        restore: sets the random numbers back to what they were before the batch.
        locates: False to leave out the search for where it begins, which costs several passes.
        scale: the loss scale.

    Returns:
        The sentences; empty where there is nothing to say.
    """
    told = []
    if not isfinite(loss):
        seen = judge_rerun(model, compute_loss, batch, loss, restore=restore)
        told.append(seen.message)
        locates = locates and seen.verdict != "transient"
    if locates:
        restore()
        origin = locate_nonfinite(model, batch, compute_loss, scale=scale)
        if origin is not None:
            told.append(f"it begins here: {origin.message}; {origin.reason}: {origin.fix}")
    return "; ".join(told)
