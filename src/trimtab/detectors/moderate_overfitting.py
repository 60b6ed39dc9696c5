"""Training and validation part, and the validation has stopped getting better."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trimtab.detectors import detector
from trimtab.detectors.reviewing import EVALUATED, Pairs, measure_fall, measure_noise, measure_scale, read_pairs
from trimtab.detectors.severe_overfitting import is_severe
from trimtab.history import History
from trimtab.types import Breach

SURE = 4.0
"""Standard errors that a change has to have to be one."""

RECENT = 12
"""Reviews over which it is looked whether the losses still fall."""


@detector("moderate-overfitting", severity="medium", clocks=("review",), needs=EVALUATED)
def find_moderate_overfitting(history: History, *, gap: float = 0.1, reviews: int = 10) -> Iterator[Breach]:
    """The gap between training and validation grows, and the validation no longer gets better.

    What it sees:
        After `reviews` reviews, a `val_loss` above the training loss by more than `gap` of the training loss's scale
        (its level, or what was learned if that is more), and more so than at the first review; and over the newest 12
        reviews a training loss that fell beyond its noise and a validation loss that rather rose. It is said when
        it becomes so.
    Why it matters:
        What is learned now no longer carries over. Often it is the last stretch before the validation loss rises.
    Stays silent:
        While the validation loss still falls, or the gap no longer grows, however wide: the loss on training data is
        lower by nature. On a gap that is there from the first review on, such as that of harder validation data, and
        within five times the noise of the validation loss. Where `severe-overfitting` says more.
    Settings:
        gap: the gap that is not remarked on, as a share of the training loss's scale.
        reviews: reviews before which nothing is said.
    Default response:
        None; it is advisory. Dropout 0.1 to 0.3, weight decay × 2 to × 10, augmentation; early stopping.
    """
    pairs = read_pairs(history)
    if pairs is None or len(pairs.steps) <= max(reviews, RECENT) or is_severe(pairs):
        return
    if not _is_growing_apart(pairs, gap) or any(_is_growing_apart(each, gap) for each in pairs.list_earlier(RECENT)):
        return
    share = float(measure_gap(pairs) / measure_scale(pairs.train))
    message = (
        f"val_loss is {pairs.end:.4g} and no longer falls, train_loss is {pairs.train[-1]:.4g} and does: a gap of "
        f"{share:.1%} of what there was to learn"
    )
    yield Breach(metric=EVALUATED, value=share, limit=gap, message=message)


def measure_gap(pairs: Pairs) -> float:
    """How much farther the evaluation is above the training than it was at first, if it was."""
    distances = pairs.evaluated - pairs.train
    return float(np.median(distances[-3:])) - max(float(distances[0]), 0.0)


def _is_growing_apart(pairs: Pairs, gap: float) -> bool:
    if len(pairs.steps) <= RECENT:
        return False
    fall, error = measure_fall(pairs.train[-RECENT:])
    has_fallen = fall > max(SURE * error, 0.01 * measure_scale(pairs.train[-RECENT:]))
    least = max(gap * measure_scale(pairs.train), 5 * measure_noise(pairs.evaluated))
    is_above = bool((pairs.evaluated[-3:] > pairs.train[-3:]).all())
    if not (has_fallen and is_above) or not measure_gap(pairs) > least:
        return False
    fall, error = measure_fall(pairs.evaluated[-RECENT:])
    return fall + error < 0.0
