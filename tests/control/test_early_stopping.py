"""Early stopping, told from scores alone."""

from __future__ import annotations

from math import inf, nan

import pytest

from trimtab import InputError
from trimtab.control.early_stopping import Progress, assess_progress, validate_patience

STALLED = {
    "flat": ([1.0, 1.0, 1.0], {}),
    "worse": ([1.0, 1.1, 1.2], {}),
    "nan-from-the-start": ([nan, nan], {}),
    "nan-after-the-best": ([1.0, nan, nan], {}),
    "infinite": ([1.0, inf, inf], {}),
    "less-than-min-delta-altogether": ([1.0, 0.97, 0.95], {"min_delta": 0.1}),
    "disturbed-for-ever": ([1.0, *[2.0] * 4], {"disturbed": [False, *[True] * 4]}),
    "disturbed-before": ([1.0, 2.0, 2.0, 2.0], {"disturbed": [False, True, False, False]}),
}

GOING_ON = {
    "nothing-yet": ([], {}),
    "one-review": ([1.0], {}),
    "falling": ([1.0, 0.9, 0.8, 0.7], {}),
    "one-worse": ([1.0, 0.9, 0.95], {}),
    "recovered-after-nan": ([1.0, nan, 0.9, 0.95], {}),
    "small-gains-that-add-up": ([1.0, 0.95, 0.89, 0.84], {"min_delta": 0.1}),
    "disturbed-once": ([1.0, 2.0, 2.0], {"disturbed": [False, True, False]}),
    "best-in-spite-of-a-disturbance": ([1.0, 0.5, 0.6], {"disturbed": [False, True, False]}),
}


@pytest.mark.parametrize(("scores", "options"), STALLED.values(), ids=STALLED.keys())
def test_a_run_that_no_longer_gets_better_has_stalled(scores: list[float], options: dict[str, object]) -> None:
    """After as many reviews without an improvement as there is patience, the run has stalled."""
    assert assess_progress(scores, patience=2, **options).has_stalled  # type: ignore[arg-type]


@pytest.mark.parametrize(("scores", "options"), GOING_ON.values(), ids=GOING_ON.keys())
def test_a_run_that_may_get_better_goes_on(scores: list[float], options: dict[str, object]) -> None:
    """Start-up, progress however slow, and one bad review do not stop a run."""
    assert not assess_progress(scores, patience=2, **options).has_stalled  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        pytest.param([], None, id="none"),
        pytest.param([nan, inf], None, id="none-finite"),
        pytest.param([nan, 2.0, 1.0, 3.0], 2, id="lowest"),
        pytest.param([2.0, 1.0, 1.0], 1, id="the-earlier-of-two"),
        pytest.param([1.0, 0.95], 1, id="less-than-min-delta-lower"),
    ],
)
def test_the_best_is_the_lowest(scores: list[float], best: int | None) -> None:
    """The best review is the one with the lowest score, however small the improvement."""
    assert assess_progress(scores, patience=2, min_delta=0.1).best == best


def test_stale_reviews_are_counted() -> None:
    """Those since the last improvement count."""
    assert assess_progress([1.0, 0.5, 0.6, 0.7], patience=5) == Progress(best=1, num_stale=2, has_stalled=False)


@pytest.mark.parametrize(
    ("patience", "min_delta", "has_scores", "message"),
    [
        pytest.param(0, 0.0, True, "patience is 0; it has to be a whole number of reviews above 0", id="none"),
        pytest.param(1.5, 0.0, True, "patience is 1.5", id="a-fraction"),
        pytest.param(1, -0.1, True, "min_delta is -0.1; it has to be a finite number from 0 up", id="negative"),
        pytest.param(1, nan, True, "min_delta is nan", id="nan"),
        pytest.param(1, 0.0, False, "pass val_loader= too", id="nothing-to-judge-by"),
    ],
)
def test_what_makes_no_sense_is_refused(patience: int, min_delta: float, has_scores: bool, message: str) -> None:
    """Options that cannot be meant are one sentence each."""
    with pytest.raises(InputError, match=message):
        validate_patience(patience, min_delta, has_scores=has_scores)
