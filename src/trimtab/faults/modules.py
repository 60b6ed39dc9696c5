"""The modules of a model that faults choose from."""

from __future__ import annotations

from itertools import accumulate

from torch import nn

from trimtab.faults import Scene


def list_owners(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that own trained parameters themselves, by name; "" is the model itself."""
    return {
        name: module
        for name, module in model.named_modules()
        if any(parameter.requires_grad for parameter in module.parameters(recurse=False))
    }


def draw_owner(scene: Scene) -> nn.Module:
    """Draw one of at least two modules that own parameters, once for the fault's duration; it becomes the target.

    Each is drawn as often as it has numbers, so that large ones are hit rather than a single bias.

    Raises:
        InputError: if there are fewer: without it nothing would be left to train.
    """
    if "owner" not in scene.memory:
        owners = {name: _count_numbers(module) for name, module in list_owners(scene.model).items() if name}
        if len(owners) < 2:
            raise scene.refuse("found fewer than two modules with parameters", "give it a model of several layers")
        drawn = scene.draw(sum(owners.values()))
        ends = zip(owners, accumulate(owners.values()), strict=True)
        scene.memory["owner"] = next(name for name, end in ends if drawn < end)
    scene.target = scene.memory["owner"]
    return scene.model.get_submodule(scene.target)


def _count_numbers(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters(recurse=False))
