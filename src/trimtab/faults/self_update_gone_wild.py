"""Parameters that update themselves, and by far too much."""

from __future__ import annotations

from trimtab.faults import Scene, fault


@fault("self-update-gone-wild", "gradients", strength=100.0, signs=("self-update-spike",), needs="self-updating")
def run_wild(scene: Scene) -> None:
    """The parameters that change outside the optimizer are multiplied, after the backward pass.

    Which they are, the model says: its attribute `self_updating` is a tuple of names of parameters and modules.

    As it happens:
        A Hebbian rule with positive feedback, a codebook drawn to an outlier, an average with a momentum above 1.
    Strength:
        What they are multiplied by; 100 by default.

    Raises:
        InputError: if the model declares no such parameters.
    """
    declared = tuple(getattr(scene.model, "self_updating", ()))
    found = [
        (name, parameter)
        for name, parameter in scene.model.named_parameters()
        if any(name == each or name.startswith(f"{each}.") for each in declared)
    ]
    if not found:
        raise scene.refuse("found no self-updating parameter", "name them in model.self_updating, a tuple")
    scene.target = declared[0] if len(declared) == 1 else ""
    for _, parameter in found:
        parameter.detach().mul_(scene.strength)
