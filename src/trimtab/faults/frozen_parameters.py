"""A module that is not trained, since nobody has unfrozen it."""

from __future__ import annotations

from trimtab.faults import FOREVER, Scene, fault
from trimtab.faults.modules import draw_owner


@fault("frozen-parameters", "start", strength=0.0, duration=FOREVER, signs=("missing-gradient",), begins="first")
def freeze_module(scene: Scene) -> None:
    """The parameters of one module, drawn at random, require no gradient and have none, until the duration is over.

    As it happens:
        `requires_grad_(False)` from an earlier phase of training that was never taken back, a name in a list of frozen
        layers that fits too much.
    Strength:
        Without meaning.

    Raises:
        InputError: if the model has fewer than two modules with parameters.
    """
    for parameter in draw_owner(scene).parameters(recurse=False):
        if parameter.requires_grad:
            scene.undo_after.callback(parameter.requires_grad_, True)
            parameter.requires_grad_(False)
            parameter.grad = None
