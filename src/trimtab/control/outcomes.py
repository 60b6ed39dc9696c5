"""The measured effect of an adaptation: the validation loss before and after it, held against its noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite, sqrt
from typing import Any, Literal

import numpy as np

from trimtab.control.course import Adaptation
from trimtab.control.review import Review
from trimtab.history import GAUSSIAN_MAD

Verdict = Literal["helped", "no effect", "harmed"]

SURE = 2.0
"""Standard errors that an effect has to have."""

NEGLIGIBLE = 0.0005
"""The share of its level that a validation loss has to change by to count, as of `no-learning`."""

RECENT = 20
"""Reviews that their noise is taken from: what it was long ago, at another learning rate, says nothing."""

MEDIAN_ERROR = 1.25
"""Standard error of a median of n normal numbers, in units of their standard deviation divided by √n."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an adaptation did, measured."""

    of: str
    """The name of the adaptation."""

    verdict: Verdict
    """`helped`: `after` is better than `before` by more than `margin`. `harmed`: worse by more. Else `no effect`."""

    before: float
    """What the validation loss, or whatever else it is judged by, was or would have been by its trend."""

    after: float
    """What it is."""

    margin: float
    """By how much they have to differ: two standard errors of their difference, `min_delta`, or what is negligible."""

    num_reviews: int
    """Reviews since the adaptation."""

    num_steps: int
    """Steps since the adaptation."""

    message: str
    """All that in one sentence."""

    def to_event(self) -> dict[str, Any]:
        """Its fields for the run folder."""
        return asdict(self)


def judge_adaptation(
    adaptation: Adaptation,
    reviews: Sequence[Review],
    *,
    min_delta: float = 0.0,
    is_over: bool = False,
    metric: str = "val_loss",
    is_higher_better: bool = False,
) -> Outcome | None:
    """Measure what an adaptation did.

    Before and after are medians of as many reviews. Of a finalization they are the best score, whose weights it began
    with, and the last one. Of a raised learning rate they are what the loss was to fall to by its trend, and what it
    fell to. It is a comparison with before, not with a run without the adaptation.

    Args:
        adaptation: the adaptation.
        reviews: all reviews.
        min_delta: a difference that does not count.
        is_over: True if no more reviews will come, so that those at hand have to do.
        metric: what is compared.
        is_higher_better: True for a metric such as a recall.

    Returns:
        The outcome; None as long as there are too few reviews.
    """
    num = min(len(reviews) - adaptation.num_reviews, adaptation.num_judged)
    if num < 1 or (num < adaptation.num_judged and not is_over):
        return None
    sign = -1.0 if is_higher_better else 1.0
    scores = [sign * each.metrics[metric] for each in reviews[: adaptation.num_reviews + num]]
    earlier, later = scores[: adaptation.num_reviews], scores[adaptation.num_reviews :]
    before, after, error = _COMPARE.get(adaptation.kind, _compare_levels)(earlier, later)
    margin = max(SURE * error, min_delta, NEGLIGIBLE * abs(before))
    verdict = _judge(after - before, margin)
    num_steps = reviews[adaptation.num_reviews + num - 1].step - adaptation.step
    before, after = (sign * each + 0.0 for each in (before, after))  # no -0
    shown = (
        f"{adaptation.name}: {verdict}: {metric} {after:.4g} after {num} reviews, {before:.4g} before (±{margin:.2g})"
    )
    return Outcome(adaptation.name, verdict, before, after, margin, num, num_steps, shown)


def measure_noise(scores: Sequence[float]) -> float:
    """Robust standard deviation of the newest scores about their trend; 0 of fewer than four.

    From second differences, in which there is no trend.
    """
    finite = np.array([each for each in scores[-RECENT:] if isfinite(each)])
    if len(finite) < 4:
        return 0.0
    return GAUSSIAN_MAD * float(np.median(np.abs(np.diff(finite, 2)))) / sqrt(6)


def _judge(effect: float, margin: float) -> Verdict:
    if effect < -margin:
        return "helped"
    return "no effect" if effect <= margin else "harmed"  # NaN is harm


def _compare_levels(earlier: Sequence[float], later: Sequence[float]) -> tuple[float, float, float]:
    num = len(later)
    error = MEDIAN_ERROR * sqrt(2 / num) * measure_noise([*earlier, *later])
    return float(np.median(earlier[-num:])), float(np.median(later)), error


def _compare_best(earlier: Sequence[float], later: Sequence[float]) -> tuple[float, float, float]:
    return min(filter(isfinite, earlier), default=earlier[-1]), later[-1], measure_noise(later)


def _compare_falls(earlier: Sequence[float], later: Sequence[float]) -> tuple[float, float, float]:
    num = len(later)
    now, first, second = earlier[-1], earlier[-1 - num], earlier[-1 - 2 * num]
    fall, fall_before = first - now, second - first
    expected = fall * min(1.0, fall / fall_before) if fall_before > 0 else fall
    return now - expected, later[-1], 3 * measure_noise([*earlier, *later])


_COMPARE = {"finalization": _compare_best, "raise": _compare_falls}
