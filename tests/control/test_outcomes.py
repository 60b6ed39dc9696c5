"""The measured effect of an adaptation."""

from __future__ import annotations

from math import nan

import numpy as np
import pytest

from tests.control.test_course import make_reviews
from trimtab.control.course import Adaptation
from trimtab.control.outcomes import judge_adaptation, measure_noise

NOISY = [1.02, 0.98, 1.01, 0.99, 1.03, 0.97, 1.0, 1.02, 0.98, 1.01]


def make_adaptation(kind: str = "rotation", num_reviews: int = 10, num_judged: int = 4) -> Adaptation:
    """An adaptation after ten reviews."""
    return Adaptation(
        f"{kind}-1",
        kind,
        num_reviews,
        num_reviews,
        10 * num_reviews,
        "what",
        0,
        1,
        "plateau",
        "why",
        "more",
        num_judged,
    )


VERDICTS: dict[str, tuple[str, list[float], list[float], str]] = {
    "clearly-lower": ("rotation", NOISY, [0.7, 0.72, 0.69, 0.71], "helped"),
    "clearly-higher": ("rotation", NOISY, [1.3, 1.32, 1.29, 1.31], "harmed"),
    "within-the-noise": ("rotation", NOISY, [0.99, 1.01, 0.98, 1.0], "no effect"),
    "negligible": ("cool", [1.0] * 10, [0.9999] * 4, "no effect"),
    "no-number": ("cool", [1.0] * 10, [nan] * 4, "harmed"),
    "one-bad-review": ("cool", NOISY, [0.7, 5.0, 0.69, 0.7], "helped"),
    "below-the-best": ("finalization", [*NOISY[:9], 0.9], [0.95, 0.9, 0.87, 0.85], "helped"),
    "as-the-best": ("finalization", [*NOISY[:9], 0.9], [0.9, 0.9, 0.9, 0.9], "no effect"),
    "above-the-best": ("finalization", [*NOISY[:9], 0.9], [0.95, 0.96, 0.97, 0.98], "harmed"),
    "faster-than-before": ("raise", [2.0 - 0.1 * n for n in range(10)], [0.9, 0.7, 0.5, 0.3], "helped"),
    "as-fast-as-before": ("raise", [2.0 - 0.1 * n for n in range(10)], [1.0, 0.9, 0.8, 0.7], "no effect"),
    "slower-than-before": ("raise", [2.0 - 0.1 * n for n in range(10)], [1.08, 1.07, 1.06, 1.05], "harmed"),
}


@pytest.mark.parametrize(("kind", "earlier", "later", "verdict"), VERDICTS.values(), ids=VERDICTS.keys())
def test_verdicts(kind: str, earlier: list[float], later: list[float], verdict: str) -> None:
    """Helped, no effect or harmed, held against the noise of the reviews, or against the trend."""
    outcome = judge_adaptation(make_adaptation(kind), make_reviews(*earlier, *later, 0.0))
    assert outcome is not None
    assert (outcome.verdict, outcome.num_reviews, outcome.num_steps) == (verdict, 4, 40)
    assert outcome.message.startswith(f"{kind}-1: {verdict}: val_loss ")


def test_it_is_judged_when_it_was_said_to_be() -> None:
    """Not before, unless no more is to come; what comes later changes nothing; what is not to be judged never is."""
    reviews = make_reviews(*NOISY, 0.7, 0.7)
    assert judge_adaptation(make_adaptation(), reviews) is None
    early = judge_adaptation(make_adaptation(), reviews, is_over=True)
    assert early is not None
    assert (early.verdict, early.num_reviews) == ("helped", 2)
    assert judge_adaptation(make_adaptation(), reviews[:10], is_over=True) is None
    assert judge_adaptation(make_adaptation("return", num_judged=0), make_reviews(*NOISY, *NOISY), is_over=True) is None
    then = judge_adaptation(make_adaptation(), make_reviews(*NOISY, *[0.7] * 4))
    later = judge_adaptation(make_adaptation(), make_reviews(*NOISY, *[0.7] * 4, *[9.0] * 10))
    assert then == later


def test_a_difference_that_does_not_count() -> None:
    """What is no improvement for early stopping is no effect either."""
    outcome = judge_adaptation(make_adaptation(), make_reviews(*[1.0] * 10, *[0.95] * 4), min_delta=0.1)
    assert outcome is not None
    assert (outcome.verdict, outcome.margin) == ("no effect", 0.1)


def test_noise_is_what_is_left_of_a_trend() -> None:
    """A straight line has none, and neither have three numbers."""
    assert measure_noise([1.0 - 0.1 * n for n in range(10)]) == pytest.approx(0, abs=1e-12)
    assert measure_noise([1.0, 5.0, 1.0]) == 0
    drawn = np.random.default_rng(0).normal(0, 0.02, (200, 20)) + np.linspace(2, 1, 20)
    assert np.mean([measure_noise(each.tolist()) for each in drawn]) == pytest.approx(0.02, rel=0.1)
