"""A configuration to start from, read off a model and its data, with a reason for each part."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Literal, TypeAlias

import torch
from torch import nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import LRScheduler

from trimtab.control.batches import count_samples, find_device
from trimtab.errors import InputError
from trimtab.loop.data import count_batches
from trimtab.recipes.advice import precision
from trimtab.recipes.branches import is_attention
from trimtab.recipes.freshness import NORMS, RECURRENT, find_trace
from trimtab.recipes.hygiene import parameter_groups
from trimtab.recipes.keeping import keep_loader
from trimtab.recipes.normalization import advise_normalization, choose_normalization, is_convolution
from trimtab.recipes.regularization import USUAL, Kind, advise_dropout, list_dropouts
from trimtab.recipes.schedules import four_phase, one_cycle, warmup_cosine

Architecture: TypeAlias = Literal["transformer", "recurrent", "convolutional", "multi-layer"]
"""What a model is, by its layers."""

FEWEST = 32
"""The samples of a step below which the gradient is so noisy that batches are accumulated to as many."""

PATIENCE = 10
"""Validations without an improvement after which a run has stalled."""

TRIED: dict[Architecture, tuple[str, float, float]] = {
    "transformer": ("AdamW", 1e-4, 0.1),
    "recurrent": ("AdamW", 1e-3, 0.01),
    "convolutional": ("SGD", 0.1, 5e-4),
    "multi-layer": ("AdamW", 1e-3, 0.01),
}
"""Optimizer, learning rate and weight decay to start from: of transformers those of GPT-3 (Brown et al. 2020, table
2.1), see `LARGE`; PyTorch's defaults for AdamW; those of ResNets, for batches of 256 (He et al. 2016)."""

LARGE = ((2e7, 1e-3), (2e8, 6e-4), (1e9, 3e-4), (1e10, 2e-4))
"""The learning rate of a transformer by how many parameters it has less than; above, 1e-4. The first is not from the
paper, whose smallest model has 125 million."""

FINE = 2e-5
"""The learning rate to start from for a model that is trained already (Devlin et al. 2019)."""

WHOLE = 256
"""The batch that SGD's rate is for; it goes with the batch (Goyal et al. 2017)."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One part of a recipe."""

    part: str
    """Such as `optimizer`."""

    choice: str
    """What to take, as code where it is code."""

    reason: str
    """Why."""

    def __str__(self) -> str:
        return f"{self.part}: {self.choice}: {self.reason}"


@dataclass(frozen=True, slots=True, eq=False)
class Recommendation:
    """A recipe to start from; a line for each part when printed."""

    choices: tuple[Choice, ...]
    """Each part with its reason: initialization, normalization, optimizer, schedule, regularization, clipping,
    accumulation, precision, monitoring."""

    settings: dict[str, Any] = field(default_factory=dict)
    """Arguments of `trimtab.fit`, the optimizer and its schedule made for the model; model, loss and data are yours:
    `trimtab.fit(model, compute_loss=..., train_loader=..., **recommendation.settings)`."""

    def __str__(self) -> str:
        return "\n".join(map(str, self.choices))


def recommend(model: nn.Module, train_loader: Iterable[Any], *, epochs: int = 30) -> Recommendation:
    """Recommend how to train a model on some data, part by part, with reasons.

    It reads and changes nothing: first weights are drawn by `initialize`, and what is said of normalization and dropout
    is for you to build. It is a start, no optimum: see `find_learning_rate` for the rate.

    Args:
        model: the model, on its device.
        train_loader: gives the training batches; of the first the samples are counted.
        epochs: passes over the data.

    Raises:
        InputError: if no parameter is trained, the loader gives no batch or has no length, or there is no epoch.
    """
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise InputError(f"recommend: epochs is {epochs!r}; it has to be a whole number from 1 up")
    num_batches = count_batches(train_loader)
    with keep_loader(train_loader):
        first = next(iter(train_loader), None)
    if first is None or not num_batches:
        raise InputError("recommend: train_loader gives no batch or has no length; pass a DataLoader or a list")
    size = count_samples(first)
    kind = name_architecture(model)
    traces = ((name, find_trace(each)) for name, each in model.named_modules())
    trained = next((f"{name}: {trace}" for name, trace in traces if trace is not None), None)
    accumulate = 1 if size is None else max(1, ceil(FEWEST / size))
    num_steps = epochs * ceil(num_batches / accumulate)
    optimizer, made = _choose_optimizer(model, kind, trained, None if size is None else size * accumulate)
    schedule, planned = _choose_schedule(optimizer, kind, num_steps)
    choices = (
        _choose_first_weights(kind, trained),
        _choose_normalization(model, size),
        made,
        planned,
        _choose_dropout(model, kind),
        Choice("clipping", "clip_norm=1.0", "a bad batch moves the weights no further than a good one"),
        _choose_accumulation(size, accumulate),
        _choose_precision(model),
        Choice(
            "monitoring",
            f"val_loader=..., patience={PATIENCE}, run='runs/name'",
            "steps are supervised as they are; with validation the run stops when it has stalled, at its best epoch",
        ),
    )
    settings = {
        "optimizer": optimizer,
        "scheduler": schedule,
        "epochs": epochs,
        "clip_norm": 1.0,
        "accumulate": accumulate,
    }
    return Recommendation(choices, settings)


def name_architecture(model: nn.Module) -> Architecture:
    """What a model is: by attention, else recurrent layers, else convolutions."""
    modules = list(model.modules())
    if any(map(is_attention, modules)):
        return "transformer"
    if any(isinstance(each, RECURRENT) for each in modules):
        return "recurrent"
    return "convolutional" if any(map(is_convolution, modules)) else "multi-layer"


def _choose_first_weights(kind: Architecture, trained: str | None) -> Choice:
    if trained is not None:
        return Choice("initialization", "none", f"the model looks trained ({trained}), and stays as it is")
    reasons = {
        "transformer": "small weights, and smaller ones at the end of each residual branch",
        "recurrent": "orthogonal from state to state, and an open forget gate",
        "convolutional": "He's, by the activation that follows each layer",
        "multi-layer": "He's or Xavier's, by the activation that follows each layer",
    }
    return Choice("initialization", "initialize(model)", reasons[kind])


def _choose_normalization(model: nn.Module, size: int | None) -> Choice:
    advices = advise_normalization(model, size)
    if advices:
        return Choice(
            "normalization", advices[0].fix or "as it is", f"{advices[0].part or 'the model'}: {advices[0].message}"
        )
    if any(isinstance(each, NORMS) for each in model.modules()):
        return Choice("normalization", "as it is", "it suits the model and its batches")
    suiting, why = choose_normalization(model, size)
    return Choice("normalization", f"none, or {suiting} normalization", f"the model is shallow; {why}")


def _choose_optimizer(
    model: nn.Module, kind: Architecture, trained: str | None, size: int | None
) -> tuple[torch.optim.Optimizer, Choice]:
    name, rate, decay = TRIED[kind]
    has_norm = any(isinstance(each, NORMS) for each in model.modules())
    if name == "SGD" and (not has_norm or trained is not None):
        name, rate, decay = "AdamW", 1e-3, 0.01
        reason = "without normalization SGD's rate is hard to find"
    else:
        reason = {
            "transformer": "transformers are hardly trained without adaptive rates",
            "recurrent": "gradients differ by orders of magnitude between gates",
            "convolutional": "normalized convolutions generalize best with momentum",
            "multi-layer": "it needs the least search for a rate",
        }[kind]
    if kind == "transformer":
        num = sum(each.numel() for each in model.parameters())
        rate = next((rate for limit, rate in LARGE if num < limit), rate)
        reason += "; the larger they are, the lower the rate"
    if trained is not None:
        rate, reason = FINE, "a trained model is moved little"
    if name == "SGD":
        rate *= (size or WHOLE) / WHOLE
        reason += f"; the rate goes with the batch, 0.1 for {WHOLE} samples"
    groups = parameter_groups(model, decay)
    if name == "SGD":
        optimizer: torch.optim.Optimizer = SGD(groups, lr=rate, momentum=0.9, nesterov=True)
        shown = f"SGD(parameter_groups(model, {decay:g}), lr={rate:.3g}, momentum=0.9, nesterov=True)"
    else:
        optimizer = AdamW(groups, lr=rate)
        shown = f"AdamW(parameter_groups(model, {decay:g}), lr={rate:.3g})"
    return optimizer, Choice("optimizer", shown, f"{reason}; biases, norms and embeddings do not decay")


def _choose_schedule(
    optimizer: torch.optim.Optimizer, kind: Architecture, num_steps: int
) -> tuple[LRScheduler, Choice]:
    if kind in ("transformer", "recurrent"):
        reason = "a warm-up while the moments settle, then half a cosine"
        return warmup_cosine(optimizer, num_steps), Choice("schedule", f"warmup_cosine(optimizer, {num_steps})", reason)
    if kind == "multi-layer":
        reason = "a short training reaches high rates safely"
        return one_cycle(optimizer, num_steps), Choice("schedule", f"one_cycle(optimizer, {num_steps})", reason)
    reason = "a rise, a plateau to explore, and a long fall to settle"
    return four_phase(optimizer, num_steps), Choice("schedule", f"four_phase(optimizer, {num_steps})", reason)


def _choose_dropout(model: nn.Module, kind: Architecture) -> Choice:
    odd = [each for each in advise_dropout(model) if each.fix]
    if any(True for _ in list_dropouts(model)):
        if not odd:
            return Choice("regularization", "as it is", "each dropout is of a size that is usual where it is")
        return Choice("regularization", odd[0].fix, f"{odd[0].part} {odd[0].number:g}: {odd[0].message}")
    place: dict[Architecture, Kind] = {
        "transformer": "transformer",
        "recurrent": "recurrent",
        "convolutional": "convolution",
        "multi-layer": "hidden",
    }
    low, high = USUAL[place[kind]]
    return Choice(
        "regularization", f"dropout of {low:g} to {high:g} if it overfits", "weight decay alone to begin with"
    )


def _choose_accumulation(size: int | None, accumulate: int) -> Choice:
    if size is None:
        return Choice("accumulation", "accumulate=1", "the samples of a batch cannot be counted")
    if accumulate == 1:
        return Choice("accumulation", "accumulate=1", f"a batch has {size} samples, enough for a step")
    return Choice(
        "accumulation", f"accumulate={accumulate}", f"a batch has {size} samples, and a step at least {FEWEST}"
    )


def _choose_precision(model: nn.Module) -> Choice:
    device = find_device(model)
    if device.type == "cpu":
        reason = "autocast is faster only on a CPU with bfloat16 instructions: preflight measures it"
        return Choice("precision", "float32", reason)
    advice = precision(device)
    scaler = ", scaler=make_scaler()" if advice.uses_scaler else ""
    return Choice("precision", f"autocast in {str(advice.dtype).removeprefix('torch.')}{scaler}", advice.reason)
