"""One weight that is not a number."""

from __future__ import annotations

import math

from trimtab.faults import Scene, fault
from trimtab.faults.huge_weight import draw_weight


@fault("nan-weight", "end", strength=math.nan, signs=("weight_norm is not finite",))
def break_weight(scene: Scene) -> None:
    """One weight, drawn from all weights of the model alike, becomes NaN after the optimizer's step.

    As it happens:
        An update with a NaN in it that nobody stopped, a faulty chip, a checkpoint that was damaged.
    Strength:
        The new value of the weight; NaN by default, infinity as well.
    """
    weights, position = draw_weight(scene)
    weights[position] = scene.strength
