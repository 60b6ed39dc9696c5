"""The gradients of one module, far too long for a few steps."""

from __future__ import annotations

from trimtab.faults import Scene, fault


@fault("exploding-group", "gradients", strength=1000.0, duration=10, signs=("group-spike", "group-explosion"))
def explode_group(scene: Scene) -> None:
    """The gradients of one module's own parameters are multiplied; all others stay what they are.

    The module is drawn at random at the first step and stays the same.

    As it happens:
        A rare token whose embedding is hit by a whole batch, a recurrent cell whose gradient explodes, attention logits
        that run away in one layer.
    Strength:
        What the gradients of the module are multiplied by; 1000 by default.

    Raises:
        InputError: if no parameter has a gradient.
    """
    gradients = scene.list_gradients()
    owners = list(dict.fromkeys(name.rpartition(".")[0] or name for name, _ in gradients))
    scene.target = scene.memory.setdefault("owner", owners[scene.draw(len(owners))])
    for name, gradient in gradients:
        if scene.target in (name, name.rpartition(".")[0]):
            gradient.mul_(scene.strength)
