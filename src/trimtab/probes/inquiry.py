"""What a batch that was found not finite says when it is looked at again: whether it recurs, and where it begins."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from math import isfinite
from typing import Any

import torch
from torch import nn

from trimtab.probes.locate import locate_nonfinite
from trimtab.probes.rerun import HALF, ComputeLoss, judge_rerun
from trimtab.types import Measurement


def inquire(
    model: nn.Module,
    compute_loss: ComputeLoss,
    batch: Any,
    measurement: Measurement,
    *,
    restore: Callable[[], None],
    locates: bool,
) -> str:
    """Compute a batch again and tell in a sentence or two what kind of fault it was, and where it begins.

    Args:
        model: the model; what its buffers are afterwards is the caller's business.
        compute_loss: gives the loss of a batch.
        batch: the batch.
        measurement: what was seen of it; if its loss is finite, only where the gradients begin not to be is looked for.
        restore: sets random numbers and buffers back to what they were before the batch.
        locates: False to leave out the search for where it begins, which costs several passes.

    Returns:
        The sentences; empty where there is nothing to say.

    A loop that autocasts around its forward pass has left autocast by the time of `check`. Under a loss scaler it was
    in float16, since that is what a scaler is for, and so is the rerun; without one the autocast that is active holds.
    """
    values = measurement.values
    loss, norm, scale = values.get("loss", 0.0), values.get("grad_norm", 0.0), values.get("loss_scale", 1.0)
    assert isinstance(loss, float)
    assert isinstance(norm, float)
    assert isinstance(scale, float)
    if isfinite(loss) and isfinite(norm):
        return ""
    told = []
    if not isfinite(loss):
        with _as_it_was(model, is_scaled="loss_scale" in values):
            seen = judge_rerun(model, compute_loss, batch, loss, restore=restore)
        told.append(seen.message)
        locates = locates and seen.verdict != "transient"
    if locates:
        restore()
        with _as_it_was(model, is_scaled="loss_scale" in values):
            origin = locate_nonfinite(model, batch, compute_loss, scale=scale)
        if origin is not None:
            told.append(f"it begins here: {origin.message}; {origin.reason}: {origin.fix}")
    return "; ".join(told)


def _as_it_was(model: nn.Module, *, is_scaled: bool) -> AbstractContextManager[Any]:
    """Autocast in float16 where a loss scaler says that the step was under it, and it is no longer."""
    parameter = next(model.parameters(), None)
    device = "cpu" if parameter is None else parameter.device.type
    if not is_scaled or torch.is_autocast_enabled(device) or (parameter is not None and parameter.dtype in HALF):
        return nullcontext()
    return torch.autocast(device, torch.float16)
