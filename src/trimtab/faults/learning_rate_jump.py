"""A learning rate that is too high from a step on."""

from __future__ import annotations

from trimtab.faults import FOREVER, Scene, fault
from trimtab.faults.learning_rate_spike import multiply_rates


@fault("learning-rate-jump", "start", strength=30.0, duration=FOREVER, signs=("cause: the schedule",))
def raise_learning_rate(scene: Scene) -> None:
    """The learning rate of every parameter group is multiplied from a step on, whatever the schedule goes on to do.

    As it happens:
        A schedule with a wrong second phase, a run resumed with another batch size or with a new configuration.
    Strength:
        What the learning rate is multiplied by; 30 by default.
    """
    multiply_rates(scene, scene.strength)
