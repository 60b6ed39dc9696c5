"""All weights multiplied by one number."""

from __future__ import annotations

from trimtab.faults import Scene, fault


@fault("scaled-weights", "end", strength=16.0, signs=("weight-jump", "cause: the weights"))
def scale_weights(scene: Scene) -> None:
    """Every parameter of the model is multiplied by the same number after the optimizer's step.

    As it happens:
        Weights loaded with a scale that belongs to another format, replicas that were summed instead of averaged.
    Strength:
        What the weights are multiplied by; 16 by default, as for the sum of sixteen replicas.
    """
    for parameter in scene.model.parameters():
        parameter.detach().mul_(scene.strength)
