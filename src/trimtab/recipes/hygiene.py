"""What an optimizer is given: which parameters decay, by how much, and what its kind of decay is."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from torch import nn
from torch.optim import Adafactor, AdamW, Optimizer

from trimtab.errors import InputError
from trimtab.recipes.freshness import EMBEDDINGS, NORMS
from trimtab.recipes.linting import require_numbers

Decay: TypeAlias = Literal["L2", "decoupled"]
"""`L2`: the gradient of λ/2·‖w‖² is added to that of the loss, and goes through momentum and scaling with it.
`decoupled`: weights shrink by learning rate · λ beside the update (Loshchilov and Hutter 2019)."""

USUAL = {"L2": 1e-4, "decoupled": 1e-2}
"""The sizes of weight decay that are usual, each good for a few times more or less."""

FEW_TIMES = 5.0
"""How many times more or less."""


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split the trained parameters of a model into those that decay and those that do not.

    Biases, scales and shifts of normalization, embeddings and whatever else has at most one dimension do not: to pull
    them to 0 does not make a model simpler, and it moves what a normalization or a rare word has learned. A parameter
    that several layers share is in one group, that of the first.

    Args:
        model: the model.
        weight_decay: for the weights of all other layers; about 0.01 for `AdamW`, 1e-4 for `SGD`.

    Returns:
        Two groups for an optimizer, with `params` and `weight_decay`; one that would be empty is left out.

    Raises:
        InputError: if the decay is below 0, nothing is trained, or parameters have no numbers yet.
    """
    if isinstance(weight_decay, bool) or not isinstance(weight_decay, (int, float)) or not weight_decay >= 0:
        raise InputError(f"parameter_groups: weight_decay is {weight_decay!r}; it has to be a number from 0 up")
    require_numbers("parameter_groups", model)
    decays: dict[int, bool] = {}
    for module in model.modules():
        for name, each in module._parameters.items():
            if each is not None and each.requires_grad and id(each) not in decays:
                decays[id(each)] = (
                    each.ndim > 1 and "bias" not in name and not isinstance(module, (*EMBEDDINGS, *NORMS))
                )
    trained = [each for each in model.parameters() if id(each) in decays]
    if not trained:
        raise InputError("parameter_groups: no parameter of the model is trained; unfreeze some")
    groups = [
        {"params": [each for each in trained if decays[id(each)]], "weight_decay": float(weight_decay)},
        {"params": [each for each in trained if not decays[id(each)]], "weight_decay": 0.0},
    ]
    return [each for each in groups if each["params"]]


def find_decay_kind(optimizer: Optimizer) -> Decay:
    """Which kind of weight decay an optimizer of PyTorch has.

    Adam's `weight_decay` is L2 and not AdamW's: it is divided by the size of the gradients as gradients are, so that
    the weights with the largest gradients decay least, and its size means something else.

    Args:
        optimizer: the optimizer. One that is not of PyTorch is told by its options and its name.
    """
    is_flagged = any(group.get("decoupled_weight_decay", False) for group in optimizer.param_groups)
    names = [each.__name__.lower() for each in type(optimizer).__mro__]
    is_named = any(word in name for name in names for word in ("adamw", "lion", "muon", "lamb"))
    return "decoupled" if is_flagged or isinstance(optimizer, (AdamW, Adafactor)) or is_named else "L2"
