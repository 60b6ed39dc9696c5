"""What goes wrong in the trainings of these tests: parts of a run, for `make_training`, and parts of ours that fail."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from tests.laws.training import Event, Training
from trimtab.probes import Look, probe, probes


class Failure(Exception):
    """What the parts of these tests fail with."""


class Fragile:
    """A partner that fails: when its state is taken at given calls, or when it is set back.

    Args:
        *bad_calls: the calls at which its state cannot be taken, the first of which is 1.
        loads: False if its state cannot be set back.
        breaks: asked then; False where it does not fail after all, such as on another rank.
    """

    def __init__(self, *bad_calls: int, loads: bool = True, breaks: Callable[[], bool] = lambda: True) -> None:
        self._bad_calls = bad_calls
        self._loads = loads
        self._breaks = breaks
        self._num_calls = 0

    def state_dict(self) -> dict[str, Any]:
        self._num_calls += 1
        self._fail_if(self._num_calls in self._bad_calls)
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        assert state == {}
        self._fail_if(not self._loads)

    def _fail_if(self, is_bad: bool) -> None:
        if is_bad and self._breaks():
            raise Failure("a toy partner failed")


class FragileSchedule(Fragile):
    """The same, of the kind whose state is taken right after the update."""

    def step(self) -> None:
        """Nothing is scheduled."""


@contextmanager
def toy_probe(look: Look, **options: Any) -> Iterator[None]:
    """A probe called "toy", for as long as a `with` block lasts."""
    probe("toy", **options)(look)
    try:
        yield
    finally:
        del probes["toy"]


def spoil_batch(step: int, micro_batch: int = 0) -> Event:
    """Make one micro-batch NaN at a step."""

    def distort(training: Training, index: int, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        is_bad = training.batches.position == step and index == micro_batch
        return inputs * math.nan if is_bad else inputs, targets

    def add(training: Training) -> None:
        training.distort = distort

    return add


def spoil_loss(step: int) -> Event:
    """Report a NaN loss at a step, whose gradients are finite."""

    def add(training: Training) -> None:
        training.report = lambda loss: loss * math.nan if training.batches.position == step else loss

    return add


def spoil_gradients(*steps: int) -> Event:
    """Make every gradient infinite at some steps."""

    def fill(training: Training) -> None:
        if training.batches.position in steps:
            for parameter in training.model.parameters():
                assert parameter.grad is not None
                parameter.grad.fill_(math.inf)

    def add(training: Training) -> None:
        training.after_backward = fill

    return add


def spoil_targets(step: int) -> Event:
    """Make the targets NaN at a step."""

    def distort(training: Training, _: int, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return inputs, targets * math.nan if training.batches.position == step else targets

    def add(training: Training) -> None:
        training.distort = distort

    return add


def spoil_one_gradient(step: int) -> Event:
    """Make one number of one gradient infinite at a step."""

    def poke(training: Training) -> None:
        if training.batches.position == step:
            gradient = next(training.model.parameters()).grad
            assert gradient is not None
            gradient.view(-1)[3] = -math.inf

    def add(training: Training) -> None:
        training.after_backward = poke

    return add


def overwrite(training: Training, value: float) -> None:
    """Overwrite one weight."""
    with torch.no_grad():
        next(each for each in training.model.parameters() if each.requires_grad).view(-1)[5] = value


def ruin_after_update(value: float, *steps: int) -> Event:
    """Overwrite a weight right after the updates of some steps, once each."""
    return _add_ruin("after_update", value, steps)


def ruin_before_update(value: float, *steps: int) -> Event:
    """Overwrite a weight between the check and the update of some steps, so that a snapshot then holds the fault."""
    return _add_ruin("after_check", value, steps)


def _add_ruin(moment: str, value: float, steps: Sequence[int]) -> Event:
    def add(training: Training) -> None:
        left = set(steps)

        def strike(training: Training) -> None:
            if training.batches.position in left:
                left.remove(training.batches.position)
                overwrite(training, value)

        setattr(training, moment, strike)

    return add
