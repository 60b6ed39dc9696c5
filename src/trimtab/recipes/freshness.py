"""Does a parameter look as its layer's class draws it, or has somebody trained or drawn it?"""

from __future__ import annotations

from dataclasses import dataclass
from math import erf, log, sqrt
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from trimtab.recipes.activations import is_matrix

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
"""Layers that begin with a scale of 1 and a shift of 0."""

EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
"""Layers that begin standard normal."""

RECURRENT = (nn.RNNBase, nn.RNNCellBase)
"""Layers that begin uniform in ±1/√(hidden size)."""

CHANCE = 1e-6
"""How often a parameter that was just drawn may look as if it was not."""

MOST_LOOKED_AT = 10_000
"""The numbers of a parameter whose distribution is looked at; all of them have to be within its bounds."""

ROUNDING = 1e-2
"""How far beyond a bound a number may be, relative to it: bfloat16 rounds by up to 0.4 %."""


@dataclass(frozen=True, slots=True)
class Draw:
    """A distribution that a parameter is drawn from."""

    kind: Literal["uniform", "normal", "constant"]
    """Which."""

    number: float
    """The bound of a uniform one around 0, the standard deviation of a normal one with mean 0, or the constant."""


def find_draw(module: nn.Module, name: str) -> Draw | None:
    """What a parameter of a layer is drawn from by the layer's own class; None where it is not known.

    That is what `reset_parameters` of PyTorch's layers does, in PyTorch 2.

    Args:
        module: the layer.
        name: the parameter's own name, such as `weight`.
    """
    parameter = module._parameters[name]
    assert parameter is not None
    if isinstance(module, NORMS):
        return Draw("constant", 1.0 if name == "weight" else 0.0)
    if isinstance(module, EMBEDDINGS):
        return Draw("normal", 1.0)
    if isinstance(module, RECURRENT):
        return Draw("uniform", 1 / sqrt(module.hidden_size))
    if isinstance(module, nn.MultiheadAttention):
        if "bias" in name:
            return Draw("constant", 0.0) if name == "in_proj_bias" else None
        return Draw("uniform", sqrt(6 / sum(parameter.shape)))
    if not is_matrix(module):
        return None
    if type(module).__name__ == "Conv1D":
        return Draw("normal", 0.02) if name == "weight" else Draw("constant", 0.0)
    weight = module._parameters.get("weight")
    return None if weight is None else Draw("uniform", 1 / sqrt(max(1, weight[0].numel())))


def find_trace(module: nn.Module) -> str | None:
    """What tells that a layer's numbers are not as its own class makes them; None where nothing does.

    A parameter is compared with the distribution that its class draws it from: every number within the bounds, and a
    Kolmogorov-Smirnov test with a chance of one in a million of a false alarm. Numbers that are all the same tell
    nothing, since nobody trained them so. Nor do numbers that are few or hardly trained.
    """
    if isinstance(module, _NormBase) and module.num_batches_tracked is not None and int(module.num_batches_tracked):
        return f"it has seen {int(module.num_batches_tracked)} batches"
    for name, parameter in module._parameters.items():
        draw = None if parameter is None else find_draw(module, name)
        if parameter is None or draw is None:
            continue
        values = leave_padding_out(module, parameter.detach())
        if values.numel() and not bool((values == values.flatten()[0]).all()) and not fits(values, draw):
            return f"its {name} is not what {type(module).__name__} draws"
    return None


def leave_padding_out(module: nn.Module, values: Tensor) -> Tensor:
    """The numbers of a parameter, without the row of an embedding that stays 0."""
    index = getattr(module, "padding_idx", None)
    if index is None or not isinstance(module, EMBEDDINGS):
        return values
    return torch.cat([values[:index], values[index + 1 :]])


def fits(values: Tensor, draw: Draw) -> bool:
    """True if some numbers may have been drawn from a distribution."""
    if draw.kind == "constant":
        return bool((values == draw.number).all())
    values = values.float().flatten()
    if not len(values):
        return True
    if draw.kind == "uniform" and not float(values.abs().max()) <= draw.number * (1 + ROUNDING):
        return False
    shown = np.sort(values[:: max(1, len(values) // MOST_LOOKED_AT)].cpu().numpy()).astype(np.float64) / draw.number
    expected = (shown + 1) / 2 if draw.kind == "uniform" else np.array([(1 + erf(x / sqrt(2))) / 2 for x in shown])
    edges = np.arange(len(shown) + 1) / len(shown)
    distance = max(float(np.max(edges[1:] - expected)), float(np.max(expected - edges[:-1])))
    return distance <= sqrt(log(2 / CHANCE) / 2 / len(shown))
