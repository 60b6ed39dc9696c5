"""`drift`: slow rises that no step gives away, and the healthy curves on which it stays silent."""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, exp, inf, nan
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from numpy.typing import NDArray

from trimtab.detectors import detect
from trimtab.detectors.drift import ALLOWANCE, JUDGED_EVERY, LARGEST, compute_sums
from trimtab.history import History
from trimtab.types import Finding, Measurement


def draw(num: int, spread: float = 0.05, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(0.0, spread, num)


FLAT = 1.0 + draw(200)


def watch(values: Sequence[float] | NDArray[np.float64], metric: str = "loss", **settings: Any) -> list[Finding]:
    """Judge each number in turn; all are accepted, as drift acts on none."""
    history, found = History(), list[Finding]()
    for step, value in enumerate(values, 1):
        history.append(Measurement(step, {metric: float(value)}))
        found += detect(history, {"drift": settings})
        history.close(accepted=True)
    return found


@pytest.mark.parametrize(
    ("values", "earliest", "latest"),
    [
        pytest.param([*FLAT, *(1.0 + 0.01 * np.arange(64) + draw(64, seed=1))], 208, 248, id="one-percent-a-step"),
        pytest.param([*FLAT, *(1.0 * 1.007 ** np.arange(90) + draw(90, seed=1))], 216, 280, id="less-than-one-percent"),
        pytest.param([*FLAT, *(1.3 + draw(64, seed=1))], 204, 224, id="to-another-level"),
        pytest.param([-3 + each for each in [*FLAT, *(1.0 + 0.01 * np.arange(64))]], 208, 248, id="negative"),
        pytest.param([1.0] * 200 + [1.0 + 0.001 * step for step in range(64)], 201, 232, id="from-an-exact-plateau"),
    ],
)
def test_reports(values: list[float], earliest: int, latest: int) -> None:
    """A steady rise is found once, while it is still small, and dated to where it began."""
    found = watch(values)
    assert len(found) == 1
    assert earliest <= found[0].step <= latest
    assert found[0].since is not None
    assert 180 <= found[0].since <= found[0].step
    assert found[0].step % JUDGED_EVERY == 0


@pytest.mark.parametrize(
    "values",
    [
        pytest.param([], id="none"),
        pytest.param(np.linspace(1, 9, 95), id="nothing-before-the-warm-up"),
        pytest.param([1.0] * 400, id="exact-plateau"),
        pytest.param([0.0] * 400, id="exactly-zero"),
        pytest.param(1.0 + draw(2000), id="noisy-plateau-of-2000-steps"),
        pytest.param(np.exp(draw(1000, 0.5)), id="very-noisy"),
        pytest.param([exp(-step / 80) for step in range(400)], id="falling"),
        pytest.param([2.0 - step / 100 for step in range(400)], id="falling-through-zero"),
        pytest.param([1.2 + 0.1 * cos(step / 4) for step in range(600)], id="fast-waves"),
        pytest.param([*FLAT, 50.0, *FLAT], id="one-spike"),
        pytest.param([*FLAT, 50.0, 50.0, *FLAT[:50], 50.0, *FLAT], id="a-few-spikes"),
        pytest.param([1.0 if step % 2 else 2.0 for step in range(400)], id="two-valued"),
        pytest.param([*FLAT[:150], nan, inf, *FLAT], id="not-finite"),
    ],
)
def test_stays_silent(values: Sequence[float]) -> None:
    """Noise, falls, plateaus and single spikes are no drift."""
    assert watch(values) == []


@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 0.5), st.sampled_from(["loss", "probe_loss"]))
def test_stays_silent_on_independent_noise(seed: int, spread: float, metric: str) -> None:
    """Whatever the spread, noise around a level is silent, in both metrics."""
    assert watch(np.exp(draw(300, spread, seed)), metric) == []


def test_both_metrics_are_judged() -> None:
    """The probe is judged as the loss is."""
    values = [*FLAT, *(1.0 + 0.01 * np.arange(64))]
    assert [each.metric for each in watch(values, "probe_loss")] == ["probe_loss"]
    assert watch(values, "grad_norm") == []


def test_sum_is_that_of_page() -> None:
    """The cumulative sum is that of the recursion max(0, S + min(z, largest) − allowance)."""
    before, newest = 5.0 + draw(64), 5.0 + draw(64, 0.3, seed=2)
    sums, scaled = compute_sums(before, newest)
    total, expected = 0.0, []
    for distance in scaled:
        total = max(0.0, total + min(float(distance), LARGEST) - ALLOWANCE)
        expected.append(total)
    np.testing.assert_allclose(sums, expected, atol=1e-9)


@pytest.mark.parametrize(
    ("settings", "is_found"),
    [
        pytest.param({}, True, id="default"),
        pytest.param({"threshold": 200.0}, False, id="higher-threshold"),
        pytest.param({"warmup": 300}, False, id="longer-warm-up"),
        pytest.param({"window": 16}, True, id="shorter-window"),
    ],
)
def test_settings(settings: dict[str, Any], is_found: bool) -> None:
    """Each setting does what the manual page says."""
    assert bool(watch([*FLAT, *(1.3 + draw(60, seed=1))], **settings)) == is_found


def test_finding_says_since_when() -> None:
    """The finding carries level, recent median and beginning, and is no fault of the state."""
    (found,) = watch([1.0] * 200 + [1.2] * 40)
    assert (found.metric, found.limit, found.expected, found.since) == ("loss", 1.0, 1.0, 201)
    assert (found.severity, found.in_state) == ("medium", False)
    assert found.message.startswith("loss has been rising since step 201, from 1 to ")
