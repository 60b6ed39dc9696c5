"""What lower precision needs."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from trimtab.recipes.linting import Remark, Setup, check
from trimtab.recipes.trial import unwrap

HALF_SPACING = 2.0**-9
"""Half the distance of neighbouring bfloat16 numbers, relative to them, at the least: less is rounded away."""

MOST_LOST = 0.5
"""The share of the updates that may be lost."""

LOST_EVERY = 100
"""A loss scale that grows after so few steps costs a step in so many: it grows until one overflows."""


@check("float16-without-scaler", severity="high")
def find_float16(setup: Setup) -> Iterator[Remark]:
    """float16 without a loss scaler: gradients below 6e-8 become 0."""
    half = [each for each in setup.model.parameters() if each.requires_grad and each.dtype == torch.float16]
    is_autocast = setup.trial is not None and torch.float16 in setup.trial.autocast
    if (half or is_autocast) and (setup.scaler is None or not setup.scaler.is_enabled()):
        what = f"{len(half)} trained parameters are" if half else "autocast is"
        yield Remark(
            len(half),
            f"{what} float16, and no loss scaler is there: small gradients become 0",
            "use bfloat16, or float32 weights under autocast with trimtab.recipes.make_scaler()",
        )


@check("aggressive-scaler", severity="medium")
def find_aggressive(setup: Setup) -> Iterator[Remark]:
    """A loss scale that grows so often that steps are lost all the time."""
    scaler = setup.scaler
    if scaler is None or not scaler.is_enabled():
        return
    interval, factor = scaler.get_growth_interval(), scaler.get_growth_factor()
    if interval <= LOST_EVERY and factor >= 2:
        yield Remark(
            1 / interval,
            f"the loss scale begins at {scaler.get_scale():g} and is multiplied by {factor:g} every {interval} steps: "
            f"once it is at the limit, {1 / interval:.1%} of the steps overflow and are lost",
            "let it grow every 200 steps or more, as trimtab.recipes.make_scaler() does",
        )


@check("lost-bfloat16-updates", severity="medium")
def find_lost(setup: Setup) -> Iterator[Remark]:
    """Weights in bfloat16 alone with rates so small that updates are rounded away."""
    gradients = setup.trial.gradients if setup.trial is not None else {}
    names = {id(each): name for name, each in unwrap(setup.model).named_parameters()}
    num_lost = num_all = 0
    rate = 0.0
    for group in setup.optimizer.param_groups:
        for each in group["params"]:
            if each.dtype != torch.bfloat16 or not each.requires_grad:
                continue
            step = measure_step(setup, float(group["lr"]), gradients.get(names.get(id(each), "")))
            if step is not None:
                rate = float(group["lr"])
                num_lost += int((step < each.detach().float().abs() * HALF_SPACING).sum())
                num_all += each.numel()
    if num_all and num_lost > MOST_LOST * num_all:
        yield Remark(
            num_lost / num_all,
            f"{num_lost / num_all:.0%} of the updates of bfloat16 weights at a rate of {rate:g} are smaller than half "
            "the distance to the next bfloat16 number, and are lost",
            "keep the weights in float32 and compute under autocast, or use a rate that is larger",
        )


def measure_step(setup: Setup, rate: float, gradient: Tensor | None) -> Tensor | None:
    """How far a step moves weights, about; None if it is not known."""
    if setup.is_adam:
        return torch.tensor(rate)
    return None if gradient is None else rate * gradient.float().abs()
