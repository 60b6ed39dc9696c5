"""Done or not: a training loss that is flat says so only together with the validation loss."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from trimtab.diagnosis import diagnose_values
from trimtab.types import Measurement

Numbers = NDArray[np.float64]

STEPS = np.arange(1, 1201)
RESTS = 0.5 + 2 * np.exp(-STEPS / 100)
FALLS = 0.5 + 2 * np.exp(-STEPS / 1500)
EVERY = 40


def make_noise(share: float, seed: int = 0) -> Numbers:
    """Factors about 1."""
    return 1 + share * np.random.default_rng(seed).normal(0, 1, len(STEPS))


def tell(train: Numbers, evaluated: Numbers | None) -> str:
    """What is said of a run with these losses, validated every 40 steps."""
    measurements = []
    for row, step in enumerate(STEPS.tolist()):
        measurements.append(Measurement(step, {"loss": float(train[row])}))
        if evaluated is not None and step % EVERY == 0:
            measurements.append(Measurement(step, {"val_loss": float(evaluated[row])}, "review"))
    return diagnose_values(measurements, ()).rest


@pytest.mark.parametrize(
    ("train", "evaluated", "start"),
    [
        pytest.param(RESTS, RESTS + 0.1, "done: the loss has been flat at 0.5 since step", id="both-rest"),
        pytest.param(RESTS * make_noise(0.05), (RESTS + 0.1) * make_noise(0.01, 1), "done: ", id="with-noise"),
        pytest.param(RESTS, FALLS, "a plateau, and not done: ", id="validation-falls-on"),
        pytest.param(RESTS, 1.5 - FALLS / 4, "a plateau, and past its best: ", id="validation-rises"),
        pytest.param(RESTS, RESTS * make_noise(0.2), "a plateau: ", id="validation-too-noisy"),
        pytest.param(RESTS, None, "a plateau: ", id="no-validation"),
        pytest.param(RESTS - 3, RESTS - 2.9, "done: ", id="below-0"),
    ],
)
def test_a_flat_loss_is_told(train: Numbers, evaluated: Numbers | None, start: str) -> None:
    """Done only if the validation loss is flat too; else what it does, or that it is not known."""
    assert tell(train, evaluated).startswith(start)


@pytest.mark.parametrize(
    ("train", "evaluated"),
    [
        pytest.param(FALLS, FALLS, id="falls-on"),
        pytest.param(FALLS, RESTS, id="falls-on-while-the-validation-rests"),
        pytest.param(1 + 0 * RESTS, 1 + 0 * RESTS, id="never-fell"),
        pytest.param(RESTS + 0.001 * np.maximum(STEPS - 600, 0), RESTS, id="rises"),
        pytest.param(RESTS * make_noise(0.5), RESTS, id="too-noisy-to-tell"),
    ],
)
def test_what_is_not_flat_is_not_done(train: Numbers, evaluated: Numbers) -> None:
    """A loss that falls, rises, never fell or hides in noise has not come to rest."""
    assert tell(train, evaluated) == ""
