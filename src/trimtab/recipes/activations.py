"""Which activation follows a layer, as far as the model's parts and the source of its forward passes tell."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from math import sqrt
from typing import Literal, NamedTuple, TypeAlias

from torch import nn

Rule: TypeAlias = Literal["he-normal", "lecun-normal", "xavier-normal"]
"""By fan in, with a gain for what is cut off; by fan in without one; by both fans."""

SUITING: Mapping[str, tuple[Rule, float]] = {
    "selu": ("lecun-normal", 1.0),
    "leaky": ("he-normal", sqrt(2)),
    "prelu": ("he-normal", sqrt(2)),
    "rrelu": ("he-normal", sqrt(2)),
    "relu": ("he-normal", sqrt(2)),
    "gelu": ("he-normal", 1.534),
    "elu": ("he-normal", 1.245),
    "silu": ("he-normal", 1.677),
    "hardswish": ("he-normal", 1.737),
    "swish": ("he-normal", 1.677),
    "mish": ("he-normal", 1.487),
    "softplus": ("he-normal", 1.042),
    "tanh": ("xavier-normal", 5 / 3),
    "sigmoid": ("xavier-normal", 1.0),
    "softsign": ("xavier-normal", 1.0),
}
"""What is in the name of an activation f, in lower case, and the rule and gain that suit it; the first that fits.

He's gain is 1 / √E[f(z)²] for a standard normal z, which is √2 for ReLU (He et al. 2015, section 2.2); those of tanh
and sigmoid are PyTorch's. Of an f that is no ray on either side, such as SiLU, no gain holds the variance over dozens
of layers without normalization.
"""

MATRICES = (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd)
"""Layers that an activation may follow."""

ADDING = ("add", "add_")
"""Functions that add the shortcut to its branch."""


class Activation(NamedTuple):
    """An activation that was found."""

    rule: Rule
    """How weights before it are drawn."""

    gain: float
    """Times what the rule has without it."""

    where: str
    """What it is and where it was seen, in words."""


def is_matrix(module: nn.Module) -> bool:
    """True for a linear or a convolutional layer, the transposed linear layer of GPT-2 in `transformers` too."""
    if isinstance(module, MATRICES):
        return True
    weight = getattr(module, "weight", None)
    return type(module).__name__ == "Conv1D" and isinstance(weight, nn.Parameter) and weight.ndim == 2


def find_activation(modules: Mapping[str, nn.Module], name: str) -> Activation | None:
    """The activation that follows a layer; None where none does.

    In an `nn.Sequential` it is the next one before another layer. Elsewhere the order in which parts are made is not
    the order in which they run: it is one made beside the layer, later ones first, or one that the `forward` of the
    module around it calls; then the same is asked of the module around that. The last layer of a model has none if
    none is made after it.

    Args:
        modules: the modules of the model by name, in its order.
        name: the layer's.
    """
    if is_last(modules, name):
        return None
    while name:
        outer, _, own = name.rpartition(".")
        container = modules[outer]
        names = list(container._modules)
        place = names.index(own)
        after, before = names[place + 1 :], names[:place]
        if isinstance(container, nn.Sequential):
            for each in (container._modules[one] for one in after):
                found = read_activation(each)
                if found is not None or (each is not None and any(map(is_matrix, each.modules()))):
                    return found
        else:
            beside = (read_activation(container._modules[one]) for one in (*after, *reversed(before)))
            found = next((each for each in beside if each is not None), None) or read_forward(container)
            if found is not None:
                return found
        name = outer
    return None


def read_activation(module: nn.Module | None) -> Activation | None:
    """The activation that a module is; None if it is none."""
    if module is None or any(True for _ in module.children()) or is_matrix(module):
        return None
    word = type(module).__name__
    slope = float(getattr(module, "negative_slope", 0.0))
    return _suit(word, slope, f"{word} follows")


def read_forward(module: nn.Module) -> Activation | None:
    """The first activation that the source of a module's `forward` calls; None where there is none or no source."""
    found = (_suit(word, 0.0, f"forward of {type(module).__name__} calls {word}") for word in _list_calls(module))
    return next((each for each in found if each is not None), None)


def _suit(word: str, slope: float, where: str) -> Activation | None:
    """What suits an activation of a name, with a slope below 0; None if it is none."""
    found = next((suiting for part, suiting in SUITING.items() if part in word.lower()), None)
    return None if found is None else Activation(found[0], found[1] / sqrt(1 + slope**2), where)


def adds_shortcut(module: nn.Module) -> bool:
    """True if the source of a module's `forward` adds one thing to another, as a residual block does."""
    return any(
        (isinstance(each, (ast.BinOp, ast.AugAssign)) and isinstance(each.op, ast.Add) and not _counts(each))
        or (isinstance(each, ast.Call) and getattr(each.func, "attr", "") in ADDING)
        for each in _walk_forward(module)
    )


def _counts(node: ast.BinOp | ast.AugAssign) -> bool:
    """True for a sum with a number in it."""
    sides = (node.left, node.right) if isinstance(node, ast.BinOp) else (node.value,)
    return any(isinstance(each, ast.Constant) for each in sides)


def _list_calls(module: nn.Module) -> Iterator[str]:
    for each in _walk_forward(module):
        if isinstance(each, ast.Call):
            name = getattr(each.func, "attr", getattr(each.func, "id", ""))
            if name not in module._modules:  # those are seen as modules
                yield name


def _walk_forward(module: nn.Module) -> Iterator[ast.AST]:
    if isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
        return
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(type(module).forward)))
    except (OSError, TypeError, SyntaxError):
        return
    yield from ast.walk(tree)


def is_last(modules: Mapping[str, nn.Module], name: str) -> bool:
    """True for the last layer of a model, if no activation is made after it."""
    names = list(modules)
    rest = [modules[each] for each in names[names.index(name) + 1 :]]
    return not any(is_matrix(each) or read_activation(each) is not None for each in rest)
