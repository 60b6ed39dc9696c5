"""Clipping at a limit that follows the gradient norm."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import fmean, pvariance

from torch import Tensor, nn

from trimtab.bench.contestants import contestant
from trimtab.bench.contestants.skip_nonfinite import is_overflow
from trimtab.bench.training import Guard, Judgement, Training

DECAY = 0.97
"""What mean and variance keep of themselves at a step."""

LIMIT = 2.5
"""The score, in standard deviations above the mean, from which on a norm is clipped further."""

NUM_WARMUP = 25
"""The norms from which the first mean and variance are taken."""

EPSILON = 1e-6
"""Added to the standard deviation that a norm is divided by."""


@dataclass(slots=True)
class Level:
    """What is remembered of the gradient norms."""

    first: list[float] = field(default_factory=list)
    """The norms of the warm-up."""

    mean: float = 0.0
    """Their moving mean, after the warm-up."""

    variance: float = 0.0
    """Their moving variance, after the warm-up."""

    def take(self, norm: float) -> float:
        """Remember the next norm, and give the limit it is clipped at; infinite for none.

        What is remembered of a norm that is clipped is its limit.
        """
        if len(self.first) < NUM_WARMUP:
            self.first.append(norm)
            if len(self.first) == NUM_WARMUP:
                self.mean = fmean(self.first)
                self.variance = pvariance(self.first, self.mean) if math.isfinite(self.mean) else math.nan
            return math.inf
        deviation = math.sqrt(self.variance)
        score = (norm - self.mean) / (deviation + EPSILON)
        limit = self.mean + LIMIT * deviation * LIMIT / score if score > LIMIT else math.inf
        taken = min(norm, limit) if score > LIMIT else norm
        self.mean = DECAY * self.mean + (1 - DECAY) * taken
        self.variance = DECAY * self.variance + (1 - DECAY) * (taken - self.mean) ** 2
        return limit


@contestant("adaptive-clipping")
def clip_adaptively(training: Training) -> Guard:
    """A gradient norm that is an outlier of its own moving average is clipped below what routine clipping leaves.

    After ZClip (Kumar et al., arXiv 2504.02507) with the defaults of its authors: mean and variance of the norm move
    with 0.97 and begin with 25 norms; a norm that scores z > 2.5 is clipped at mean + 2.5 · deviation · 2.5 / z, and
    the limit is what enters the moving average. Routine clipping goes on at its own limit, the lower of the two counts.

    As published, a NaN norm enters mean and variance, which stay NaN: nothing is clipped adaptively from then on.
    No update is ever left out.
    """
    level = Level()

    def guard(loss: Tensor) -> Judgement:
        training.unscale()
        parameters = [each for each in training.model.parameters() if each.grad is not None]
        norm = float(nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None]))
        if is_overflow(training, loss, norm):
            return Judgement()
        limit = level.take(norm)
        if limit == math.inf:
            training.clip()
            return Judgement()
        acts = limit < (training.clip_norm or math.inf)
        nn.utils.clip_grad_norm_(parameters, min(limit, training.clip_norm or math.inf))
        return Judgement(acts=acts, names=("gradient-spike",), told=f"gradient norm {norm:.4g}, limit {limit:.4g}")

    return guard
