"""The training that a preflight tries: its parts, its first batches, and the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isfinite, sqrt
from statistics import stdev
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from trimtab.control.batches import find_device, move_batch
from trimtab.errors import InputError
from trimtab.probes.reasons import list_values
from trimtab.probes.rerun import ComputeLoss
from trimtab.recipes.keeping import keep_run
from trimtab.recipes.trial import Trial, run_trial
from trimtab.state.live import Partner

if TYPE_CHECKING:
    from torch.amp.grad_scaler import GradScaler
    from torch.optim import Optimizer

Accuracy: TypeAlias = Callable[[nn.Module, Any], float]
"""`accuracy(model, batch)`: the share of a batch that the model has right."""

NUM_BATCHES = (8, 4, 2)
"""Batches that a trial goes round on, so that what differs between two rounds is the model and not the batches: as many
as there is time for."""

NUM_ROUNDS = 5
"""The rounds of a trial."""

NUM_TRIALS, TRIAL_SHARE = 10, 0.5
"""The trials of a checklist, about, and the share of the time that they may take together."""


SURE = 3.0
"""Standard errors from which a change of the loss is no accident, of dropout for one: with eight batches, in one trial
of fifty."""

Trend: TypeAlias = Literal["falls", "flat", "rises"]
"""How a loss goes; one that is not finite rises."""


class Clock:
    """The time a preflight has.

    Args:
        budget: seconds in all.
    """

    def __init__(self, budget: float) -> None:
        self.budget = budget
        self._began = self._until = time.monotonic()
        self.allow(1.0)

    @property
    def seconds(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    @property
    def is_over(self) -> bool:
        """True when all the time is spent."""
        return self.seconds >= self.budget

    @property
    def is_late(self) -> bool:
        """True when the time of the step at hand is spent."""
        return time.monotonic() >= self._until

    def allow(self, share: float) -> None:
        """Give a part of the checklist, from now on, a share of the time that is left."""
        self._until = time.monotonic() + share * max(0.0, self.budget - self.seconds)


@dataclass(eq=False)
class Flight:
    """What is tried."""

    model: nn.Module
    """The model."""

    optimizer: Optimizer
    """Its optimizer."""

    compute_loss: ComputeLoss
    """Gives the loss of a batch."""

    train_loader: Iterable[Any]
    """Gives the training batches, anew each time."""

    val_loader: Any = None
    """Gives the validation batches; None if there are none."""

    scheduler: Any = None
    """Stepped once per step; None if there is none."""

    scaler: GradScaler | None = None
    """The loss scaler, if there is one."""

    clip_norm: float | None = None
    """Gradients are clipped to this total norm; None for no clipping."""

    accuracy: Accuracy | None = None
    """Gives the accuracy of a batch, where there is one."""

    floor: float = 0.0
    """The lowest loss that a batch can have."""

    ladder: Mapping[str, Callable[[], Any]] = field(default_factory=dict)
    """By name, the factories of trainings with more and more features."""

    source: str | None = None
    """The source of the user's script, if it is known."""

    clock: Clock = field(default_factory=lambda: Clock(120.0))
    """The time there is."""

    batches: list[Any] = field(default_factory=list)
    """The first training batches, on the device of the model."""

    step_seconds: float = 0.0
    """How long a training step takes, at the longest; 0 before the first."""

    prints: list[float] = field(default_factory=list)
    """A number for each sample of an epoch, as far as it was read, by which it is known again."""

    picture: str = ""
    """The first batch in words and characters."""

    rates: list[float] = field(init=False)
    """The learning rate of each parameter group, the highest that the schedule begins with or goes to."""

    _trials: list[Trial] = field(default_factory=list)

    def __post_init__(self) -> None:
        names = ("lr", "initial_lr", "max_lr")
        self.rates = [max(float(each.get(name, 0.0)) for name in names) for each in self.optimizer.param_groups]

    @property
    def partners(self) -> list[Partner]:
        """What is set back beside model and optimizer."""
        return [each for each in (self.scheduler, self.scaler) if each is not None]

    @property
    def trial(self) -> Trial:
        """The first batch forward and backward, in training mode."""
        if not self._trials:
            with self.keep():
                self._trials.append(run_trial(self.model, self.compute_total, self.batches[0]))
        return self._trials[0]

    @contextmanager
    def keep(self) -> Iterator[None]:
        """Train within a `with` block, in training mode, and find everything as it was afterwards."""
        with keep_run(self.model, self.optimizer, self.partners):
            self.model.train()
            yield

    @property
    def num_batches(self) -> int:
        """How many batches a trial goes round on, so that all trials fit into their share of the time."""
        seconds = NUM_TRIALS * NUM_ROUNDS * self.step_seconds
        fitting = (each for each in NUM_BATCHES if each * seconds <= TRIAL_SHARE * self.clock.budget)
        return next(fitting, NUM_BATCHES[-1])

    @property
    def num_steps(self) -> int:
        """The steps of a trial."""
        return NUM_ROUNDS * self.num_batches

    def move(self, batch: Any) -> Any:
        """A batch on the device of the model."""
        return move_batch(batch, find_device(self.model))

    def compute_total(self, model: nn.Module, batch: Any) -> Tensor:
        """The loss of a batch: the sum where there are several.

        Raises:
            InputError: if it is no number.
        """
        given: Any = self.compute_loss(model, batch)
        total = sum(given.values()) if isinstance(given, Mapping) else given
        if not isinstance(total, Tensor) or total.numel() != 1:
            shown = tuple(total.shape) if isinstance(total, Tensor) else type(total).__name__
            raise InputError(f"preflight: compute_loss gave {shown!r}; it has to give a 0-d tensor, or a dict of them")
        return total.reshape(())

    def backward(self, batch: Any) -> float:
        """The loss of a batch; the gradients are there afterwards, as backward leaves them."""
        self.optimizer.zero_grad()
        loss = self.compute_total(self.model, batch)
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()
        return float(loss.detach())

    def update(self) -> float:
        """The optimizer's step, clipped where the training clips; returns the norm of the gradients before."""
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        parameters = [each for group in self.optimizer.param_groups for each in group["params"]]
        limit = float("inf") if self.clip_norm is None else self.clip_norm
        gradients = [each.grad for each in parameters if each.grad is not None]
        norms = [torch.linalg.vector_norm(list_values(each), dtype=torch.float32) for each in gradients]
        norm = sqrt(sum(float(each) ** 2 for each in norms))
        if norm > limit:
            for each in gradients:
                each.mul_(limit / norm)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return norm

    def set_rate(self, factor: float = 1.0) -> None:
        """Set the learning rates to a multiple of those that the flight began with."""
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(factor * rate)
            else:
                group["lr"] = factor * rate

    @property
    def rate(self) -> float:
        """The highest of them."""
        return max(self.rates)

    def train(
        self, num_steps: int, *, scheduler: Any = None, batches: Sequence[Any] | None = None, until: float | None = None
    ) -> Course:
        """Train for some steps, round and round on the first batches, as long as there is time.

        Args:
            num_steps: the most steps.
            scheduler: stepped after each.
            batches: others to train on.
            until: a loss at which to stop.
        """
        course = Course()
        used = self.batches[: self.num_batches] if batches is None else batches
        course.round = len(used)
        began = time.monotonic()
        while len(course.losses) < num_steps and not self.clock.is_late:
            loss = self.backward(used[len(course.losses) % len(used)])
            course.losses.append(loss)
            if not isfinite(loss) or (until is not None and loss <= until):
                break
            course.norms.append(self.update())
            if scheduler is not None:
                scheduler.step()
        if len(course.losses) > 1:
            self.step_seconds = max(self.step_seconds, (time.monotonic() - began) / len(course.losses))
        return course


@dataclass(slots=True)
class Course:
    """How a short training went."""

    losses: list[float] = field(default_factory=list)
    """The loss of each step, before its update."""

    norms: list[float] = field(default_factory=list)
    """The total gradient norm of each update."""

    round: int = 1
    """After how many steps the batches come again."""

    @property
    def is_long(self) -> bool:
        """True if there are two rounds to compare, or it ended at a loss that is not finite."""
        return len(self.losses) >= 2 * self.round or not self.is_finite

    @property
    def is_finite(self) -> bool:
        """True if every loss and every norm is finite."""
        return all(map(isfinite, [*self.losses, *self.norms]))

    @property
    def first(self) -> float:
        """The mean loss of the first round."""
        return sum(self.losses[: self.round]) / max(1, len(self.losses[: self.round]))

    @property
    def last(self) -> float:
        """The mean loss of the last round."""
        return sum(self.losses[-self.round :]) / max(1, len(self.losses[-self.round :]))

    @property
    def trend(self) -> Trend:
        """Whether the loss falls or rises from the first round to the last, beyond its noise.

        The noise is what the losses of the batches differ by, more or less than on average, in the last two rounds.
        """
        if not self.is_finite:
            return "rises"
        last, before = self.losses[-self.round :], self.losses[-2 * self.round : -self.round]
        changes = [after - each for each, after in zip(before, last, strict=False)]
        change = self.last - self.first
        error = stdev(changes) / sqrt(len(changes)) if len(changes) > 1 else 0.0
        return "flat" if abs(change) <= SURE * error or change == 0 else "falls" if change < 0 else "rises"
