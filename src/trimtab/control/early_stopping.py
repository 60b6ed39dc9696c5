"""Early stopping: whether a run still gets better, told from the scores of its reviews alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite

from trimtab.errors import InputError


@dataclass(frozen=True, slots=True)
class Progress:
    """How a run is getting on."""

    best: int | None = None
    """The index of the best score; None as long as none is finite."""

    num_stale: int = 0
    """The reviews that count against the run: without an improvement since the last one."""

    has_stalled: bool = False
    """True if there are as many of them as there is patience."""


def assess_progress(
    scores: Sequence[float],
    *,
    patience: int,
    min_delta: float = 0.0,
    disturbed: Sequence[bool] = (),
    counted_from: int = 0,
) -> Progress:
    """Tell whether a run has stalled.

    A score improves on those before if it is lower than the one that last did so by more than `min_delta`, so many
    steps too small to count one by one count together. A score that is not finite is no improvement. A review after a
    disturbance, such as a rollback since the one before, does not count against the run, as the weights are not what
    training made of them; after `patience` of these in a row they count, so that a run that is disturbed for ever ends.

    Args:
        scores: the scores of the reviews in their order, the lower the better.
        patience: how many reviews without an improvement there may be.
        min_delta: by how much a score has to be lower to count as an improvement.
        disturbed: for each review whether the run was disturbed since the one before; none if left out.
        counted_from: the first review that may count against the run, such as the first after its data were changed.
    """
    reference, num_stale, num_disturbed = inf, 0, 0
    for index, score in enumerate(scores):
        num_disturbed = num_disturbed + 1 if index < len(disturbed) and disturbed[index] else 0
        if score < reference - min_delta:
            reference, num_stale = score, 0
        elif index >= counted_from and not 0 < num_disturbed <= patience:
            num_stale += 1
    finite = [index for index, score in enumerate(scores) if isfinite(score)]
    best = min(finite, key=lambda index: scores[index], default=None)
    return Progress(best, num_stale, num_stale >= patience)


def validate_patience(patience: int | None, min_delta: float, *, has_scores: bool) -> None:
    """See that early stopping can be done as asked.

    Raises:
        InputError: if it cannot.
    """
    if patience is not None and (not isinstance(patience, int) or patience < 1):
        raise InputError(
            f"fit: patience is {patience!r}; it has to be a whole number of reviews above 0, or None for no early "
            "stopping"
        )
    if not isinstance(min_delta, (int, float)) or not 0 <= min_delta < inf:
        raise InputError(f"fit: min_delta is {min_delta!r}; it has to be a finite number from 0 up")
    if patience is not None and not has_scores:
        raise InputError("fit: patience needs a validation loss to judge by; pass val_loader= too")
