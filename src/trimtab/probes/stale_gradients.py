"""Gradients of the step before that were never cleared."""

from __future__ import annotations

from functools import partial
from math import isfinite, nan

import torch
from torch import Tensor

from trimtab.probes import Reading, Watch, probe
from trimtab.probes.subject import Moment, Subject

NAME = "stale_gradients"

MOST_WATCHED = 3
"""Parameters that are looked at: one forgotten call leaves the gradients of all of them, so a few small ones tell."""


class GradientWatch(Watch):
    """Sees what the gradients of a few small parameters hold when a backward pass is about to add to them.

    Whether zeros are in a gradient is computed where the gradient is, and stays there until the check.

    Args:
        subject: the live training, after the update before the sampled step.
    """

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        trained = [each for each in subject.parameters if each.requires_grad and each.numel() > 0]
        trained.sort(key=lambda each: (each.grad is None, each.numel()))  # what had a gradient will have one again
        self._is_held: dict[int, Tensor] = {}
        self._failure: Exception | None = None
        self.hooks = [each.register_hook(partial(self._see, each)) for each in trained[:MOST_WATCHED]]

    def judge(self, device: torch.device) -> Tensor:
        """1 if every backward pass found old numbers in some parameter's gradient, otherwise 0; shape (1,).

        NaN if no backward pass has reached the parameters.
        """
        if self._failure is not None:
            raise self._failure
        if not self._is_held:
            return torch.full((1,), nan)
        return torch.stack([each.to(device) for each in self._is_held.values()]).any().float().reshape(1)

    def _see(self, parameter: Tensor, _: Tensor) -> None:
        """Called in a backward pass, before it adds to the gradient: nothing may wait for the device, or raise."""
        if not self.is_open:
            return
        try:
            held = parameter.grad
            if held is None:
                is_held = torch.zeros((), dtype=torch.bool, device=parameter.device)
            else:
                is_held = (held._values() if held.is_sparse else held).any()
            before = self._is_held.get(id(parameter))
            self._is_held[id(parameter)] = is_held if before is None else before & is_held
        except Exception as failure:
            self._failure = failure


def count_marks(moment: Moment) -> int:
    """One number at a sampled step."""
    return int(moment.is_sampled)


@probe(NAME, size=count_marks, watch=GradientWatch)
def measure_stale_gradients(moment: Moment) -> Reading:
    """`stale_gradients`: 1 if the gradients of the step before were still there when the step's were added, else 0.

    One backward pass that finds a parameter's gradient cleared (None or all 0) clears the parameter of suspicion: the
    later micro-batches of an accumulation find it filled, and so does the generator's pass through a discriminator
    that is cleared after it. In a distributed run it is the share of ranks. Absent where no backward pass was seen,
    as in the step after one that a loss scaler skipped.
    """
    if not moment.is_sampled:
        return {}
    watch = moment.watches.get(NAME)
    numbers = yield torch.full((1,), nan) if watch is None else watch.judge(moment.subject.device)
    is_stale = float(numbers[0])
    return {NAME: is_stale} if isfinite(is_stale) else {}
