"""A layer whose units are all off."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from trimtab.faults import Scene, fault

ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Sigmoid)
"""What is 0 for a large negative input, or nearly so."""


@fault("dead-units", "end", strength=-100.0, signs=("dead-units",))
def kill_units(scene: Scene) -> None:
    """All biases of one hidden layer, drawn at random, are overwritten with a large negative number.

    Hidden layers are those directly before an activation among the model's modules. Where there are none, as with
    activations that are mere functions, it is linear layers that widen, and failing these any with a bias but the last.

    As it happens:
        One update with a learning rate far too high, after which a ReLU layer is 0 for every input and stays so.
    Strength:
        The new value of the biases; -100 by default.

    Raises:
        InputError: if the model has no hidden layer with a bias.
    """
    hidden = list_hidden(scene.model)
    if not hidden:
        raise scene.refuse("found no hidden layer with a bias", "give it a model of several layers")
    scene.target, bias = hidden[scene.draw(len(hidden))]
    bias.detach().fill_(scene.strength)


def list_hidden(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The biases of hidden layers, by name."""
    leaves = [(name, each) for name, each in model.named_modules() if not any(True for _ in each.children())]
    biased = [(name, each) for name, each in leaves if isinstance(getattr(each, "bias", None), nn.Parameter)]
    activated = [
        (name, before)
        for (name, before), (_, after) in pairwise(leaves)
        if isinstance(after, ACTIVATIONS) and (name, before) in biased
    ]
    widening = [
        (name, each)
        for name, each in biased[:-1]
        if isinstance(each, nn.Linear) and each.out_features > each.in_features
    ]
    return [(f"{name}.bias", each.get_parameter("bias")) for name, each in activated or widening or biased[:-1]]
