"""One weight overwritten with a huge number."""

from __future__ import annotations

import torch
from torch import Tensor

from trimtab.faults import Scene, fault


@fault("huge-weight", "end", strength=1e30, signs=("weight-jump", "weight_norm is not finite"))
def overwrite_weight(scene: Scene) -> None:
    """One weight, drawn from all weights of the model alike, is overwritten after the optimizer's step.

    As it happens:
        A bit flipped in memory, a faulty chip, a stray write.
    Strength:
        The new value of the weight; 1e30 by default, or the largest finite value of a narrower dtype.
    """
    weights, position = draw_weight(scene)
    limits = torch.finfo(weights.dtype)
    weights[position] = min(max(scene.strength, limits.min), limits.max)


def draw_weight(scene: Scene) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Draw one of all weights alike, as the target of the scene: the tensor it is in, and its position there."""
    named = [(name, parameter.detach()) for name, parameter in scene.model.named_parameters()]
    index = scene.draw(sum(each.numel() for _, each in named))
    for name, weights in named:
        if index < weights.numel():
            scene.target = name
            return weights, torch.unravel_index(torch.tensor(index), weights.shape)
        index -= weights.numel()
    raise AssertionError("a number below the sum of all sizes is in one of them")
