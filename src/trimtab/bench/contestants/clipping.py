"""Clipping, as most loops do it."""

from __future__ import annotations

from torch import Tensor, nn

from trimtab.bench.contestants import contestant
from trimtab.bench.training import Guard, Judgement, Training

CLIP_NORM = 1.0


@contestant("clipping", detects=False)
def clip(training: Training) -> Guard:
    """The gradients are clipped by their total norm; that is an intervention wherever it scales."""
    limit = CLIP_NORM if training.clip_norm is None else training.clip_norm

    def guard(_: Tensor) -> Judgement:
        training.unscale()
        norm = nn.utils.clip_grad_norm_(training.model.parameters(), limit)
        return Judgement(acts=bool(norm > limit))

    return guard
