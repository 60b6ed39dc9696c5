"""A batch that makes one gradient infinite."""

from __future__ import annotations

import math

from trimtab.faults import Scene, fault


@fault("infinite-gradient", "gradients", strength=math.inf, signs=("nonfinite",))
def fill_gradient(scene: Scene) -> None:
    """The gradient of one parameter tensor, drawn at random, becomes infinite; the loss stays what it is.

    As it happens:
        The slope of a square root or a norm at 0, an overflow in one layer's backward pass.
    Strength:
        What the gradient is filled with; infinity by default, NaN as well.

    Raises:
        InputError: if no parameter has a gradient.
    """
    named = scene.list_gradients()
    scene.target, gradient = named[scene.draw(len(named))]
    gradient.fill_(scene.strength)
