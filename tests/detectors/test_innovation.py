"""`innovation`: the smallest runs of measurements it reports, and the many on which it stays silent."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, inf, nan
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from trimtab.detectors import detect
from trimtab.detectors.innovation import FIRST_SAMPLES
from trimtab.history import History
from trimtab.types import STATE_STEP, Finding, Measurement, Value

ONES = [1.0] * 12
"""A level of exactly 1, just warmed up: the limit is 1.25."""

NOISE = [float(each) for each in np.random.default_rng(0).normal(1.0, 0.1, 40)]


def watch(values: Sequence[float], restored: Sequence[int] = (), **settings: Any) -> list[Finding]:
    """Judge each measurement in turn, one a step; what is found is rejected.

    Args:
        values: the measurements.
        restored: the steps whose state is the one that was accepted last.
        **settings: the detector's.
    """
    history, found, accepted = History(), list[Finding](), 0
    for step, value in enumerate(values, 1):
        state = accepted if step in restored else step - 1
        row: dict[str, Value] = {"probe_loss": value}
        history.append(Measurement(step, row | ({STATE_STEP: float(state)} if state != step - 1 else {})))
        findings = detect(history, {"innovation": settings})
        history.close(accepted=not findings)
        accepted = accepted if findings else state
        found += findings
    return found


@pytest.mark.parametrize(
    ("values", "steps"),
    [
        pytest.param([*ONES, 1.26], [13], id="above-the-tolerance"),
        pytest.param([1.0] * FIRST_SAMPLES + [3.1], [5], id="first-judged-against-the-coarse-limit"),
        pytest.param([1.0] * 11 + [3.1], [12], id="last-of-the-warm-up"),
        pytest.param([*NOISE, 3.1], [41], id="above-the-noise"),
        pytest.param([1.0, 2.4] * 20 + [7.3], [41], id="never-more-than-coarse-whatever-the-spread"),
        pytest.param([exp(-step / 10) for step in range(40)] + [0.1], [41], id="after-a-fall"),
        pytest.param([*ONES, nan, inf, 1.0], [13, 14], id="not-finite"),
        pytest.param([nan, 1.0], [1], id="not-finite-at-the-first"),
        pytest.param([*ONES, 2.0, 2.0, 1.0, 2.0], [13, 14, 16], id="each-time"),
        pytest.param([*ONES, 0.01, 2.0], [14], id="one-lucky-low-measurement-does-not-hide-it"),
        pytest.param([-1.0] * 12 + [-0.7], [13], id="negative-by-the-tolerance-of-its-magnitude"),
        pytest.param([-1.0] * 6 + [1.5], [7], id="negative-coarse"),
        pytest.param([*ONES, *[9.0] * 60], [*range(13, 73)], id="what-was-rejected-is-never-the-level"),
    ],
)
def test_reports(values: list[float], steps: list[int]) -> None:
    """A measurement above its limit is found at the very step."""
    assert [finding.step for finding in watch(values)] == steps


@pytest.mark.parametrize(
    "values",
    [
        pytest.param([], id="none"),
        pytest.param([1.0, 99.0, 1.0, 99.0], id="nothing-before-the-fourth"),
        pytest.param([1.0] * 4 + [3.0], id="at-the-coarse-limit"),
        pytest.param([*ONES, 1.25], id="at-the-tolerance"),
        pytest.param([1.0] * 200, id="constant"),
        pytest.param([0.0] * 50, id="exactly-zero"),
        pytest.param([exp(-step / 10) for step in range(100)], id="falling"),
        pytest.param([exp(-step / 3) for step in range(20)] + [0.0] * 20, id="falling-to-zero"),
        pytest.param([2.0 - step / 50 for step in range(200)], id="falling-through-zero"),
        pytest.param([1.0 + step / 20 for step in range(100)], id="rising-by-less-than-the-tolerance"),
        pytest.param([*NOISE], id="noise"),
        pytest.param([2.0, 1.0] * 40, id="two-valued"),
        pytest.param([*ONES, 0.01, 1.0, 1.0], id="one-lucky-low-measurement"),
        pytest.param([*ONES, *[0.01] * 2, 1.0, 1.0], id="two-of-them"),
        pytest.param([1e-30] * 20, id="tiny"),
        pytest.param([1e30] * 20, id="huge"),
    ],
)
def test_stays_silent(values: list[float]) -> None:
    """Start-up, falling, flat and noisy measurements are accepted."""
    assert watch(values) == []


@given(st.integers(0, 2**32 - 1), st.floats(0, 0.3))
def test_stays_silent_on_noise_around_a_plateau(seed: int, spread: float) -> None:
    """However noisy a probe is, a plateau is accepted, once the noise is known."""
    noise = np.random.default_rng(seed).normal(0.0, spread, 60).clip(-2 * spread, 2 * spread)
    values = [float(each) for each in np.exp(noise)]
    assert [each for each in watch(values) if each.step > 40] == []


def test_finding_says_what_was_seen_and_against_what() -> None:
    """A finding carries value, limit, expected level and severity, and lies in the state."""
    assert watch([*ONES, 2.0]) == [
        Finding(
            metric="probe_loss",
            value=2.0,
            limit=1.25,
            expected=1.0,
            message="the probe measures 2, above its limit 1.25 (expected 1)",
            detector="innovation",
            severity="high",
            step=13,
            in_state=True,
        )
    ]


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        pytest.param({}, [13], id="default"),
        pytest.param({"tolerance": 1.0}, [], id="more-tolerance"),
        pytest.param({"sigmas": 0.0, "tolerance": 1.0}, [], id="no-sigmas"),
        pytest.param({"warmup": 13}, [], id="longer-warm-up"),
        pytest.param({"warmup": 13, "coarse": 1.5}, [13], id="finer-coarse-limit"),
        pytest.param({"window": 4, "warmup": 4}, [13], id="shorter-window"),
    ],
)
def test_settings_move_the_limit(settings: dict[str, Any], steps: list[int]) -> None:
    """Each setting does what the manual page says."""
    assert [finding.step for finding in watch([*ONES, 1.9], **settings)] == steps


# A probe that changes.


def test_restored_state_that_measures_worse_is_the_probe() -> None:
    """The state was accepted; if it measures worse now, the probe has changed, and the level is anew."""
    values = [*ONES, 9.0, 9.0, 9.1, 9.0, 9.05, 9.2]
    assert [finding.step for finding in watch(values, restored=[14])] == [13]


def test_what_was_accepted_before_a_shift_counts_no_more() -> None:
    """After a shift the limit is that of the new level: coarse at first."""
    values = [*ONES, 9.0, 9.0, 9.0, 9.0, 9.0, 28.0]
    assert [(each.step, each.limit) for each in watch(values, restored=[14])] == [(13, 1.25), (18, 27.0)]


def test_restored_state_is_never_undone() -> None:
    """A state that was accepted and restored, and measures as it did then, is accepted, whatever the level was."""
    values = [5.6, 3.9, 0.24, 20.0, 20.0, 20.0, 20.0]
    assert 6 not in [finding.step for finding in watch(values, restored=[6])]


def test_noise_of_a_restored_state_is_no_shift() -> None:
    """A noisy probe measures a restored state a little higher now and then; what was accepted before still counts."""
    values = [*NOISE, 9.0, 1.05 * NOISE[-1], 9.0]
    assert [finding.step for finding in watch(values, restored=[42])] == [41, 43]


# Algorithm 1, as published.


def test_published_form_follows_a_mean_of_accepted_measurements() -> None:
    """Accepted if the innovation is at most epsilon; the mean moves on accepted steps alone."""
    values = [1.0, 1.4, 1.6, 1.0, 0.5, 1.46, 1.44]
    found = watch(values, alpha=0.5, epsilon=0.3)
    mean, expected = 1.0, list[Any]()
    for step, value in enumerate(values[1:], 2):
        if value - mean <= 0.3:
            mean = 0.5 * mean + 0.5 * value
        else:
            expected.append((step, pytest.approx(mean + 0.3)))
    assert [(each.step, each.limit) for each in found] == expected
    assert [step for step, _ in expected] == [2, 3, 6, 7]


@given(
    st.lists(st.floats(-5, 5), min_size=1, max_size=24),
    st.sampled_from([0.05, 0.1, 0.5, 1.0]),
    st.sampled_from([0.0, 0.3, 2.0]),
)
def test_published_form_is_the_recursion(values: list[float], alpha: float, epsilon: float) -> None:
    """The weights over the accepted measurements are those of ŷ ← (1 − α) ŷ + α y, begun with the first."""
    mean, expected = values[0], []
    for step, value in enumerate(values[1:], 2):
        if value - mean <= epsilon - 1e-9:
            mean = (1 - alpha) * mean + alpha * value
        elif value - mean > epsilon + 1e-9:
            expected.append(step)
        else:
            return  # so near the limit that rounding decides
    assert [each.step for each in watch(values, alpha=alpha, epsilon=epsilon)] == expected
