"""What the loss is given: an activation too many, one that is missing, shapes that do not match."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from trimtab.recipes.calls import PAIRING, Call
from trimtab.recipes.linting import Remark, Setup, check

WITH_SOFTMAX, WITH_SIGMOID = "cross_entropy", "binary_cross_entropy_with_logits"
"""The losses that have an activation of their own."""

OF_PROBABILITIES = ("binary_cross_entropy", "nll_loss", "kl_div")
"""The losses that take probabilities, or their logarithms."""

BROADCASTING = PAIRING | {"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"}
"""Functions that broadcast what they are given; the other losses refuse shapes that do not match."""


def list_losses(setup: Setup) -> list[Call]:
    """The losses that were called."""
    return [] if setup.trial is None else setup.trial.losses


@check("double-softmax", severity="high")
def find_double_softmax(setup: Setup) -> Iterator[Remark]:
    """Softmax before a cross entropy, which has its own: the scores can differ by 1 at most, and learning crawls."""
    for call in list_losses(setup):
        if call.function == WITH_SOFTMAX and call.origins[0] == "softmax":
            yield Remark(
                call.args[0].shape[1] if call.args[0].ndim > 1 else len(call.args[0]),
                "cross_entropy is given the result of a softmax, and takes the softmax of it once more",
                "give it the scores before the softmax",
            )


@check("softmax-of-one-unit", severity="high")
def find_softmax_of_one(setup: Setup) -> Iterator[Remark]:
    """A softmax, or a cross entropy, over a single unit: its result is always 1, and its gradient 0."""
    for call in setup.trial.calls if setup.trial is not None else ():
        if call.function not in ("softmax", "log_softmax", WITH_SOFTMAX):
            continue
        scores = call.get(0, "input")
        dim = 1 if call.function == WITH_SOFTMAX else call.get(1, "dim")
        if not isinstance(dim, int) or not scores.ndim > dim >= -scores.ndim or scores.shape[dim] != 1:
            continue
        if call.function != WITH_SOFTMAX and call.place and not _reaches_loss(setup, call):
            continue
        yield Remark(
            1.0,
            f"{call.function} in {call.where} runs over one unit: its result is constant",
            "for two classes use one unit with binary_cross_entropy_with_logits, or two units",
        )


def _reaches_loss(setup: Setup, call: Call) -> bool:
    """True if what a loss is given was made by such a function, and has one unit too."""
    return any(
        each.origins[0] == call.function and each.args[0].shape[-1:] in ((1,), ()) for each in list_losses(setup)
    )


@check("activation-before-loss", severity="high")
def find_activation(setup: Setup) -> Iterator[Remark]:
    """An activation before a loss that takes plain scores."""
    for call in list_losses(setup):
        made = call.origins[0]
        is_doubled = call.function == WITH_SIGMOID and made in ("sigmoid", "softmax", "relu", "tanh", "log_softmax")
        is_bounded = call.function == WITH_SOFTMAX and made in (
            "sigmoid",
            "tanh",
            "relu",
            "relu6",
            "hardtanh",
            "logsigmoid",
        )
        if is_doubled or is_bounded:
            yield Remark(
                float(call.args[0].max()),
                f"{call.function} is given the result of a {made}, and takes plain scores: they can be no larger than "
                f"{float(call.args[0].max()):.3g} here",
                f"leave the {made} out",
            )


@check("relu-probabilities", severity="high")
def find_relu(setup: Setup) -> Iterator[Remark]:
    """A ReLU, or nothing, where a loss takes probabilities or their logarithms."""
    for call in list_losses(setup):
        if call.function not in OF_PROBABILITIES or not isinstance(call.args[0], Tensor):
            continue
        scores, made = call.args[0], call.origins[0]
        is_log = call.function != "binary_cross_entropy"
        num_bad = int((scores > 1e-4).sum()) if is_log else int(((scores < 0) | (scores > 1)).sum())
        if made in ("relu", "relu6") or num_bad or (is_log and made in ("softmax", "sigmoid")):
            wanted = "logarithms of probabilities" if is_log else "probabilities"
            given = f"the result of a {made}" if made else "something else"
            mend = "log_softmax" if is_log else "sigmoid"
            yield Remark(
                num_bad,
                f"{call.function} takes {wanted}, and is given {given}: {num_bad} of {scores.numel()} numbers are none",
                f"end the model in {mend}, or in nothing with the loss that has it built in",
            )


@check("broadcast-in-loss", severity="high")
def find_broadcast(setup: Setup) -> Iterator[Remark]:
    """An output and a target of different shapes: each output is compared with every target."""
    for call in setup.trial.calls if setup.trial is not None else ():
        if call.function not in BROADCASTING:
            continue
        first, second = call.get(0, "input"), call.get(1, "target")
        if isinstance(first, Tensor) and isinstance(second, Tensor) and first.shape != second.shape:
            if second.numel() == 1 or first.numel() == 1:
                continue
            num = max(first.numel(), second.numel())
            yield Remark(
                num,
                f"{call.function} compares {tuple(first.shape)} with {tuple(second.shape)}: broadcast, each output "
                "meets every target, and the best answer is their mean",
                "give both the same shape, with squeeze(-1) or unsqueeze(-1)",
            )
