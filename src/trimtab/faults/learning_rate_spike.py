"""A learning rate far too high for one step."""

from __future__ import annotations

from typing import Any

from trimtab.faults import Scene, fault


@fault("learning-rate-spike", "start", strength=1000.0)
def spike_learning_rate(scene: Scene) -> None:
    """The learning rate of every parameter group is multiplied during the step, and exactly what it was after it.

    As it happens:
        A schedule with a slip in it, a rate typed with one zero too few, a resumed schedule that starts over.
    Strength:
        What the learning rate is multiplied by; 1000 by default.
    """
    for group in scene.optimizer.param_groups:
        before = group["lr"]
        spiked = group["lr"] = before * scene.strength
        scene.undo.callback(_restore, group, spiked, before)


def _restore(group: dict[str, Any], spiked: Any, before: Any) -> None:
    """Undo the spike, unless someone else has set the learning rate since."""
    if group["lr"] == spiked:
        group["lr"] = before
