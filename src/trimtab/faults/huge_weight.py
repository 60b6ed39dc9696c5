"""One weight overwritten with a huge number."""

from __future__ import annotations

import torch

from trimtab.faults import Scene, fault


@fault("huge-weight", "end", strength=1e30)
def overwrite_weight(scene: Scene) -> None:
    """One weight, drawn from all weights of the model alike, is overwritten after the optimizer's step.

    As it happens:
        A bit flipped in memory, a faulty chip, a stray write.
    Strength:
        The new value of the weight; 1e30 by default, or the largest finite value of a narrower dtype.
    """
    named = list(scene.model.named_parameters())
    index = int(torch.randint(sum(each.numel() for _, each in named), (), generator=scene.generator))
    for name, parameter in named:
        if index < parameter.numel():
            limits = torch.finfo(parameter.dtype)
            position = torch.unravel_index(torch.tensor(index), parameter.shape)
            parameter.detach()[position] = min(max(scene.strength, limits.min), limits.max)
            scene.target = name
            return
        index -= parameter.numel()
