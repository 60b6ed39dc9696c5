"""Calls of PyTorch's functions that say how a loss is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ACTIVATIONS = frozenset("softmax log_softmax sigmoid logsigmoid relu relu6 tanh hardtanh".split())
"""Functions whose result is known again where it gets to a loss."""

PASSING = frozenset(
    "view reshape squeeze unsqueeze flatten transpose permute contiguous float double half bfloat16 to type type_as "
    "clone getitem movedim clamp clip clamp_min clamp_max swapaxes unflatten expand detach".split()
)
"""Functions that rearrange, convert or bound numbers, and leave what they are."""

LOSSES = frozenset(
    "cross_entropy nll_loss binary_cross_entropy binary_cross_entropy_with_logits mse_loss l1_loss smooth_l1_loss "
    "huber_loss kl_div".split()
)
"""Losses of `torch.nn.functional`, each with `(input, target)`."""

CLASSIFYING = frozenset(("cross_entropy", "nll_loss"))
"""Losses whose target may be the numbers of classes."""

DROPPING = frozenset("dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout".split())
"""Functions that drop activations if they are told that the model trains."""

ATTENDING = "scaled_dot_product_attention"
"""It drops attention weights whenever its `dropout_p` is above 0."""

WATCHED = LOSSES | DROPPING | {ATTENDING, "softmax", "log_softmax", "embedding"}
"""Functions whose calls are kept."""

PAIRING = frozenset(("add", "sub", "mul", "div", "pow"))
"""Functions of two tensors that broadcast them."""

TARGET_NAMES = ("labels", "label", "targets", "target", "y")
"""What the targets of a batch are called that is a mapping."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a function of PyTorch."""

    function: str
    """Its name, without the underscores of those that work in place."""

    place: str
    """The module that called it; empty for the model itself and for the loss."""

    args: tuple[Any, ...]
    """What it was given by position; tensors without their graph."""

    kwargs: Mapping[str, Any]
    """What it was given by name."""

    origins: tuple[str, ...]
    """What made each tensor by position: an activation, `inputs`, `target`, or nothing known."""

    def get(self, index: int, name: str, default: Any = None) -> Any:
        """An argument by its position or its name."""
        return self.args[index] if index < len(self.args) else self.kwargs.get(name, default)

    @property
    def where(self) -> str:
        """Its place in words."""
        return self.place or "the loss or the model itself"


def count_out_of_range(call: Call) -> tuple[int, int, int, int]:
    """How many indices a call was given that it has no place for, their lowest and highest, and how many places."""
    if call.function in CLASSIFYING:
        scores, indices = call.args[:2]
        ignored = call.get(4, "ignore_index", -100)
        if not (isinstance(indices, Tensor) and is_index(indices)) or not isinstance(scores, Tensor):
            return 0, 0, 0, 0
        num_places = scores.shape[1] if scores.ndim > 1 else scores.shape[0]
        indices = indices[indices != ignored]
    elif call.function == "embedding":
        indices, num_places = call.get(0, "input"), len(call.get(1, "weight"))
    else:
        return 0, 0, 0, 0
    if indices.is_meta or not indices.numel():
        return 0, 0, 0, num_places
    lowest, highest = int(indices.min()), int(indices.max())
    if lowest >= 0 and highest < num_places:
        return 0, lowest, highest, num_places
    return int(((indices < 0) | (indices >= num_places)).sum()), lowest, highest, num_places


def is_index(tensor: Tensor) -> bool:
    """True if a tensor holds whole numbers."""
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)
