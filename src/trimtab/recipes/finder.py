"""The learning-rate finder: a sweep over rates, and what it says of the training to come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn
from torch.optim import Optimizer

from trimtab.errors import InputError
from trimtab.probes.rerun import ComputeLoss
from trimtab.recipes.keeping import keep_loader
from trimtab.recipes.preflighting.flight import Clock, Flight

if TYPE_CHECKING:
    from plotly.graph_objects import Figure
    from torch.amp.grad_scaler import GradScaler

SMOOTHING = 0.95
"""The weight of the past in the smoothed loss, which is corrected for its start as Adam's averages are."""

TOO_HIGH = 4.0
"""The sweep ends where the smoothed loss is above so many times its lowest (as fastai's does)."""

BELOW = 10.0
"""The suggestion is so many times below the rate at which the loss begins to rise (Howard and Gugger, fastai)."""

SETTLED = 10
"""The first steps, of which too little is averaged to say how steep the loss is."""

FEWEST = 20
"""Steps from which on a sweep says something."""


@dataclass(frozen=True, slots=True, eq=False)
class RateSweep:
    """The loss of a training whose learning rate rises from step to step."""

    rates: tuple[float, ...]
    """The learning rate of each step, of the parameter group with the highest."""

    losses: tuple[float, ...]
    """The loss of each step's batch, before its update."""

    smoothed: tuple[float, ...]
    """The same, smoothed over the steps before."""

    current: float
    """The learning rate that the optimizer has."""

    @property
    def rise(self) -> float | None:
        """The rate at which the smoothed loss is lowest and begins to rise; None if it never fell."""
        lowest = int(np.argmin(self.smoothed))
        return self.rates[lowest] if lowest >= SETTLED else None

    @property
    def steepest(self) -> float | None:
        """The rate at which the smoothed loss falls fastest, by the logarithm of the rate; None if it never fell."""
        if self.rise is None or len(self.smoothed) < SETTLED + 2:
            return None
        slopes = np.gradient(np.asarray(self.smoothed), np.log(self.rates))
        end = max(int(np.argmin(self.smoothed)), SETTLED + 1)
        return self.rates[SETTLED + int(np.argmin(slopes[SETTLED:end]))]

    @property
    def suggestion(self) -> float | None:
        """One order of magnitude below the rise; None if the loss never fell."""
        return None if self.rise is None else self.rise / BELOW

    def plot(self) -> Figure:
        """The loss over the learning rate, with both suggestions."""
        from plotly.graph_objects import Figure, Scatter

        figure = Figure()
        figure.add_trace(Scatter(x=self.rates, y=self.losses, name="loss", mode="lines", opacity=0.35))
        figure.add_trace(Scatter(x=self.rates, y=self.smoothed, name="smoothed loss", mode="lines"))
        for name, rate in (("steepest", self.steepest), ("suggestion", self.suggestion), ("current", self.current)):
            if rate:
                figure.add_vline(rate, line_dash="dot", annotation_text=f"{name} {rate:.2g}")
        figure.update_xaxes(type="log", title="learning rate")
        figure.update_yaxes(title="loss")
        return figure

    def __str__(self) -> str:
        if self.suggestion is None:
            return (
                f"the loss falls at no rate from {self.rates[0]:.2g} to {self.rates[-1]:.2g}: look at data, labels "
                "and loss before the rate"
            )
        return (
            f"suggestion {self.suggestion:.2g}: one order below {self.rise:.2g}, where the loss begins to rise; it "
            f"falls fastest at {self.steepest:.2g}; the optimizer has {self.current:.2g}"
        )


def find_learning_rate(
    model: nn.Module,
    optimizer: Optimizer,
    compute_loss: ComputeLoss,
    train_loader: Iterable[Any],
    *,
    scaler: GradScaler | None = None,
    clip_norm: float | None = None,
    lowest: float = 1e-7,
    highest: float = 10.0,
    num_steps: int = 100,
) -> RateSweep:
    """Train for some steps at rates that rise exponentially, and say at which the loss fell.

    The sweep of Smith (arXiv 1506.01186), with the optimizer that the training has; parameter groups keep their ratios.
    Model, optimizer, scaler, random numbers and loader are bit for bit as before afterwards.

    What it cannot tell: which rate generalizes best, and what convex models bear. On logistic regression it suggested a
    fifth of the best rate.

    Args:
        model: the model.
        optimizer: its optimizer.
        compute_loss: `compute_loss(model, batch)`, the 0-d loss of a batch, or a dict of them.
        train_loader: gives batches, anew each time it is iterated over; begun again where it is shorter than the sweep.
        scaler: the loss scaler, if the training has one.
        clip_norm: what the training clips gradients to; None for no clipping.
        lowest: the rate of the first step.
        highest: that of the last.
        num_steps: the steps, 20 at least.

    Returns:
        The sweep: print it, `plot()` it, or take its `suggestion` and `steepest`.

    Raises:
        InputError: if the rates or steps cannot be, or the loader gives no batch.
    """
    if not 0 < lowest < highest < float("inf"):
        raise InputError(f"find_learning_rate: lowest is {lowest!r} and highest {highest!r}; they have to rise from 0")
    if num_steps < FEWEST:
        raise InputError(
            f"find_learning_rate: num_steps is {num_steps!r}; it has to be a whole number from {FEWEST} up"
        )
    flight = Flight(
        model, optimizer, compute_loss, train_loader, scaler=scaler, clip_norm=clip_norm, clock=Clock(float("inf"))
    )
    if flight.rate <= 0:
        raise InputError("find_learning_rate: the learning rate of the optimizer is 0; any other will do")
    rates = lowest * (highest / lowest) ** (np.arange(num_steps) / (num_steps - 1))
    with flight.keep(), keep_loader(train_loader):
        return sweep(flight, rates.tolist(), islice(_go_round(train_loader), num_steps))


def sweep(flight: Flight, rates: Sequence[float], batches: Iterable[Any]) -> RateSweep:
    """Train a step at each rate until the loss is too high or the time is over; nothing is set back.

    Args:
        flight: what is trained.
        rates: the rates, which rise.
        batches: one for each step.
    """
    losses: list[float] = []
    smoothed: list[float] = []
    for rate, batch in zip(rates, batches, strict=False):
        flight.set_rate(rate / flight.rate)
        loss = flight.backward(flight.move(batch))
        if not isfinite(loss) or flight.clock.is_late:
            break
        losses.append(loss)
        smoothed.append(_smooth(losses))
        if smoothed[-1] > TOO_HIGH * min(smoothed) > 0 or not isfinite(flight.update()):
            break
    if not losses:
        raise InputError("find_learning_rate: the loss of the first batch is not finite; see trimtab.locate_nonfinite")
    return RateSweep(tuple(rates[: len(losses)]), tuple(losses), tuple(smoothed), flight.rate)


def _smooth(losses: Sequence[float]) -> float:
    """The exponential average of some losses, corrected for its start (Kingma and Ba, arXiv 1412.6980)."""
    weights = SMOOTHING ** np.arange(len(losses) - 1, -1, -1)
    return float(weights @ np.asarray(losses) / weights.sum())


def _go_round(loader: Iterable[Any]) -> Iterator[Any]:
    """Batches, epoch after epoch.

    Raises:
        InputError: if there is none.
    """
    for epoch in count():
        iterator = iter(loader)
        first = next(iterator, None)
        if first is None:
            raise InputError(
                "find_learning_rate: train_loader gives no batch"
                + (" a second time; pass one that begins anew" if epoch else "")
            )
        yield from chain([first], iterator)
