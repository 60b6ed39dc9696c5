"""Patience with non-finite updates, which ends."""

from __future__ import annotations

from torch import Tensor

from trimtab.bench.contestants import contestant
from trimtab.bench.contestants.skip_nonfinite import is_overflow
from trimtab.bench.training import Guard, Judgement, Training

MAX_CONSECUTIVE_ERRORS = 5
"""The updates in a row that are left out; optax has no default, this is what its users commonly give."""


@contestant("apply-if-finite")
def apply_if_finite(training: Training) -> Guard:
    """An update with a non-finite gradient is left out, but the sixth in a row is accepted, and those after it.

    After the documentation of `optax.apply_if_finite`, which looks at the gradients alone and not at the loss, and
    gives up and accepts after a number of updates in a row. One finite update starts the count again.
    """
    num_errors = 0

    def guard(loss: Tensor) -> Judgement:
        nonlocal num_errors
        training.unscale()
        gradients = [each.grad for each in training.model.parameters() if each.grad is not None]
        is_finite = all(bool(each.isfinite().all()) for each in gradients)
        norm = training.clip()
        if is_overflow(training, loss, norm):
            return Judgement()
        num_errors = 0 if is_finite else num_errors + 1
        if is_finite:
            return Judgement()
        gives_up = num_errors > MAX_CONSECUTIVE_ERRORS
        told = f"non-finite gradients, {num_errors} in a row; {'gives up and accepts' if gives_up else 'ignored'}"
        lost = int(not gives_up)
        return Judgement(proceeds=gives_up, acts=not gives_up, names=("nonfinite",), told=told, num_lost=lost)

    return guard
