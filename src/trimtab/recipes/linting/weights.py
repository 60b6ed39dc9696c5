"""How the parameters begin, how they lie in memory, and which are shared."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from trimtab.recipes.linting import Remark, Setup, check
from trimtab.recipes.linting.wiring import name_some
from trimtab.recipes.trial import unwrap

EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
"""Layers that are shared on purpose: by encoder and decoder, and with the output."""

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
"""The other orders in memory that kernels know, by the number of dimensions."""


@check("identical-weights", severity="high")
def find_identical(setup: Setup) -> Iterator[Remark]:
    """A layer whose units all begin with the same weights: they stay the same, since their gradients are."""
    named = list_matrices(unwrap(setup.model))
    alike = {name: each for name, each in named.items() if is_same_rows(each) and bool(each.any())}
    if alike:
        yield Remark(
            len(alike),
            f"all units of {name_some(alike)} begin with the same weights, so that they get the same gradients",
            "draw the weights at random, as trimtab.recipes.initialize does",
        )
    zero = {name: each for name, each in named.items() if len(each) > 1 and not bool(each.any())}
    gradients = setup.trial.gradients if setup.trial is not None else {}
    moving = [name for name in zero if (found := gradients.get(name)) is None or bool(found.any())]
    if zero and gradients and not moving:
        yield Remark(
            len(zero),
            f"{name_some(zero)} begin at 0 with a gradient of 0: they never move",
            "draw the weights at random; of two layers in a row at most the last may begin at 0",
        )


def list_matrices(model: nn.Module) -> dict[str, Tensor]:
    """The trained weight matrices of linear, convolutional and recurrent layers, by name."""
    kinds = (nn.Linear, nn.modules.conv._ConvNd, nn.RNNBase, nn.RNNCellBase)
    return {
        f"{path}.{name}".lstrip("."): weight.detach()
        for path, module in model.named_modules()
        if isinstance(module, kinds)
        for name, weight in module.named_parameters(recurse=False)
        if weight.ndim > 1 and weight.requires_grad and not weight.is_meta
    }


def is_same_rows(weight: Tensor) -> bool:
    """True if there are several rows, all alike, and nothing in a row tells it from others."""
    return len(weight) > 1 and bool((weight == weight[:1]).all())


@check("tied-weights", severity="medium")
def find_tied(setup: Setup) -> Iterator[Remark]:
    """Layers that share their weights by accident: one put into a list several times, or one memory trained twice.

    Embeddings are shared on purpose, and those of a model that is to share them with its output have to be.
    """
    places: dict[int, list[str]] = defaultdict(list)
    for name, module in setup.model.named_modules(remove_duplicate=False):
        if any(True for _ in module.parameters()) and not isinstance(module, EMBEDDINGS):
            places[id(module)].append(name)
    shared = [names for names in places.values() if len({name.rpartition(".")[0] for name in names}) < len(names)]
    if shared:
        yield Remark(
            len(shared[0]),
            f"{name_some(shared[0])} are one and the same layer, {len(shared[0])} times",
            "make each in a list comprehension: [make_layer() for _ in range(n)], not [layer] * n",
        )
    twice = list_overlapping(setup.model)
    if twice:
        yield Remark(
            len(twice),
            f"{name_some(twice)} are parameters of their own in one memory: each is updated, the other with it",
            "share the parameter itself: layer.weight = other.weight",
        )
    yield from find_untied(unwrap(setup.model))


def list_overlapping(model: nn.Module) -> list[str]:
    """Trained parameters that are another's memory without being that other one."""
    starts: dict[int, list[str]] = defaultdict(list)
    for name, each in model.named_parameters():
        if each.requires_grad and each.numel() and not each.is_meta and each.layout is torch.strided:
            starts[each.data_ptr()].append(name)
    return next((names for names in starts.values() if len(names) > 1), [])


def find_untied(model: nn.Module) -> Iterator[Remark]:
    """A model of Hugging Face that says its embeddings are tied, and has two."""
    says_tied = bool(getattr(getattr(model, "config", None), "tie_word_embeddings", False))
    finders = [getattr(model, f"get_{side}_embeddings", None) for side in ("input", "output")]
    if not says_tied or not all(map(callable, finders)):
        return
    try:
        weights = [getattr(find(), "weight", None) for find in finders if find is not None]
    except (NotImplementedError, AttributeError):  # a model that is not made of words
        return
    if len(weights) == 2 and all(isinstance(each, Tensor) for each in weights) and weights[0] is not weights[1]:
        yield Remark(
            1.0,
            "the configuration ties the output to the input embeddings, and the model has two of them",
            "call model.tie_weights() after the last change of the embeddings",
        )


@check("non-contiguous-parameters", severity="medium")
def find_non_contiguous(setup: Setup) -> Iterator[Remark]:
    """Parameters whose numbers do not lie side by side, in no order that kernels know."""
    odd = [name for name, each in setup.model.named_parameters() if each.requires_grad and not lies_well(each)]
    if odd:
        yield Remark(
            len(odd),
            f"{name_some(odd)} {'is' if len(odd) == 1 else 'are'} not contiguous: flattened views, fused optimizers "
            "and DistributedDataParallel fail on it or copy it",
            "make it nn.Parameter(tensor.contiguous())",
        )


def lies_well(parameter: Tensor) -> bool:
    """True if it is contiguous, or in the order of channels last."""
    if parameter.layout is not torch.strided or parameter.is_contiguous():
        return True
    memory_format = FORMATS.get(parameter.ndim)
    return memory_format is not None and parameter.is_contiguous(memory_format=memory_format)
