"""A batch that makes one gradient infinite."""

from __future__ import annotations

import math

import torch

from trimtab.errors import InputError
from trimtab.faults import Scene, fault


@fault("infinite-gradient", "gradients", strength=math.inf)
def fill_gradient(scene: Scene) -> None:
    """The gradient of one parameter tensor, drawn at random, becomes infinite; the loss stays what it is.

    As it happens:
        The slope of a square root or a norm at 0, an overflow in one layer's backward pass.
    Strength:
        What the gradient is filled with; infinity by default.

    Raises:
        InputError: if no parameter has a gradient.
    """
    named = [(name, parameter.grad) for name, parameter in scene.model.named_parameters() if parameter.grad is not None]
    if not named:
        raise InputError(
            f"infinite-gradient found no gradient at step {scene.step}; call injector.gradients right after backward"
        )
    drawn = int(torch.randint(len(named), (), generator=scene.generator))
    scene.target, gradient = named[drawn]
    gradient.fill_(scene.strength)
