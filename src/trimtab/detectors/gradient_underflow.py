"""Gradients too small for float16."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trimtab.detectors import detector
from trimtab.history import History
from trimtab.types import Breach

METRIC = "underflow_share"


@detector("gradient-underflow", severity="medium", needs=METRIC)
def find_gradient_underflow(history: History, *, limit: float = 0.5) -> Iterator[Breach]:
    """Most of the gradient numbers are too small for float16.

    What it sees:
        The share of the gradient numbers below 6.1e-5 in magnitude once multiplied by the loss scale, at sampled
        steps of a float16 run. It has to be above `limit` at the newest two of them. Zeros count only in a tensor of
        nothing else, so rectified units and unused rows of embeddings do not.
    Why it matters:
        Below 6.1e-5 float16 rounds coarsely, and below 6e-8 to zero: the small gradients, those of early layers
        first, are lost while the loss goes on looking healthy.
    Stays silent:
        In bfloat16 and float32, at steps that are not sampled, and at the first sampled step, while the scaler may
        still be looking for its scale.
    Settings:
        limit: the share that is too much. Healthy float16 runs of small networks stayed below 0.01, and below 0.2
            at a loss scale of 1.
    Default response:
        None: it is recorded only. Raise the loss scale, or train in bfloat16.
    """
    share = history.newest.values.get(METRIC)
    if not isinstance(share, float) or share <= limit:
        return
    before = history.column(METRIC)[:-1]
    measured = before[np.isfinite(before)]
    if not len(measured) or measured[-1] <= limit:
        return
    scale = history.newest.values.get("loss_scale")
    scaled = f" times the loss scale {scale:.4g}" if isinstance(scale, float) else ""
    message = (
        f"{share:.0%} of the gradient numbers{scaled} are below 6.1e-05, too small for float16: "
        "raise the loss scale or train in bfloat16"
    )
    yield Breach(metric=METRIC, value=share, limit=limit, message=message)
