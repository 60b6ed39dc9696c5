"""The best epoch, by the loss and by the composite of loss and spectra."""

from __future__ import annotations

from math import inf, isnan, nan

import pytest
from hypothesis import given, strategies as st

from trimtab import InputError
from trimtab.control.best_epoch import BestEpochs, choose_best_epochs, compute_composite

losses = st.floats(-1e6, 1e6)
scores = st.floats(1, 2)


@pytest.mark.parametrize(
    ("loss", "score", "composite"),
    [
        pytest.param(2.0, 1.0, 2.0, id="healthy"),
        pytest.param(2.0, 1.5, 2.3, id="formula"),
        pytest.param(2.0, 2.0, 2.6, id="worst"),
        pytest.param(-2.0, 1.5, -1.7, id="negative"),
        pytest.param(0.0, 2.0, 0.0, id="zero"),
        pytest.param(inf, 1.0, inf, id="infinite"),
    ],
)
def test_composite(loss: float, score: float, composite: float) -> None:
    """The loss is made worse by 30 % of its magnitude for each unit of the score above 1."""
    assert compute_composite(loss, score) == pytest.approx(composite)


@given(losses, scores)
def test_spectra_never_make_a_loss_better(loss: float, score: float) -> None:
    """Whatever the sign of the loss, and healthy spectra leave it as it is, to the bit."""
    assert compute_composite(loss, score) >= loss
    assert compute_composite(loss) == compute_composite(loss, 1.0) == loss


def test_a_loss_that_is_no_number_stays_none() -> None:
    """NaN stays NaN."""
    assert isnan(compute_composite(nan, 1.5))


@pytest.mark.parametrize("score", [0.9, nan, inf, -inf])
def test_scores_below_1_are_refused(score: float) -> None:
    """A score is finite, and 1 at best."""
    with pytest.raises(InputError, match=r"^best epoch: alpha_score is .*; it has to be a finite number from 1 up$"):
        compute_composite(1.0, score)


CHOICES = {
    "none": ([], [], BestEpochs()),
    "none-is-finite": ([nan, inf], [1.0, 1.0], BestEpochs()),
    "no-scores": ([3.0, 1.0, 2.0], [], BestEpochs(1, 1)),
    "healthy-throughout": ([3.0, 1.0, 2.0], [1.0, 1.0, 1.0], BestEpochs(1, 1)),
    "healthier-and-a-little-worse": ([3.0, 1.0, 1.1], [1.0, 2.0, 1.0], BestEpochs(1, 2)),
    "healthier-and-much-worse": ([3.0, 1.0, 1.4], [1.0, 2.0, 1.0], BestEpochs(1, 1)),
    "negative": ([-1.0, -3.0, -2.9], [1.0, 1.5, 1.0], BestEpochs(1, 2)),
    "nan-among-them": ([nan, 2.0, 1.0], [1.0, 1.0, 1.0], BestEpochs(2, 2)),
    "equal": ([1.0, 1.0], [1.0, 1.0], BestEpochs(0, 0)),
    "not-measured-takes-the-one-before": ([2.0, 1.0, 1.0, 1.1], [1.0, 2.0, None, 1.0], BestEpochs(1, 3)),
    "not-measured-yet": ([1.0, 1.1], [None, 1.0], BestEpochs(0, 0)),
}


@pytest.mark.parametrize(("val_losses", "alpha_scores", "best"), CHOICES.values(), ids=CHOICES.keys())
def test_choice(val_losses: list[float], alpha_scores: list[float | None], best: BestEpochs) -> None:
    """Both best epochs are named; of equal ones the first."""
    assert choose_best_epochs(val_losses, alpha_scores) == best


@given(st.lists(losses, min_size=1))
def test_without_scores_the_composite_is_the_loss(val_losses: list[float]) -> None:
    """Where no matrix is large enough, both are the same epoch."""
    best = choose_best_epochs(val_losses)
    assert best.by_loss == best.by_composite == val_losses.index(min(val_losses))


def test_a_score_is_needed_for_each_loss() -> None:
    """Scores that do not match the losses are refused."""
    with pytest.raises(InputError, match=r"^best epoch: there are 1 scores for 2 losses"):
        choose_best_epochs([1.0, 2.0], [1.0])
