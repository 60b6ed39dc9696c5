"""Steps that take longer than they should."""

from __future__ import annotations

import time

from trimtab.faults import Scene, fault


@fault("slow-steps", "start", strength=0.05, duration=20)
def slow_down(scene: Scene) -> None:
    """The process sleeps at the beginning of each step.

    As it happens:
        Data that come over a slow network, a throttled processor, a neighbour on the same machine.
    Strength:
        Seconds of sleep a step; 0.05 by default, which more than doubles the steps of a small model.
    """
    time.sleep(scene.strength)
