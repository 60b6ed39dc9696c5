"""What goes wrong in the trainings of these tests: parts of a run, for `make_training`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tests.laws.training import Event, Training


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
