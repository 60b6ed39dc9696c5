"""`silent-divergence`: the rises it reports with their reason, and the curves on which it stays silent."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from trimtab.detectors import detect
from trimtab.history import History
from trimtab.types import Finding, Measurement

Numbers = NDArray[np.float64]

STEPS = np.arange(1, 601)
FALLS = 1 + np.exp(-STEPS / 100)
RISES = FALLS + 0.002 * np.maximum(STEPS - 300, 0)


def make_noise(share: float, seed: int = 0) -> Numbers:
    """Factors about 1."""
    return 1 + share * np.random.default_rng(seed).normal(0, 1, len(STEPS))


def ramp(times: float) -> Numbers:
    """1 until step 300, then so many times as much 200 steps later."""
    return np.asarray(times ** (np.maximum(STEPS - 300, 0) / 200))


STILL = ramp(1)


def watch(
    losses: Numbers, rates: Numbers = STILL, norms: Numbers = STILL, weights: Numbers = STILL, **settings: float
) -> list[Finding]:
    """What is found in a run of two groups, of which one has the weights given."""
    history = History(("stem", "head"))
    found: list[Finding] = []
    for row in range(len(losses)):
        values = {"loss": float(losses[row]), "learning_rate": 1e-3 * float(rates[row]), "grad_norm": float(norms[row])}
        history.append(Measurement(row + 1, {**values, "weight_norm": (1.0, float(weights[row]))}))
        found += detect(history, {"silent-divergence": settings})
        history.close(accepted=True)
    return found


NOISE = make_noise(0.03)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        pytest.param(watch(RISES, rates=ramp(4)), "learning rate rose", id="schedule-rises"),
        pytest.param(watch(RISES * NOISE, rates=ramp(4)), "learning rate rose", id="with-noise"),
        pytest.param(watch(RISES, weights=ramp(8)), "weight decay × 2", id="weights-grow"),
        pytest.param(watch(RISES, weights=ramp(1 / 8)), "weight decay ÷ 2", id="weights-shrink"),
        pytest.param(watch(RISES * NOISE, norms=ramp(20)), "gradient norm rose", id="gradients-grow"),
        pytest.param(watch(RISES * NOISE), "look at the data", id="nothing-else-rose"),
        pytest.param(watch(RISES - 5), "look at the data", id="below-0"),
    ],
)
def test_reports(found: list[Finding], reason: str) -> None:
    """A rise over 200 steps is found while it lasts, with what rose beside it."""
    assert 350 <= found[0].step <= 500
    assert reason in found[0].message
    assert len(found) <= 2


@pytest.mark.parametrize(
    "losses",
    [
        pytest.param(FALLS, id="falls"),
        pytest.param(FALLS * NOISE, id="falls-with-noise"),
        pytest.param(np.ones(600) * make_noise(0.2), id="plateau-with-noise"),
        pytest.param(FALLS + 0.0001 * np.maximum(STEPS - 300, 0), id="rises-by-less-than-a-twentieth"),
        pytest.param(np.where(STEPS == 400, 20.0, FALLS), id="a-spike"),
        pytest.param(np.where(STEPS > 400, 1.5, 1.0) * FALLS * NOISE, id="a-step-is-no-trend"),
        pytest.param(1 + 0.3 * np.sin(STEPS / 8), id="waves"),
        pytest.param(np.zeros(600), id="exactly-0"),
    ],
)
def test_stays_silent(losses: Numbers) -> None:
    """What falls, rests, spikes or steps is no divergence."""
    assert watch(losses) == []


@pytest.mark.parametrize("share", [0.05, 0.3, 1.0])
def test_noise_is_no_trend(share: float) -> None:
    """Noise about a plateau yields nothing in 20 runs of 600 steps, however large."""
    assert [each for seed in range(20) for each in watch(5 + 0 * STEPS + share * (make_noise(1, seed) - 1))] == []


def test_restart_is_meant() -> None:
    """Where a schedule starts again, the loss may rise to what it was at that rate."""
    rates = np.where(STEPS < 100, 10.0, np.where(STEPS < 300, 0.1, np.minimum(0.1 * 1.03 ** (STEPS - 300), 10.0)))
    assert watch(RISES * NOISE, rates=rates)[:1] == []
