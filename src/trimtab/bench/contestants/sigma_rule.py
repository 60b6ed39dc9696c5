"""The rule of open trainers of large models."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from trimtab.bench.contestants import contestant
from trimtab.bench.contestants.skip_nonfinite import is_overflow
from trimtab.bench.training import Guard, Judgement, Training

WINDOW = 128
"""The losses, and gradient norms, before the latest that it is measured against."""

SIGMAS = 6
"""The standard deviations above their mean that the latest may lie."""

NUM_NEEDED = WINDOW // 2
"""The values, the latest among them, from which on the rule acts."""


@contestant("sigma-rule")
def follow_sigmas(training: Training) -> Guard:
    """An update is left out if loss or gradient norm lies over 6 standard deviations above the mean of the last 128.

    After `SkipStepOptimizer` of OLMo-core (allenai/OLMo-core, `olmo_core/optim/skip_step_optimizer.py`), with its
    defaults: an interval of 128 and a factor of 6. The latest value is not part of the mean and the deviation it is
    held against, which are taken over up to 128 values before it; the norm is the one before clipping; only what lies
    above is left out; and the rule begins with the 64th value, so that whatever comes earlier is accepted.

    As published, all values enter, those of updates that were left out among them. A spike widens the limit until it
    has left the window. A NaN, or an infinity, makes mean and deviation NaN; no value is within a NaN limit, so that
    every update is left out for the next 128 steps, however healthy: the weights stand still.

    Kinder than the original in two ways: what is left out is left out, whereas multiplying a NaN by a step factor of 0
    leaves a NaN; and gradient norms are watched without routine clipping too.
    """
    losses: deque[float] = deque(maxlen=WINDOW + 1)
    norms: deque[float] = deque(maxlen=WINDOW + 1)

    def guard(loss: Tensor) -> Judgement:
        training.unscale()
        norm = training.clip()
        if is_overflow(training, loss, norm):
            return Judgement()
        losses.append(float(loss))
        norms.append(norm)
        found = {"loss-spike": not is_within(losses), "gradient-spike": not is_within(norms)}
        names = tuple(name for name, is_found in found.items() if is_found)
        if not names:
            return Judgement()
        told = f"loss {losses[-1]:.4g}, gradient norm {norm:.4g}: not within {SIGMAS} standard deviations"
        return Judgement(proceeds=False, acts=True, names=names, told=told, num_lost=1)

    return guard


def is_within(values: Sequence[float]) -> bool:
    """True if the latest value is low enough for those before it, or there are too few of them."""
    if len(values) < NUM_NEEDED:
        return True
    *before, latest = values
    deviation, mean = torch.std_mean(torch.tensor(before))
    return bool(latest - mean <= SIGMAS * deviation)
