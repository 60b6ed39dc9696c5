"""Gradients far too long for a few steps."""

from __future__ import annotations

from trimtab.faults import Scene, fault


@fault("scaled-gradient", "gradients", strength=300.0, duration=10, signs=("gradient-spike",))
def scale_gradients(scene: Scene) -> None:
    """Every gradient is multiplied by the same number; their direction and the loss stay what they are.

    As it happens:
        A loss summed instead of averaged, a loss scale that is not divided out, gradients added up over micro-batches
        and never reset.
    Strength:
        What the gradients are multiplied by; 300 by default, for 10 steps, as in arXiv 2601.17483.

    Raises:
        InputError: if no parameter has a gradient.
    """
    for _, gradient in scene.list_gradients():
        gradient.mul_(scene.strength)
