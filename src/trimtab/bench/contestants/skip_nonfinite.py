"""The guard most people write."""

from __future__ import annotations

import math

from torch import Tensor

from trimtab.bench.contestants import contestant
from trimtab.bench.training import Guard, Judgement, Training


@contestant("skip-nonfinite")
def skip_nonfinite(training: Training) -> Guard:
    """An update is left out if its loss or its gradient norm is not finite; any other is clipped as routine."""

    def guard(loss: Tensor) -> Judgement:
        training.unscale()
        norm = training.clip()
        if is_overflow(training, loss, norm) or (math.isfinite(norm) and loss.isfinite()):
            return Judgement()
        told = f"loss {float(loss):.4g}, gradient norm {norm:.4g}"
        return Judgement(proceeds=False, acts=True, names=("nonfinite",), told=told, num_lost=1)

    return guard


def is_overflow(training: Training, loss: Tensor, norm: float) -> bool:
    """True if a gradient norm is not finite in the way a loss scaler expects, and leaves the update out itself.

    That is routine and nobody's intervention: contestants neither act on it nor take it into what they remember. A
    loss that is not finite is no overflow of the scaled gradients, and is judged with a scaler as without.
    """
    return training.scaler is not None and not math.isfinite(norm) and bool(loss.isfinite())
