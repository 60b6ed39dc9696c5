"""A validation loss that has not fallen for many reviews."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trimtab.detectors import detector
from trimtab.detectors.reviewing import (
    EVALUATED,
    Pairs,
    has_learned,
    measure_fall,
    measure_noise,
    measure_scale,
    read_pairs,
    read_start,
)
from trimtab.history import History
from trimtab.types import Breach

SURE = 2.0
"""Standard errors beyond its estimate at which an improvement can no longer be."""

CLEAR = 5.0
"""Standard errors by which a training loss has to have fallen."""

FALLS = 0.01
"""The share of its scale that a training loss has to have fallen by to be still falling."""


@detector("no-learning", severity="medium", clocks=("review",), needs=EVALUATED)
def find_no_learning(history: History, *, share: float = 0.0005, reviews: int = 15) -> Iterator[Breach]:
    """The validation loss has not got better for many reviews, and not because the run has converged.

    What it sees:
        Over the newest `reviews` reviews, a `val_loss` that fell by less than `share` of its scale (its level, or how
        far it has been from it), which its noise has to be small enough to say; and either the training loss never
        fell from where the run began, or it falls on.
    Why it matters:
        If nothing was ever learned, it is the wiring, the learning rate or the data. If the training loss falls on, it
        is all learned that carries over, and more epochs are wasted.
    Stays silent:
        On a run that has learned and whose two losses rest: it has converged, which is no fault. On a validation loss
        too noisy to tell, such as that of a small set.
    Settings:
        share: the improvement that is not remarked on.
        reviews: how many reviews it takes; it is said again after as many.
    Default response:
        None; it is advisory. Stop, or the learning rate × 3 (or ÷ 3) where nothing was ever learned.
    """
    pairs = read_pairs(history)
    if pairs is None or len(pairs.steps) <= reviews or len(pairs.steps) % reviews != 1:
        return
    scale = measure_scale(pairs.evaluated)
    fall, error = measure_fall(pairs.evaluated[-reviews - 1 :])
    if not scale > 0 or fall + SURE * error >= share * scale:
        return
    never = _has_never_learned(pairs, read_start(history), share)
    train_fall, train_error = measure_fall(pairs.train[-reviews - 1 :])
    falls_on = train_fall > max(CLEAR * train_error, FALLS * measure_scale(pairs.train))
    if never or falls_on:
        why = "the training loss never fell" if never else f"train_loss fell on to {pairs.train[-1]:.4g}"
        message = f"val_loss fell by {fall / scale:.3%} in {reviews} reviews, to {pairs.end:.4g}, and {why}"
        yield Breach(metric=EVALUATED, value=fall / scale, limit=share, message=message)


def _has_never_learned(pairs: Pairs, start: float | None, share: float) -> bool:
    """True if neither loss was ever below where it began.

    The first epoch may be where all is learned; where it is not known what the run began with, the validation loss has
    to have stayed where it was, throughout.
    """
    if start is None:
        return float(np.ptp(pairs.evaluated)) < share * measure_scale(pairs.evaluated)
    train = np.concatenate(([start], pairs.train))
    is_clear = 5 * measure_noise(pairs.train) < 0.1 * measure_scale(train)
    return is_clear and not has_learned(train, 0.02) and not has_learned(pairs.evaluated)
