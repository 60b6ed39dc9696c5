"""The residual branches of a model: what is added to its own input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from torch import nn

from trimtab.recipes.activations import adds_shortcut, is_matrix

SHORTCUTS = ("shortcut", "downsample", "skip", "identity")
"""What the path around a residual branch is called, if it has layers."""


def is_attention(module: nn.Module) -> bool:
    """True for attention: PyTorch's own, or a class that is called so and has linear layers."""
    named = "attention" in type(module).__name__.lower()
    return isinstance(module, nn.MultiheadAttention) or (
        named and any(is_matrix(each) and not isinstance(each, nn.modules.conv._ConvNd) for each in module.modules())
    )


def list_branches(modules: Mapping[str, nn.Module]) -> Iterator[list[str]]:
    """The names of the linear and convolutional layers of each residual branch, in the model's order.

    A block that holds attention has the attention as one branch, and all else as another. Elsewhere a block is the
    innermost module whose `forward` adds something, and its branch is all but the shortcut.

    Args:
        modules: the modules of the model by name, in its order.
    """
    attentions = [name for name, each in modules.items() if is_attention(each)]
    outer = [each for each in attentions if not any(each.startswith(f"{other}.") for other in attentions)]
    blocks = list(dict.fromkeys(each.rpartition(".")[0] for each in outer if each))
    for block in blocks:
        inside = [each for each in outer if each.rpartition(".")[0] == block]
        rest = [name for name in list_layers(modules, block) if not is_within(name, inside)]
        yield from (branch for branch in (*(list_layers(modules, each) for each in inside), rest) if branch)
    holding = {name: each for name, each in modules.items() if any(True for _ in each.children())}
    adding = [name for name, each in holding.items() if name not in blocks and adds_shortcut(each)]
    for block in adding:
        is_inner = not any(each != block and is_within(each, [block]) for each in (*adding, *blocks))
        layers = [each for each in list_layers(modules, block) if not is_beside(each, block)]
        if is_inner and layers and not is_within(block, blocks):
            yield layers


def list_layers(modules: Mapping[str, nn.Module], block: str) -> list[str]:
    """The linear and convolutional layers in a module, in its order."""
    return [name for name, each in modules.items() if is_within(name, [block]) and is_matrix(each)]


def is_within(name: str, outer: Iterable[str]) -> bool:
    """True if something is one of some modules or in one of them; all is in the model itself, whose name is empty."""
    return any(name == each or name.startswith(f"{each}.") or not each for each in outer)


def is_beside(name: str, block: str) -> bool:
    """True for a layer on the path around the branch of a block."""
    return any(each in name.removeprefix(block).lower() for each in SHORTCUTS)
