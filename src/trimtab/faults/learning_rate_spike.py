"""A learning rate far too high for one step."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from trimtab.faults import Scene, fault


@fault("learning-rate-spike", "start", strength=1000.0, signs=("cause: the schedule",))
def spike_learning_rate(scene: Scene) -> None:
    """The learning rate of every parameter group is multiplied during the step, and exactly what it was after it.

    As it happens:
        A schedule with a slip in it, a rate typed with one zero too few, a resumed schedule that starts over.
    Strength:
        What the learning rate is multiplied by; 1000 by default.
    """
    multiply_rates(scene, scene.strength)


def multiply_rates(scene: Scene, factor: float) -> None:
    """Multiply the learning rate of every parameter group until the end of the step.

    The schedule never sees the multiplied rates, so they do not add up from step to step. A rollback in the step may
    put back one of an earlier step: then the end of the step puts back what that one was made of.
    """
    made_of: dict[tuple[int, float], Any] = scene.memory.setdefault("made of", {})
    for index, group in enumerate(scene.optimizer.param_groups):
        before = group["lr"]
        group["lr"] = before * factor
        made_of[index, float(group["lr"])] = float(before) if isinstance(before, Tensor) else before
        scene.undo.callback(_restore, group, index, before, made_of)


def _restore(group: dict[str, Any], index: int, before: Any, made_of: dict[tuple[int, float], Any]) -> None:
    """Undo the multiplication, unless someone else has set the learning rate since."""
    rate = made_of.get((index, float(group["lr"])))
    if rate is None:
        return
    if isinstance(before, Tensor):
        group["lr"] = before.fill_(rate)
    else:
        group["lr"] = rate
