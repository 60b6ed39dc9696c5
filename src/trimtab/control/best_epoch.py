"""The best epoch: by the validation loss alone, and by the loss together with the spectra of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import copysign, isfinite

from trimtab.errors import InputError

WEIGHT = 0.3
"""The share of the loss that one unit of `alpha_score` above 1 adds."""


@dataclass(frozen=True, slots=True)
class BestEpochs:
    """The best epochs of a run, both of which are kept."""

    by_loss: int | None = None
    """The index of the lowest loss; None as long as none is finite."""

    by_composite: int | None = None
    """The index of the lowest composite; the same as `by_loss` where no matrix is large enough."""


def compute_composite(val_loss: float, alpha_score: float = 1.0) -> float:
    """The loss, made worse by spectra outside the healthy band: `val_loss` × (1 + 0.3 × (`alpha_score` − 1)).

    A loss below 0 is raised by the same share of its magnitude, since a factor above 1 would make it better.

    Args:
        val_loss: the validation loss.
        alpha_score: that of `trimtab.measure_spectra(model)`: from 1, all spectra healthy or none to tell by, to 2.

    Raises:
        InputError: if the score is below 1 or not finite.
    """
    if not (alpha_score >= 1 and isfinite(alpha_score)):
        raise InputError(f"best epoch: alpha_score is {alpha_score!r}; it has to be a finite number from 1 up")
    return val_loss * (1 + copysign(WEIGHT * (alpha_score - 1), val_loss))


def choose_best_epochs(val_losses: Sequence[float], alpha_scores: Sequence[float | None] = ()) -> BestEpochs:
    """Choose the best epoch by loss and the best by composite; of equal ones the first.

    Args:
        val_losses: the validation loss of each epoch; one that is not finite is never the best.
        alpha_scores: the score of each epoch; None where spectra were not measured, which takes the newest before. None
            at all where spectra are not looked at.

    Raises:
        InputError: if there are scores, but not one for each loss, or one is below 1.
    """
    if alpha_scores and len(alpha_scores) != len(val_losses):
        raise InputError(
            f"best epoch: there are {len(alpha_scores)} scores for {len(val_losses)} losses; one is needed for each, "
            "None where there is no score"
        )
    newest = 1.0
    composites: list[float] = []
    for index, loss in enumerate(val_losses):
        score = alpha_scores[index] if alpha_scores else None
        newest = newest if score is None else score
        composites.append(compute_composite(loss, newest))
    return BestEpochs(_find_lowest(val_losses), _find_lowest(composites))


def _find_lowest(numbers: Sequence[float]) -> int | None:
    finite = [index for index, number in enumerate(numbers) if isfinite(number)]
    return min(finite, key=lambda index: numbers[index], default=None)
