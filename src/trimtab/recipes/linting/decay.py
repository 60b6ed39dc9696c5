"""Weight decay: its kind and its size."""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.recipes.hygiene import FEW_TIMES, USUAL, Decay, find_decay_kind
from trimtab.recipes.linting import Remark, Setup, check


@check("l2-in-adam", severity="low")
def find_l2(setup: Setup) -> Iterator[Remark]:
    """The weight decay of Adam, which is L2 and is divided by the size of the gradients."""
    decay = find_largest(setup)
    if decay > 0 and setup.is_adam and find_decay_kind(setup.optimizer) == "L2":
        yield Remark(
            decay,
            f"weight_decay {decay:g} of {type(setup.optimizer).__name__} is L2: it is added to the gradients and "
            "divided by their size with them, so that the weights with the largest gradients decay least",
            "use AdamW, with a weight_decay around 0.01",
        )


@check("weight-decay-size", severity="low")
def find_size(setup: Setup) -> Iterator[Remark]:
    """A weight decay of the size that the other kind takes: L2 around 1e-4, decoupled around 1e-2."""
    decay, kind = find_largest(setup), find_decay_kind(setup.optimizer)
    other: Decay = "decoupled" if kind == "L2" else "L2"
    is_other = decay * FEW_TIMES >= USUAL[other] if kind == "L2" else decay <= FEW_TIMES * USUAL[other]
    if decay > 0 and is_other:
        effect = "the weights are pulled to 0 hard" if kind == "L2" else "it hardly does anything"
        yield Remark(
            decay,
            f"weight_decay {decay:g} is a usual size of {other} decay, and that of {type(setup.optimizer).__name__} is "
            f"{kind}: {effect}",
            f"begin with {USUAL[kind]:g}",
        )


def find_largest(setup: Setup) -> float:
    """The largest weight decay of the groups."""
    return max((float(group.get("weight_decay") or 0.0) for group in setup.optimizer.param_groups), default=0.0)
