"""A batch that makes the loss NaN."""

from __future__ import annotations

import math

from torch import Tensor

from trimtab.faults import Scene, fault


@fault("nan-loss", "loss", strength=math.nan, signs=("nonfinite",))
def spoil_loss(scene: Scene, loss: Tensor) -> Tensor:
    """The loss becomes NaN, and with it every gradient that backward takes from it.

    As it happens:
        One broken sample, a logarithm of 0, 0/0 in a masked mean over nothing.
    Strength:
        What the loss is multiplied by; NaN by default, infinity as well.
    """
    return loss * scene.strength
