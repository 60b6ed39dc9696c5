"""Gradients that overflow float16 while the loss looks healthy."""

from __future__ import annotations

from torch import Tensor

from trimtab.faults import Scene, fault
from trimtab.faults.stuck_loss_scale import find_scaler


@fault("float16-overflow", "loss", strength=1e6, duration=10, signs=("float16-overflow",), needs="scaler")
def overflow_gradients(scene: Scene, loss: Tensor) -> Tensor:
    """Backward begins with a gradient that is multiplied, beyond what float16 holds; the loss keeps its value.

    As it happens:
        Activations that grow from layer to layer, a logit far from all others, a head without normalization.
    Strength:
        What the gradient of the loss is multiplied by; a million by default.

    Raises:
        InputError: if the injector was not given the loss scaler.
    """
    find_scaler(scene)
    passed = loss.clone()
    passed.register_hook(lambda gradient: gradient * scene.strength)
    return passed
