"""Do signals keep their size through a model, forward and backward, and does its first loss know nothing?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from html import escape
from math import inf, isfinite, isnan, log
from typing import TYPE_CHECKING, Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from trimtab.control.batches import find_device, move_batch
from trimtab.detectors.depth_gradient import MIN_CORRELATION, MIN_GROUPS, correlate_with_depth
from trimtab.errors import InputError
from trimtab.probes.rerun import ComputeLoss, keep_training
from trimtab.recipes.branches import list_branches
from trimtab.recipes.calls import CLASSIFYING, is_index
from trimtab.recipes.linting import make_compute_loss, require_numbers
from trimtab.recipes.trial import Trial, run_trial, unwrap

if TYPE_CHECKING:
    import plotly.graph_objects as go

MOST_CHANGE = 1e4
"""How many times smaller or larger a variance may get on the way through a model: a factor of 100 in the signal."""

FAR_FROM_CHANCE = 1.5
"""An initial loss so many times as large as chance is one of a network that is sure of something it cannot know."""

BRIGHT, DARK = "#0072B2", "#D55E00"
"""Colours of Okabe and Ito's palette."""


@dataclass(frozen=True, slots=True)
class LayerSignal:
    """What goes through one layer with weights."""

    layer: str
    """Its name in the model."""

    activation_variance: float
    """The variance of its output between samples, the mean over its units; of a single sample, over all numbers."""

    gradient_variance: float
    """The mean square of the gradient of the loss with respect to its output; NaN where none gets there."""

    gradient_power: float
    """The same summed over the output: what does not depend on how many numbers it has. NaN where none gets there."""


@dataclass(frozen=True, slots=True)
class InitialLoss:
    """The loss of a classifier before it has learned anything."""

    num_classes: int
    """Classes."""

    expected: float
    """−log(1 / classes): the loss of one that gives all classes the same probability."""

    measured: float
    """The loss of the batch."""

    @property
    def is_far(self) -> bool:
        """True if it is more than 1.5 times what is expected, or is not finite."""
        return not self.measured <= FAR_FROM_CHANCE * self.expected

    def __str__(self) -> str:
        return f"the first loss is {self.measured:.4g}; chance among {self.num_classes} classes has {self.expected:.4g}"


@dataclass(frozen=True, slots=True)
class Verification:
    """Signals through the depth of a model; a table when printed."""

    layers: tuple[LayerSignal, ...]
    """The layers with weights, in the order in which they ran."""

    flaws: tuple[str, ...]
    """What is wrong, a sentence each, the layer named; empty where all is well."""

    loss: float
    """The loss of the batch."""

    initial_loss: InitialLoss | None
    """It beside what is expected of a classifier; None where the loss is no cross entropy."""

    def __str__(self) -> str:
        width = max([5, *(len(each.layer) for each in self.layers)])
        lines = [f"{'layer':<{width}}  activation variance  gradient variance"]
        lines += [
            f"{each.layer:<{width}}  {each.activation_variance:>19.3g}  {each.gradient_variance:>17.3g}"
            for each in self.layers
        ]
        loss = str(self.initial_loss) if self.initial_loss is not None else f"the first loss is {self.loss:.4g}"
        return "\n".join([*lines, loss, *(self.flaws or ("no flaw found",))])

    def plot(self) -> go.Figure:
        """Both variances through the depth, as a Plotly figure with logarithmic axes."""
        import plotly.graph_objects as go

        names = [escape(each.layer) or "the model" for each in self.layers]
        figure = go.Figure()
        for title, color, values in (
            ("activation variance, forward", BRIGHT, [each.activation_variance for each in self.layers]),
            ("gradient variance, backward", DARK, [each.gradient_variance for each in self.layers]),
        ):
            shown = [each if each > 0 and isfinite(each) else None for each in values]
            figure.add_scatter(x=names, y=shown, name=title, mode="lines+markers", line={"color": color})
        figure.update_yaxes(type="log", exponentformat="power")
        figure.update_xaxes(title_text="layer, in the order in which they run", type="category")
        return figure


def verify_initialization(
    model: nn.Module,
    batch: Any,
    loss_fn: Callable[..., Any] | None = None,
    *,
    compute_loss: ComputeLoss | None = None,
) -> Verification:
    """Follow one batch forward and backward through a model, in training mode, before the first step.

    Collapse or explosion is flagged at the layer from which on the variance between samples stays 10,000 times smaller
    or larger than at the first layer; and for gradients, summed over a layer's output, at the layer from which on they
    stay so back to the first, counted from the end, where they rise or fall with depth (the rank correlation of the
    detector depth-gradient). Left out are what may begin small on purpose: the last layer, the ends of residual
    branches on the way forward, and layers with a gradient of exactly 0 on the way back, since what is behind a branch
    or a head that begins at 0 moves from the second step on. The first loss of a classifier is compared with chance.

    Model, buffers, gradients, flags and random numbers are as before afterwards.

    Args:
        model: the model, on its device.
        batch: a training batch, as for `lint`.
        loss_fn: `loss_fn(output, target)`, as for `lint`; cross entropy for a target of whole numbers if None.
        compute_loss: `compute_loss(model, batch)` in place of it.

    Returns:
        A line for each layer that has a matrix of weights and ran, and what is wrong.

    Raises:
        InputError: if an argument is of the wrong kind, no loss is known, or the loss cannot be computed.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"verify_initialization: model is a {type(model).__name__!r}; it has to be a torch.nn.Module")
    require_numbers("verify_initialization", model)
    if loss_fn is not None and compute_loss is not None:
        raise InputError("verify_initialization: both loss_fn and compute_loss are given; pass one of them")
    compute_loss = compute_loss or _find_loss(loss_fn, batch)
    return follow_signals(unwrap(model), compute_loss, move_batch(batch, find_device(model)))


def _find_loss(loss_fn: Callable[..., Any] | None, batch: Any) -> ComputeLoss:
    if loss_fn is None and not isinstance(batch, Mapping):
        target = batch[-1] if isinstance(batch, Sequence) and len(batch) > 1 else None
        if not (isinstance(target, Tensor) and is_index(target)):
            raise InputError("verify_initialization: the loss is not known; pass loss_fn or compute_loss")
        loss_fn = F.cross_entropy
    return make_compute_loss(loss_fn)


def follow_signals(model: nn.Module, compute_loss: ComputeLoss, batch: Any) -> Verification:
    """What `verify_initialization` gives, of a batch on the model's device.

    Raises:
        InputError: if the loss cannot be computed.
    """
    with keep_training(model), _watch(model) as seen:
        model.train()
        trial = run_trial(model, compute_loss, batch)
    if trial.error is not None:
        told = str(trial.error).strip().split("\n")[0] or type(trial.error).__name__
        raise InputError(f"verify_initialization: the loss of the batch cannot be computed: {told}") from trial.error
    assert trial.loss is not None
    layers = tuple(LayerSignal(name, *seen[name]) for name in seen)
    initial = expect_loss(trial)
    ends = {branch[-1] for branch in list_branches(dict(model.named_modules()))}
    flaws = [*_judge_forward([each for each in layers if each.layer not in ends]), *_judge_backward(layers)]
    if initial is not None and initial.is_far:
        flaws.append(f"{initial}: begin the last layer small, it is sure of something that it cannot know yet")
    return Verification(layers, tuple(flaws), float(trial.loss.float().mean()), initial)


def expect_loss(trial: Trial) -> InitialLoss | None:
    """The first loss of a classifier beside the one of chance; None where there is no cross entropy of classes."""
    for call in trial.losses:
        scores = call.args[0]
        if call.function not in CLASSIFYING or not isinstance(scores, Tensor) or trial.loss is None:
            continue
        num_classes = scores.shape[1] if scores.ndim > 1 else len(scores)
        return InitialLoss(num_classes, log(max(2, num_classes)), float(trial.loss.float().mean()))
    return None


@contextmanager
def _watch(model: nn.Module) -> Iterator[dict[str, list[float]]]:
    """Note variances at the layers with weights while they run for the first time, forward and backward."""
    seen: dict[str, list[float]] = {}

    def note_gradient(name: str, gradient: Tensor) -> None:
        squares = gradient.detach().float().square()
        seen[name][1:] = [float(squares.mean()), float(squares.sum())]

    def note(name: str, _: nn.Module, __: Any, output: Any) -> None:
        first = output[0] if isinstance(output, (tuple, list)) and output else output
        if name in seen or not isinstance(first, Tensor) or not first.is_floating_point():
            return
        seen[name] = [measure_variance(first.detach()), float("nan"), float("nan")]
        if first.requires_grad:
            first.register_hook(partial(note_gradient, name))

    held = {
        name: module
        for name, module in model.named_modules()
        if any(each.ndim > 1 for each in module.parameters(recurse=False)) and _is_layer(module)
    }
    handles = [module.register_forward_hook(partial(note, name)) for name, module in held.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, nn.MultiheadAttention) or not any(True for _ in module.children())


def measure_variance(output: Tensor) -> float:
    """The variance between samples, the mean over units; shape (samples, …). Over all numbers of a single sample."""
    values = output.float()
    if values.ndim > 1 and len(values) > 1:
        return float(values.var(0, unbiased=False).mean())
    return float(values.var(unbiased=False)) if values.numel() else 0.0


FIX = "draw the weights by trimtab.recipes.initialize, or normalize between layers"


def _judge_forward(layers: Sequence[LayerSignal]) -> Iterator[str]:
    """Collapse or explosion on the way to the last layer."""
    shown = layers[:-1]
    name, factor = find_break([each.layer for each in shown], [each.activation_variance for each in shown])
    if name is not None:
        how = "explode" if factor > 1 else "collapse"
        yield (
            f"activations {how} at {name}: from there on their variance is {factor:.2g} times that of "
            f"{shown[0].layer} or beyond; {FIX}"
        )


def _judge_backward(layers: Sequence[LayerSignal]) -> Iterator[str]:
    """Gradients that vanish or explode on the way from the layer before the last to the first."""
    reached = [each for each in reversed(layers[:-1]) if each.gradient_power > 0 or not isfinite(each.gradient_power)]
    shown = [each for each in reached if not isnan(each.gradient_power)]
    powers = [each.gradient_power for each in shown]
    if len(shown) < MIN_GROUPS or abs(correlate_with_depth(np.array(powers))) <= MIN_CORRELATION:
        return
    name, factor = find_break([each.layer for each in shown], powers)
    if name is not None:
        how = "explode" if factor > 1 else "vanish"
        yield (
            f"gradients {how} at {name}: from there back to the first layer their sum of squares is {factor:.2g} times "
            f"that of {shown[0].layer} or beyond; {FIX}"
        )


def find_break(names: Sequence[str], values: Sequence[float]) -> tuple[str | None, float]:
    """The first place from which on some values stay beyond `MOST_CHANGE` times the first, and its value by the first.

    Args:
        names: the places, in order.
        values: a value at each; one that is not finite is beyond.
    """
    if not values:
        return None, 1.0
    finite = [each if isfinite(each) else inf for each in values]
    first = finite[0]
    if first == inf:
        return names[0], inf
    for index in range(len(finite)):
        rest = finite[index:]
        if max(rest) * MOST_CHANGE < first or min(rest) > first * MOST_CHANGE:
            return names[index], finite[index] / first if first else inf
    return None, 1.0
