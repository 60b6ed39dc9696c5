"""A loss scale that has fallen to almost nothing."""

from __future__ import annotations

from trimtab.faults import Scene, fault
from trimtab.faults.stuck_loss_scale import find_scaler, set_scale


@fault("collapsed-loss-scale", "start", strength=2.0**-20, signs=("loss-scale-collapsed",), needs="scaler")
def collapse_loss_scale(scene: Scene) -> None:
    """The loss scale is set to a tiny number once; from there it grows as the scaler lets it.

    As it happens:
        A stretch of batches that all overflow, each of which halves the scale.
    Strength:
        The scale; 2^-20 by default, at which the gradients of activations vanish in float16.

    Raises:
        InputError: if the injector was not given the loss scaler.
    """
    set_scale(find_scaler(scene), scene.strength)
