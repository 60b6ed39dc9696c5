"""Schedules of the learning rate, as PyTorch's own schedulers, and a plot of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from math import cos, isfinite, pi
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LambdaLR, LRScheduler, OneCycleLR, StepLR

from trimtab.errors import InputError

if TYPE_CHECKING:
    import plotly.graph_objects as go

MakeSchedule: TypeAlias = Callable[[Optimizer], LRScheduler]
"""Makes the schedule of an optimizer."""

WARM, HELD, ANNEALED = 0.15, 0.20, 0.70
"""Shares of the steps at which the phases of `four_phase` end; the last ends with the last step."""

LOW, LAST = 0.1, 0.01
"""What the rate of `four_phase` is multiplied by at the end of its cosine, and at its last step."""

WARMUP_SHARE = 0.03
"""The share of the steps over which `warmup_cosine` rises; 1 to 5 % are usual."""

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette."""


def four_phase(optimizer: Optimizer, num_steps: int) -> LRScheduler:
    """Rise, hold, anneal, cool down: a schedule in four phases, stepped once per optimizer step.

    The optimizer's rate is multiplied by a factor that rises as a cubic to 1 over the first 15 % of the steps, stays
    until 20 %, falls along half a cosine to 0.1 until 70 %, and in a straight line to 0.01 at the last step.

    Args:
        optimizer: the optimizer, with its highest rates.
        num_steps: optimizer steps in all.

    Raises:
        InputError: if there is no step.
    """
    _require_steps("four_phase", num_steps)
    return _make_schedule(optimizer, num_steps, lambda step: _find_phase((step + 1) / num_steps))


def _find_phase(share: float) -> float:
    """The factor at a share of the steps."""
    if share < WARM:
        return (share / WARM) ** 3
    if share < HELD:
        return 1.0
    if share < ANNEALED:
        return _fall(1.0, LOW, (share - HELD) / (ANNEALED - HELD))
    return LOW + (LAST - LOW) * min((share - ANNEALED) / (1 - ANNEALED), 1.0)


def _make_schedule(optimizer: Optimizer, num_steps: int, find_factor: Callable[[int], float]) -> LRScheduler:
    """A schedule by a factor, with its length, as `OneCycleLR` has it: `schedule-pace` asks for it."""
    schedule: Any = LambdaLR(optimizer, find_factor)
    schedule.total_steps = num_steps
    return cast(LRScheduler, schedule)


def _fall(high: float, low: float, share: float) -> float:
    """Along half a cosine from high to low."""
    return low + (high - low) * (1 + cos(pi * min(share, 1.0))) / 2


def warmup_cosine(optimizer: Optimizer, num_steps: int, num_warmup: int | None = None) -> LRScheduler:
    """Rise in a straight line, then fall along half a cosine to 0; stepped once per optimizer step.

    Args:
        optimizer: the optimizer, with its highest rates.
        num_steps: optimizer steps in all.
        num_warmup: steps of the rise; 3 % of all if None. The first transformer had 4,000 (Vaswani et al. 2017).

    Raises:
        InputError: if there is no step, or the rise takes all of them.
    """
    _require_steps("warmup_cosine", num_steps)
    rise = max(1, round(WARMUP_SHARE * num_steps)) if num_warmup is None else num_warmup
    if not 0 <= rise < max(num_steps, 2):
        raise InputError(f"warmup_cosine: num_warmup is {rise!r}; it has to be from 0 to below num_steps, {num_steps}")

    def find_factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return _fall(1.0, 0.0, (step - rise) / max(1, num_steps - rise))

    return _make_schedule(optimizer, num_steps, find_factor)


def one_cycle(optimizer: Optimizer, num_steps: int) -> LRScheduler:
    """PyTorch's one-cycle schedule with its usual numbers, stepped once per optimizer step.

    The rate rises over the first 30 % of the steps from a twenty-fifth of the optimizer's rate to it, and falls to a
    ten-thousandth of where it began, both along half a cosine; momentum, or Adam's first beta, falls from 0.95 to
    0.85 meanwhile and rises again (Smith and Topin 2018).

    Args:
        optimizer: the optimizer, with its highest rates.
        num_steps: optimizer steps in all; one more is an error of PyTorch's.

    Raises:
        InputError: if there is no step.
    """
    _require_steps("one_cycle", num_steps)
    groups = optimizer.param_groups
    return OneCycleLR(
        optimizer,
        [float(group["lr"]) for group in groups],
        total_steps=num_steps,
        pct_start=0.3,
        div_factor=25.0,
        final_div_factor=1e4,
        base_momentum=0.85,
        max_momentum=0.95,
        cycle_momentum=all("betas" in group or group.get("momentum", 0.0) > 0 for group in groups),
    )


def step_decay(optimizer: Optimizer, factor: float = 0.1, every: int = 30) -> LRScheduler:
    """Multiply the rate by a factor every few epochs; stepped once per epoch. PyTorch's `StepLR`.

    A tenth every 30 epochs is that of ImageNet trainings (He et al. 2016); half every 10 is gentler.

    Args:
        optimizer: the optimizer, with its highest rates.
        factor: what the rate is multiplied by.
        every: epochs in between.

    Raises:
        InputError: if the rate would not fall.
    """
    if not (0 < factor < 1 and every >= 1):
        raise InputError(
            f"step_decay: factor is {factor!r} and every {every!r}; they have to be between 0 and 1, and 1 or more"
        )
    return StepLR(optimizer, step_size=every, gamma=factor)


def warm_restarts(optimizer: Optimizer, num_first: int = 10) -> LRScheduler:
    """Cosines from the optimizer's rate to 1e-6, each twice as long as the one before; stepped once per epoch.

    PyTorch's `CosineAnnealingWarmRestarts` (Loshchilov and Hutter 2017).

    Args:
        optimizer: the optimizer, with its highest rates.
        num_first: epochs of the first cosine.

    Raises:
        InputError: if there is no epoch.
    """
    _require_steps("warm_restarts", num_first, "num_first")
    return CosineAnnealingWarmRestarts(optimizer, T_0=num_first, T_mult=2, eta_min=1e-6)


@dataclass(frozen=True, slots=True)
class Course:
    """What a schedule does, step by step."""

    rates: tuple[float, ...]
    """The learning rate of each step."""

    momenta: tuple[float, ...]
    """The momentum of each step."""


def trace_schedule(make: MakeSchedule, num_steps: int, learning_rate: float = 1e-3) -> Course:
    """Step a schedule through a training of one number, and note its rates and momenta.

    Args:
        make: makes the schedule of an optimizer, here SGD with a momentum of 0.9.
        num_steps: steps; one learning rate each.
        learning_rate: of the optimizer.

    Raises:
        InputError: if there is no step.
    """
    _require_steps("trace_schedule", num_steps)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=learning_rate, momentum=0.9)
    schedule = make(optimizer)
    rates, momenta = [], []
    for _ in range(num_steps):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        momenta.append(float(optimizer.param_groups[0]["momentum"]))
        optimizer.step()
        schedule.step()
    return Course(tuple(rates), tuple(momenta))


def plot_schedules(
    num_steps: int, schedules: Mapping[str, MakeSchedule] | None = None, *, learning_rate: float = 1e-3
) -> go.Figure:
    """Draw schedules as a Plotly figure: learning rates above, and below the momenta of those that move them.

    Args:
        num_steps: steps in all; for schedules that are stepped once per epoch, epochs.
        schedules: by name, functions that make a schedule of an optimizer; those of this module if None.
        learning_rate: of the optimizer, at its highest.

    Raises:
        InputError: if there is no step, or no schedule.
    """
    import plotly.graph_objects as go

    made = make_all(num_steps) if schedules is None else schedules
    if not made:
        raise InputError("plot_schedules: schedules is empty; pass functions by name, or None for those of Trimtab")
    courses = {name: trace_schedule(make, num_steps, learning_rate) for name, make in made.items()}
    figure = go.Figure()
    figure.set_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.7, 0.3], vertical_spacing=0.05)
    for index, (name, course) in enumerate(courses.items()):
        style: dict[str, Any] = {"name": escape(name), "line": {"color": COLORS[index % len(COLORS)]}}
        figure.add_scatter(y=_drop_infinite(course.rates), row=1, col=1, legendgroup=name, **style)
        if len(set(course.momenta)) > 1:
            momenta = _drop_infinite(course.momenta)
            figure.add_scatter(y=momenta, row=2, col=1, legendgroup=name, showlegend=False, **style)
    figure.update_yaxes(title_text="learning rate", row=1)
    figure.update_yaxes(title_text="momentum", row=2)
    figure.update_xaxes(title_text="step, or epoch of a schedule that is stepped once per epoch", row=2)
    return figure


def make_all(num_steps: int) -> dict[str, MakeSchedule]:
    """The schedules of this module by name, for some steps."""
    return {
        "four_phase": lambda optimizer: four_phase(optimizer, num_steps),
        "warmup_cosine": lambda optimizer: warmup_cosine(optimizer, num_steps),
        "one_cycle": lambda optimizer: one_cycle(optimizer, num_steps),
        "step_decay": step_decay,
        "warm_restarts": warm_restarts,
    }


def _drop_infinite(values: tuple[float, ...]) -> list[float | None]:
    return [each if isfinite(each) else None for each in values]


def _require_steps(who: str, number: Any, what: str = "num_steps") -> None:
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise InputError(f"{who}: {what} is {number!r}; it has to be a whole number from 1 up")
