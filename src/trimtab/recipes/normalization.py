"""Which normalization suits a model and its batches; and advice, as lines of text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from trimtab.errors import InputError
from trimtab.recipes.activations import is_matrix
from trimtab.recipes.branches import is_attention
from trimtab.recipes.freshness import NORMS, RECURRENT

FEWEST = 16
"""Samples below which the statistics of a batch are so noisy that group normalization does better (Wu and He 2018)."""

DEEP = 4
"""Layers with weights from which a model without normalization is said so."""

GROUPS = 32
"""The groups of group normalization (Wu and He 2018)."""


@dataclass(frozen=True, slots=True)
class Advice:
    """A line about a part of a model."""

    part: str
    """Its name in the model; empty for the model itself."""

    number: float | None
    """What it has now, in the unit the message says; None where there is none."""

    message: str
    """What is usual, or what is odd, and why."""

    fix: str
    """What to do; empty where all is well."""

    def __str__(self) -> str:
        number = "" if self.number is None else f" {self.number:g}"
        fix = f" → {self.fix}" if self.fix else ""
        return f"{self.part or 'the model'}{number}: {self.message}{fix}"


class Advices(tuple[Advice, ...]):
    """Lines of advice, in the model's order; lines of text when printed."""

    __slots__ = ()

    def __str__(self) -> str:
        return "\n".join(map(str, self)) if self else "nothing to advise"


def is_convolution(module: nn.Module) -> bool:
    """True for a convolution."""
    return isinstance(module, _ConvNd)


def choose_normalization(model: nn.Module, batch_size: int | None = None) -> tuple[str, str]:
    """The normalization that suits a model, and why.

    Args:
        model: the model.
        batch_size: the samples of a forward pass on one device; None if that is not known.

    Returns:
        `layer`, `batch` or `group`, and the reason.
    """
    modules = list(model.modules())
    if any(map(is_attention, modules)):
        return "layer", "transformers are normalized token by token, whatever the batch"
    if any(isinstance(each, RECURRENT) for each in modules):
        return "layer", "statistics of a batch differ from one time to the next"
    is_small = batch_size is not None and batch_size < FEWEST
    if any(map(is_convolution, modules)):
        if is_small:
            return "group", f"statistics of batches of {batch_size} are noise"
        return "batch", "it is what convolutions are trained fastest with, in batches that are large enough"
    if is_small:
        return "layer", f"statistics of batches of {batch_size} are noise"
    return "batch", "in large batches it speeds up and regularizes; layer normalization does where they are small"


def advise_normalization(model: nn.Module, batch_size: int | None = None) -> Advices:
    """Say which normalization of a model does not suit it or its batches, and what does.

    Batch normalization suits convolutional and multi-layer networks with large batches; layer normalization
    transformers, recurrent networks and small batches; group normalization images in small batches; instance
    normalization the transfer of style.

    Args:
        model: the model.
        batch_size: the samples of a forward pass on one device; None if that is not known.

    Raises:
        InputError: if the batch size is no whole number from 1 up.
    """
    if batch_size is not None and (isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1):
        raise InputError(f"advise_normalization: batch_size is {batch_size!r}; it has to be a whole number from 1 up")
    return Advices(_advise(model, batch_size))


def _advise(model: nn.Module, batch_size: int | None) -> Iterator[Advice]:
    suiting, why = choose_normalization(model, batch_size)
    named = list(model.named_modules())
    for name, each in named:
        if isinstance(each, _BatchNorm):
            yield from _judge_batch_norm(name, each, suiting, why, batch_size)
        elif isinstance(each, _InstanceNorm) and any(isinstance(other, nn.Linear) for _, other in named):
            yield Advice(
                name,
                None,
                "instance normalization takes out of each image what its contrast says, which a classifier needs",
                f"keep it for the transfer of style; else {_name(suiting, each.num_features)}",
            )
    num_layers = sum(1 for _, each in named if is_matrix(each) or isinstance(each, RECURRENT))
    if num_layers >= DEEP and not any(isinstance(each, NORMS) for _, each in named):
        yield Advice("", float(num_layers), "layers and no normalization", f"{_name(suiting)}: {why}")


def _judge_batch_norm(name: str, norm: _BatchNorm, suiting: str, why: str, batch_size: int | None) -> Iterator[Advice]:
    if suiting != "batch":
        size = None if batch_size is None or batch_size >= FEWEST else float(batch_size)
        yield Advice(name, size, f"batch normalization does not suit it: {why}", _name(suiting, norm.num_features))
    elif not norm.track_running_stats:
        yield Advice(
            name, None, "without running statistics a sample's result in eval mode depends on its batch",
            "track_running_stats=True",
        )  # fmt: skip
    if norm.track_running_stats and (norm.momentum == 0 or not norm.training):
        yield Advice(
            name,
            None,
            "its statistics are frozen, which is right for fine-tuning in small batches, and for nothing else",
            "momentum=0.1, and model.train() before you train" if norm.affine else "",
        )


def _name(suiting: str, num_features: int | None = None) -> str:
    """The layer to use, as code."""
    if suiting == "group" and num_features is not None:
        groups = gcd(num_features, GROUPS)
        return f"nn.GroupNorm({groups}, {num_features})"
    return {"layer": "nn.LayerNorm", "group": f"nn.GroupNorm with {GROUPS} groups", "batch": "batch normalization"}[
        suiting
    ]
