"""A learning rate that rises a little with every step."""

from __future__ import annotations

import math

from trimtab.faults import Scene, fault
from trimtab.faults.learning_rate_spike import multiply_rates

MOST = 80.0
"""The logarithm of the largest factor, beyond which float32 has no rates."""


@fault("learning-rate-ramp", "start", strength=0.03, duration=100, signs=("cause: the schedule",))
def ramp_learning_rate(scene: Scene) -> None:
    """The learning rate of every parameter group rises by the same share at each step, on top of its schedule.

    After its duration the rate is the schedule's own again.

    As it happens:
        A warm-up that does not end, an exponential schedule with the wrong sign, a controller that runs away.
    Strength:
        By which share the rate rises in a step; 0.03 by default, which is nineteen-fold after 100 steps.
    """
    num_steps = scene.step - scene.injection.step + 1
    multiply_rates(scene, math.exp(min(num_steps * math.log1p(scene.strength), MOST)))
