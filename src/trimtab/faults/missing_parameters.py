"""A module that the optimizer does not know."""

from __future__ import annotations

from torch import nn

from trimtab.faults import FOREVER, Scene, fault
from trimtab.faults.modules import draw_owner


@fault(
    "missing-parameters",
    "start",
    strength=0.0,
    duration=FOREVER,
    signs=("unoptimized-parameter",),
    begins="first",
)
def leave_out_module(scene: Scene) -> None:
    """The parameters of one module, drawn at random, are taken from the optimizer, and put back afterwards.

    They get gradients, which the optimizer neither applies nor clears.

    As it happens:
        A layer that is added after the optimizer was made, modules in a plain list, one parameter group too few.
    Strength:
        Without meaning.

    Raises:
        InputError: if the model has fewer than two modules with parameters.
    """
    left_out = {id(parameter) for parameter in draw_owner(scene).parameters(recurse=False)}
    for group in scene.optimizer.param_groups:
        parameters: list[nn.Parameter] = group["params"]
        kept = [each for each in parameters if id(each) not in left_out]
        if len(kept) < len(parameters):
            scene.undo_after.callback(parameters.__setitem__, slice(None), list(parameters))
            parameters[:] = kept
