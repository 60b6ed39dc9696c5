"""A gradient of exactly zero."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trimtab.detectors import detector
from trimtab.history import History
from trimtab.types import Breach

METRIC = "grad_norm"

SAY_EVERY = 100
"""Steps after which it is said again, if it is still so."""


@detector("zero-gradient", severity="high")
def find_zero_gradient(history: History, *, steps: int = 3) -> Iterator[Breach]:
    """The gradient norm has been exactly 0 for several steps.

    What it sees:
        A total gradient norm of exactly 0 at each of the newest `steps` steps, with losses that are finite.
    Why it matters:
        Nothing is learned. The loss is detached from the parameters, backward is not called or reaches nothing,
        every unit before the loss is dead, or float16 gradients are all too small without a loss scale.
    Stays silent:
        On a zero now and then, such as a batch that is masked out. On a loss of exactly 0 that was learned: a hinge
        loss that is met everywhere has no gradient; the history shows that it had one.
    Settings:
        steps: how many steps in a row it takes.
    Default response:
        None; it is advisory. Look whether the loss depends on the parameters.
    """
    values = history.newest.values
    if values.get(METRIC) != 0 or "loss" not in values or len(history) < steps:
        return
    norms, losses = history.column(METRIC), history.column("loss")[-steps:]
    was_learned = values["loss"] == 0 and (norms > 0).any()
    if history.count_newest(METRIC, 0.0) % SAY_EVERY == steps and np.isfinite(losses).all() and not was_learned:
        message = f"grad_norm has been exactly 0 for {steps} steps: nothing is learned"
        yield Breach(metric=METRIC, value=0.0, limit=0.0, message=message)
