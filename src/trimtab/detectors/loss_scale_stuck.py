"""A loss scale that no overflow moves."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite, nan

import numpy as np

from trimtab.detectors import detector
from trimtab.history import History
from trimtab.types import Breach

METRIC = "loss_scale"


@detector("loss-scale-stuck", severity="low", needs=METRIC)
def find_stuck_loss_scale(history: History, *, overflows: int = 2) -> Iterator[Breach]:
    """Gradients overflow, and the loss scale stays what it is.

    What it sees:
        A gradient norm that is not finite while the loss is, with a loss scale exactly as it was after each of the
        `overflows` overflows before.
    Why it matters:
        A scaler halves its scale at an overflow. One that does not is not engaged: `scaler.update` is not called, or
        the loop steps the optimizer itself, in place of `scaler.step`, and puts infinite gradients into the weights.
    Stays silent:
        Without a scaler, on a constant scale without overflows, on a scale of 1, below which Trimtab's `rescale`
        does not go, and where the loss itself is not finite: a rollback restores the scale too.
    Settings:
        overflows: how many overflows have to leave the scale as it was, before the one that is found.
    Default response:
        None: it is recorded only. Call `scaler.step(optimizer)` and `scaler.update()` at every step.
    """
    norm, loss, scale = (history.newest.values.get(metric) for metric in ("grad_norm", "loss", METRIC))
    if not isinstance(norm, float) or isfinite(norm) or not isinstance(loss, float) or not isfinite(loss):
        return
    if not isinstance(scale, float) or not scale > 1:
        return
    scales = history.column(METRIC)
    has_overflowed = ~np.isfinite(history.column("grad_norm")) & np.isfinite(history.column("loss"))
    moves = scales[1:] - scales[:-1]
    newest = moves[has_overflowed[:-1]][-max(overflows, 1) :]
    if len(newest) == max(overflows, 1) and not newest.any():
        message = (
            f"loss_scale stays {scale:.4g} though gradients overflow: "
            "call scaler.step(optimizer) and scaler.update() at every step"
        )
        yield Breach(metric=METRIC, value=scale, limit=nan, message=message)
