"""Why a number stopped being finite, and what to do about it: a table of rules over the evidence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import e, isnan, log, nan
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Kind = Literal["data", "parameter", "buffer", "forward", "loss", "gradient"]

Advice: TypeAlias = tuple[str, str]
"""A reason and a fix, one sentence each."""

HUGE = 1e6
"""A weight beyond this is damaged or has diverged: initializations and trained weights stay some orders below it."""

FLOAT16_MAX = 65504.0
"""The largest float16, from IEEE 754."""


@dataclass(frozen=True, slots=True)
class Range:
    """What values a tensor holds."""

    name: str
    """What the tensor is called: the argument of an operation, or a parameter."""

    shape: tuple[int, ...]
    """Its shape."""

    dtype: str
    """Its dtype, such as "float16"."""

    min: float
    """The smallest of its finite values; NaN where there is none."""

    max: float
    """The largest of its finite values; NaN where there is none."""

    share_zero: float
    """The share of its values that are exactly zero, from 0 to 1."""

    num_bad: int
    """How many of its values are NaN or infinite."""

    def __str__(self) -> str:
        bad = f", {self.num_bad} not finite" if self.num_bad else ""
        zero = f", {self.share_zero:.0%} zero" if self.share_zero else ""
        span = "without a finite value" if isnan(self.min) else f"in [{self.min:.4g}, {self.max:.4g}]"
        return f"{self.name} {self.dtype}{list(self.shape)} {span}{zero}{bad}"

    @property
    def reach(self) -> float:
        """The largest finite absolute value."""
        return max(abs(self.min), abs(self.max))


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a number first stopped being finite; `str` gives all of it as text."""

    kind: Kind
    """What it is: the batch, the state, a forward operation (of the model or of the loss), or a backward one."""

    where: str
    """The module, parameter or buffer by its qualified name, "(model)" for the model itself; the path in the batch,
    such as "batch[0]"; or "loss" for what `compute_loss` does outside the model."""

    operation: str
    """The operation, such as "log" or "Linear"; "" where there is none."""

    message: str
    """What happened, in one sentence."""

    num_bad: int
    """How many values of the first non-finite tensor are NaN or infinite."""

    first_index: tuple[int, ...]
    """The index of the first of them."""

    shape: tuple[int, ...]
    """The shape of that tensor; of a gradient, that of what it is the gradient of."""

    dtype: str
    """The dtype of that tensor, such as "float16"."""

    inputs: tuple[Range, ...]
    """The floating-point inputs of the operation in the forward pass, as they were before it ran."""

    parameters: tuple[Range, ...]
    """The parameters the module itself owns."""

    reason: str
    """Why it happened, in one sentence."""

    fix: str
    """What to do about it, in one sentence."""

    def __str__(self) -> str:
        lines = [self.message]
        lines += [f"  input: {each}" for each in self.inputs]
        lines += [f"  parameter: {each}" for each in self.parameters]
        return "\n".join([*lines, f"  reason: {self.reason}", f"  fix: {self.fix}"])


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the rules know of an operation."""

    kind: Kind
    """As in `Origin`."""

    name: str
    """The operation below autograd, lower-case and without underscores: "log", "nativelayernorm"."""

    flags: frozenset[str]
    """Which of "nan", "inf" and "-inf" its result holds."""

    dtype: str
    """The dtype of its result."""

    inputs: tuple[Range, ...] = ()
    """Its floating-point inputs."""

    parameters: tuple[Range, ...] = ()
    """The parameters of its module."""

    divisor: float = nan
    """The number it divides by, or the exponent it raises to, where that is no tensor."""

    num_masked: int = 0
    """How many rows of a softmax are −inf throughout."""

    is_mask: bool = False
    """True if its infinities look written on purpose."""

    is_foreign: bool = False
    """True if what is not finite came in from outside: no batch, parameter, buffer or result of an operation."""

    scale: float = 1.0
    """What the loss was multiplied by before the backward pass."""

    @property
    def is_backward(self) -> bool:
        """True if it is a gradient that is not finite."""
        return self.kind == "gradient"


Rule: TypeAlias = Callable[[Evidence], Advice | None]


@torch.no_grad()
def measure_range(name: str, tensor: Tensor) -> Range:
    """What values a tensor holds; of a sparse one, those it stores.

    Args:
        name: what to call it.
        tensor: any shape; it may hold no values, NaN or infinities.
    """
    values = list_values(tensor)
    values = values.to(torch.uint8) if values.dtype == torch.bool else values
    finite = torch.isfinite(values)
    num_bad = values.numel() - int(finite.sum())
    kept = values if num_bad == 0 else values[finite]
    low, high = (float(each) for each in kept.aminmax()) if kept.numel() else (nan, nan)
    share_zero = float((values == 0).sum()) / max(values.numel(), 1)
    dtype = str(tensor.dtype).removeprefix("torch.")
    return Range(name, tuple(tensor.shape), dtype, low, high, share_zero, num_bad)


def list_values(tensor: Tensor) -> Tensor:
    """The real numbers a tensor stores, without its graph; for a complex one both parts of each number."""
    values = tensor.detach()
    values = values._values() if values.is_sparse else values
    return torch.view_as_real(values.resolve_conj()) if values.is_complex() else values


def explain(evidence: Evidence) -> Advice:
    """The reason and the fix that the first fitting rule gives.

    Args:
        evidence: what is known of the operation.
    """
    return next(advice for rule in RULES if (advice := rule(evidence)) is not None)


def _say_data(evidence: Evidence) -> Advice | None:
    if evidence.kind != "data":
        return None
    return (
        "the batch was not finite before the model saw it",
        "clean or drop such rows where the data is loaded, or mask the inputs, since masking an output leaves NaN "
        "in the gradient",
    )


def _say_state(evidence: Evidence) -> Advice | None:
    if evidence.kind not in ("parameter", "buffer"):
        return None
    return (
        f"the {evidence.kind} was not finite before the forward pass: an earlier update, a statistic of an earlier "
        "batch, or its storage damaged it",
        "go back to a snapshot or checkpoint from before it was damaged, since no batch can mend it",
    )


def _say_foreign(evidence: Evidence) -> Advice | None:
    if not evidence.is_foreign:
        return None
    return (
        "the operation was handed a non-finite tensor that is neither in the batch nor a parameter or buffer",
        "look at what the loss function captures from outside, such as class weights or a table of constants",
    )


def _say_masked_row(evidence: Evidence) -> Advice | None:
    if not evidence.num_masked:
        return None
    rows = "a row is" if evidence.num_masked == 1 else f"{evidence.num_masked} rows are"
    return (
        f"{rows} fully masked: with −inf in every place, softmax divides 0 by 0",
        "leave at least one place of every row unmasked, or fill such rows with 0 before the softmax and drop what it "
        "gives for them",
    )


def _say_ignored_targets(evidence: Evidence) -> Advice | None:
    if not evidence.name.startswith(("nllloss", "crossentropy")) or evidence.is_backward:
        return None
    if "nan" in evidence.flags:
        return (
            "every target is ignored (ignore_index) or has weight 0, so the mean divides 0 by 0",
            "leave out batches without a target, or sum and divide by max(number of targets, 1)",
        )
    return (
        "the log-probability of a target is −inf: its class is masked out or its probability is 0",
        "check that no target falls on a masked class, and give cross_entropy raw logits",
    )


def _say_empty(evidence: Evidence) -> Advice | None:
    is_mean = evidence.name.startswith(("mean", "var", "std", "mseloss", "l1loss"))
    if not is_mean or not any(0 in each.shape for each in evidence.inputs):
        return None
    return (
        "the mean of no values is 0/0: the mask or the batch before it selects nothing",
        "leave such batches out, or sum and divide by max(number of values, 1)",
    )


def _say_log(evidence: Evidence) -> Advice | None:
    is_log = evidence.name in ("log", "log2", "log10", "log1p", "logit")
    if not is_log or not evidence.inputs:
        return None
    if evidence.inputs[0].min < (-1 if evidence.name == "log1p" else 0):
        return (
            "the logarithm of a negative number is NaN",
            "clamp the argument to a small positive number, or make it positive by softplus or exp",
        )
    trap = ", and a mask on its result does not stop that: 0 · ∞ is NaN" if evidence.is_backward else ""
    return (
        f"the logarithm of 0 is −inf and its slope infinite{trap}",
        "use log_softmax or logsigmoid on the logits instead of the log of a probability, or add a small epsilon "
        "to the argument",
    )


def _say_division(evidence: Evidence) -> Advice | None:
    divides = evidence.name in ("div", "truedivide", "reciprocal", "divide")
    is_power = evidence.name.startswith("pow") and evidence.divisor < 0
    if not divides and not is_power:
        return None
    below = evidence.inputs[-1] if evidence.inputs and evidence.divisor != 0 else None
    if evidence.divisor != 0 and (below is None or below.share_zero == 0):
        return None
    both = evidence.divisor != 0 and len(evidence.inputs) > 1 and evidence.inputs[0].share_zero > 0
    is_nan = "nan" in evidence.flags and (both or evidence.divisor == 0)
    return (
        "it is 0/0" if is_nan else "it divides by zero",
        "add a small epsilon to the divisor or clamp it from below, and sum over at least one value",
    )


def _say_root(evidence: Evidence) -> Advice | None:
    is_root = evidence.name in ("sqrt", "rsqrt", "cdist", "std", "stdmean") or "norm" in evidence.name
    is_power = evidence.name.startswith("pow") and evidence.divisor < 1
    if evidence.name.startswith(("native", "batch", "cudnn", "layer", "rms")) or not (is_root or is_power):
        return None
    if not evidence.is_backward and evidence.inputs and evidence.inputs[0].min < 0:
        return (
            "the root of a negative number is NaN",
            "clamp the argument to 0 or more; rounding makes small differences negative",
        )
    if not evidence.is_backward and evidence.name not in ("rsqrt",):
        return None
    finite = "" if evidence.name == "rsqrt" else "the result is finite, but "
    return (
        f"{finite}the slope of a root or norm is infinite at 0",
        "add a small epsilon inside the root, sqrt(x + eps), since one outside leaves the slope as it is",
    )


def _say_exp(evidence: Evidence) -> Advice | None:
    if evidence.name not in ("exp", "expm1", "exp2", "cosh", "sinh"):
        return None
    base = 2.0 if evidence.name == "exp2" else e
    limit = log(torch.finfo(getattr(torch, evidence.dtype)).max, base)
    highest = max((each.max for each in evidence.inputs), default=nan)
    return (
        f"exp overflows {evidence.dtype} beyond {limit:.4g}, and its argument reaches {highest:.4g}",
        "subtract the maximum first or stay in logarithms: softmax, logsumexp, log_softmax, softplus",
    )


def _say_normalization(evidence: Evidence) -> Advice | None:
    is_norm = any(word in evidence.name for word in ("batchnorm", "layernorm", "groupnorm", "rmsnorm"))
    if not is_norm or _say_weight(evidence) is not None:
        return None
    return (
        "the variance it divides by is 0, or so close to it that the quotient overflows",
        "give the normalization an eps above 0 (1e-5 is usual) and look for inputs that are all the same",
    )


def _say_weight(evidence: Evidence) -> Advice | None:
    huge = [each for each in evidence.parameters if each.reach > HUGE]
    if not huge or evidence.name == "embeddingdense":
        return None
    worst = max(huge, key=lambda each: each.reach)
    return (
        f"the weights are finite but huge: {worst.name} lies in [{worst.min:.4g}, {worst.max:.4g}]",
        "go back to weights from before they grew, then lower the learning rate or clip the gradient",
    )


def _say_embedding(evidence: Evidence) -> Advice | None:
    if not evidence.is_backward or not evidence.name.startswith("embedding"):
        return None
    return (
        "the gradients of a row that occurs several times overflow where they are summed",
        "clip by value (±100) besides clipping by norm, which turns an infinite entry into NaN, and scale the loss "
        "down if this recurs",
    )


def _say_float16(evidence: Evidence) -> Advice | None:
    if evidence.dtype != "float16":
        return None
    if evidence.is_backward:
        return (
            f"a gradient passes {FLOAT16_MAX:g}, the largest float16, with the loss multiplied by {evidence.scale:g}",
            "lower the loss scale, which a GradScaler does by itself, or use bfloat16, which needs none",
        )
    return (
        f"an activation passes {FLOAT16_MAX:g}, the largest float16",
        "use bfloat16, or float32 for this part, or scale the activations down; loss scaling mends gradients, "
        "not a forward overflow",
    )


def _say_scale(evidence: Evidence) -> Advice | None:
    if evidence.name != "scale":
        return None
    return (
        f"the loss times {evidence.scale:g} does not fit its dtype",
        "lower the loss scale, which a GradScaler does by itself, and compute the loss in float32",
    )


def _say_mask(evidence: Evidence) -> Advice | None:
    is_met = any(each.num_bad for each in evidence.inputs)
    if evidence.is_backward or not (is_met or evidence.is_mask):
        return None
    return (
        "an infinity that masks met arithmetic, where 0 · ∞ and ∞ − ∞ are NaN"
        if is_met
        else "an infinity written as a mask reached the loss",
        "let −inf meet nothing but softmax, logsumexp or max, and select with torch.where instead of multiplying",
    )


def _say_anything(evidence: Evidence) -> Advice:
    if evidence.is_backward:
        return (
            "the gradient overflows, or 0 meets ∞ in it, although the values of the forward pass are finite",
            "look at the ranges of the inputs for values near a pole or near the limit of the dtype, and clip or "
            "rescale before this operation",
        )
    if "nan" in evidence.flags:
        return (
            "the operation has no value at these inputs, or overflows on the way",
            "look at the ranges of the inputs, and keep them inside what the operation is defined for",
        )
    return (
        f"the result overflows {evidence.dtype}",
        "look at the ranges of the inputs, and normalize or rescale them before this operation",
    )


RULES: tuple[Rule, ...] = (
    _say_data,
    _say_state,
    _say_foreign,
    _say_scale,
    _say_masked_row,
    _say_ignored_targets,
    _say_empty,
    _say_log,
    _say_division,
    _say_root,
    _say_exp,
    _say_normalization,
    _say_embedding,
    _say_weight,
    _say_float16,
    _say_mask,
    _say_anything,
)
"""The rules in the order they are asked: the particular before the general; the last one always answers."""
