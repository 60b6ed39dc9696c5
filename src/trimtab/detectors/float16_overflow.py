"""Gradients that keep overflowing float16."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite, nan

import numpy as np

from trimtab.detectors import detector
from trimtab.history import Column, History
from trimtab.types import Breach

METRIC = "loss_scale"


@detector("float16-overflow", severity="medium", needs=METRIC)
def find_float16_overflow(history: History, *, overflows: int = 5, window: int = 100) -> Iterator[Breach]:
    """Gradients overflow float16 again and again, though the loss scale has been found.

    What it sees:
        More than `overflows` overflows within the newest `window` steps, the one at hand included. An overflow is a
        gradient norm that is not finite, with a finite loss, at a loss scale that had worked before: a gradient norm
        was finite at it or at a higher one; and after which the scale falls. The message tells where the newest
        numbers that are not finite began.
    Why it matters:
        Every overflow is a lost update, and a scale pushed down step by step ends in underflow. The gradients grow,
        or have a heavy tail that float16 cannot hold; in float32 the same run might look healthy.
    Stays silent:
        During calibration, and on the overflow at a scale that has just grown beyond all that worked.
        loss-scale-stuck finds a scale that stays as it was; nonfinite finds a loss that is not finite.
    Settings:
        overflows: how many are left to the scaler.
        window: the steps in which they are counted.
    Default response:
        None: it is recorded only. Train in bfloat16, clip, or lower the learning rate.
    """
    norm, loss, scale = (history.newest.values.get(metric) for metric in ("grad_norm", "loss", METRIC))
    if not isinstance(norm, float) or isfinite(norm) or not isinstance(loss, float) or not isfinite(loss):
        return
    if not isinstance(scale, float):
        return
    norms, scales = _read(history, "grad_norm"), _read(history, METRIC)
    is_finite = np.isfinite(norms)
    worked = np.maximum.accumulate(np.where(is_finite, scales, 0.0))
    has_fallen = np.append(scales[1:] < scales[:-1], True)
    is_over = ~is_finite & np.isfinite(_read(history, "loss")) & (scales <= worked) & has_fallen
    num = int(np.count_nonzero(is_over[-window:]))
    if is_over[-1] and num > overflows:
        message = f"{num} overflows in {min(len(norms), window)} steps: {tell_overflow(history)}"
        yield Breach(metric=METRIC, value=scale, limit=nan, message=message)


def tell_overflow(history: History) -> str:
    """Where the newest numbers that are not finite began, and what that says, in one sentence.

    A bout of them begins after the newest step with a finite loss and a finite gradient norm. If its first step has a
    finite loss, the backward pass overflowed, which is float16's doing where a loss scale falls after it; if not, the
    forward pass did, which happens in every dtype and which no loss scale mends.

    Returns:
        The sentence; empty if the newest step is finite.
    """
    losses, norms, scales = (_read(history, metric) for metric in ("loss", "grad_norm", METRIC))
    is_finite = np.isfinite(losses) & np.isfinite(norms)
    if not is_finite.size or is_finite[-1]:
        return ""
    clean = np.flatnonzero(is_finite)
    first = int(clean[-1]) + 1 if clean.size else 0
    if not np.isfinite(losses[first]):
        return "the loss itself was not finite first, so the fault is in the forward pass and no loss scale mends it"
    if not np.isfinite(scales[first]):
        return "the gradients were not finite first, without a loss scale, so the fault is in the backward pass"
    after = scales[first:]
    if len(after) > 1 and not (after[1:] < after[:-1]).any():
        return "the gradients overflowed first and the loss scale did not fall, so the scaler is not engaged"
    return "the gradients overflowed first, with a finite loss and under a loss scale: they are too large for float16"


def _read(history: History, metric: str) -> Column:
    """The column of a metric; a loss or norm that no step has counts as finite, a loss scale as not measured."""
    try:
        return history.column(metric)
    except KeyError:
        return np.full(len(history), nan if metric == METRIC else 0.0)
