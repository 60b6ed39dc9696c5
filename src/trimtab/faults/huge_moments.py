"""An optimizer whose memory of earlier gradients is far too large."""

from __future__ import annotations

import torch

from trimtab.faults import Scene, fault
from trimtab.faults.zeroed_moments import list_moments

FIRST = ("exp_avg", "momentum_buffer")
"""What optimizers of PyTorch call averages of gradients."""


@fault("huge-moments", "end", strength=1e4, signs=("cause: the optimizer's moments",))
def inflate_moments(scene: Scene) -> None:
    """The averages of earlier gradients are multiplied after the step, so that the updates that follow are huge.

    As it happens:
        Memory that is overwritten, moments restored with the scale of another run, a huge gradient that was let in.
    Strength:
        What the averages are multiplied by; 10,000 by default, and the next update becomes nearly as much larger.

    Raises:
        InputError: if the optimizer keeps no such averages, or has not made a step yet.
    """
    firsts = [moment for name, moment in list_moments(scene) if name in FIRST]
    if not firsts:
        raise scene.refuse("found no averages of gradients in the optimizer", "use SGD with momentum, Adam or AdamW")
    for moment in firsts:
        limits = torch.finfo(moment.dtype)
        moment.mul_(scene.strength).clamp_(limits.min, limits.max)
