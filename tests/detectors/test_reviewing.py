"""The detectors of learning health: the curves they report, and those on which they stay silent."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from trimtab.detectors import detect
from trimtab.history import History
from trimtab.types import Measurement

Numbers = NDArray[np.float64]

MODES = (
    "dead-network",
    "slow-learning",
    "severe-overfitting",
    "no-learning",
    "moderate-overfitting",
    "unstable-training",
)

EPOCHS = np.arange(60)
FALLING = 0.3 + 2 * np.exp(-EPOCHS / 8)
FALLING_ON = 0.1 + 2.2 * np.exp(-EPOCHS / 10)
RISING_LATE = FALLING + 0.02 * np.maximum(EPOCHS - 20, 0)
CREEPING_LATE = np.maximum(FALLING, 0.4) + 0.001 * np.maximum(EPOCHS - 24, 0)
FLAT = np.full(60, 2.3)
CREEPING = FLAT - 2e-4 * EPOCHS


def make_noise(share: float, seed: int = 0) -> Numbers:
    """Factors about 1."""
    return 1 + share * np.random.default_rng(seed).normal(0, 1, 60)


def watch(train: Numbers, evaluated: Numbers, norms: Numbers | float = 0.5, start: float = 2.5) -> dict[str, list[int]]:
    """The epochs at which each of the detectors finds something, from 1 on."""
    history, found = History(), dict[str, list[int]]()
    norm = np.broadcast_to(norms, len(train))
    for epoch, (fitted, measured, size) in enumerate(zip(train, evaluated, norm, strict=True), 1):
        values = {"train_loss": float(fitted), "val_loss": float(measured), "train_grad_norm": float(size)}
        first = {"start_loss": start} if epoch == 1 else {}
        history.append(Measurement(20 * epoch, {**values, **first}, clock="review"))
        for finding in detect(history, {mode: {} for mode in MODES}):
            found.setdefault(finding.detector, []).append(epoch)
        history.close(accepted=True)
    return found


@pytest.mark.parametrize(
    ("found", "mode", "epoch"),
    [
        pytest.param(watch(FLAT, FLAT, 1e-9, 2.3), "dead-network", 2, id="no-gradient-from-the-start"),
        pytest.param(
            watch(np.where(EPOCHS < 30, FALLING, FLAT), FLAT, np.where(EPOCHS < 30, 0.5, 1e-9)),
            "dead-network",
            32,
            id="died-at-epoch-30",
        ),
        pytest.param(
            watch(1e-4 * FLAT, 1e-4 * FLAT, 1e-11, 2.3e-4), "dead-network", 2, id="no-gradient-of-a-small-loss"
        ),
        pytest.param(watch(CREEPING, CREEPING, 1e-5, 2.3), "slow-learning", 10, id="steady-and-slow"),
        pytest.param(watch(FALLING_ON, RISING_LATE), "severe-overfitting", 39, id="validation-rises"),
        pytest.param(watch(FALLING_ON - 3, RISING_LATE - 3), "severe-overfitting", 39, id="validation-rises-below-0"),
        pytest.param(
            watch(FALLING_ON * make_noise(0.02), RISING_LATE * make_noise(0.02, 1)),
            "severe-overfitting",
            39,
            id="validation-rises-with-noise",
        ),
        pytest.param(watch(FLAT, FLAT, 0.5, 2.3), "no-learning", 16, id="flat-from-the-start"),
        pytest.param(watch(FALLING_ON, CREEPING_LATE), "no-learning", 46, id="validation-rests-while-training-falls"),
        pytest.param(watch(FALLING_ON, CREEPING_LATE), "moderate-overfitting", 37, id="gap-grows"),
        pytest.param(watch(FALLING, FALLING + 0.5 * (-1.0) ** EPOCHS), "unstable-training", 20, id="up-and-down"),
    ],
)
def test_reports(found: Mapping[str, list[int]], mode: str, epoch: int) -> None:
    """Each failure mode is found, within a few epochs."""
    assert abs(found[mode][0] - epoch) <= 4


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(watch(FALLING, FALLING), id="both-fall"),
        pytest.param(watch(FALLING, FALLING * 1.3), id="a-gap-from-the-first-epoch-on"),
        pytest.param(watch(FALLING, FALLING - 0.2), id="validation-below-training-as-with-dropout"),
        pytest.param(watch(FALLING - 0.3, FALLING - 0.3, 0.5 * FALLING), id="falls-to-0"),
        pytest.param(watch(FALLING - 0.3, FALLING - 0.3, 1e-9 + (FALLING - 0.3) ** 4), id="converged-without-gradient"),
        pytest.param(watch(FALLING - 5, FALLING - 5), id="negative"),
        pytest.param(watch(FALLING - 1, FALLING - 1), id="passes-0"),
        pytest.param(watch(1e-8 * FALLING, 1e-8 * FALLING, 1e-8, 2.5e-8), id="of-a-small-unit"),
        pytest.param(
            watch(FALLING * make_noise(0.05), FALLING * make_noise(0.1, 1)), id="noise-of-a-small-validation-set"
        ),
        pytest.param(watch(FALLING, FALLING + 0.02 * (-1.0) ** EPOCHS), id="swings-at-the-bottom"),
        pytest.param(watch(np.where(EPOCHS == 30, 2.0, FALLING), np.where(EPOCHS == 31, 2.5, FALLING)), id="a-spike"),
        pytest.param(watch(FALLING_ON, FALLING_ON + 0.02 + 1e-3 * EPOCHS), id="a-gap-that-grows-while-both-fall"),
        pytest.param(watch(np.zeros(60), np.zeros(60), 0.0, 0.0), id="exactly-0"),
    ],
)
def test_stays_silent(found: Mapping[str, list[int]]) -> None:
    """Healthy curves are no failure mode, whatever their sign, unit and noise."""
    assert found == {}


@pytest.mark.parametrize("seed", range(20))
def test_noise_is_judged_against_itself(seed: int) -> None:
    """Validation losses with 15 % of noise, which rest while the training loss does, yield nothing."""
    evaluated = (FALLING + 0.1) * make_noise(0.15, seed)
    assert watch(FALLING * make_noise(0.02, seed + 100), evaluated) == {}
