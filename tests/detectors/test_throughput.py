"""`slow-steps` and `stalled-step`: the times they report, and those on which they stay silent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from trimtab.detectors import detect
from trimtab.detectors.stalled_step import is_hung
from trimtab.history import History
from trimtab.types import Measurement


def watch(name: str, seconds: Sequence[float], **settings: float) -> list[int]:
    """The steps at which something is found."""
    history, found = History(), list[int]()
    for step, took in enumerate(seconds, 1):
        values = {"loss": 1.0} if step == 1 else {"loss": 1.0, "step_seconds": took, "supervisor_seconds": 1e-4}
        history.append(Measurement(step, values))
        found += [each.step for each in detect(history, {name: settings})]
        history.close(accepted=True)
    return found


NOISE = np.random.default_rng(0).lognormal(0, 0.3, 900)
USUAL = 0.1 * NOISE
SLOWS = USUAL * np.where(np.arange(900) > 450, 4.0, 1.0)


@pytest.mark.parametrize(
    ("seconds", "settings", "steps"),
    [
        pytest.param(SLOWS, {}, [702], id="four-times-slower-from-450-on"),
        pytest.param(USUAL * np.linspace(1, 12, 900), {}, [502], id="slower-and-slower"),
        pytest.param(USUAL, {"expected_seconds": 0.05}, [102], id="slower-than-expected"),
    ],
)
def test_slow_steps_are_reported(seconds: Sequence[float], settings: dict[str, float], steps: list[int]) -> None:
    """A run that has become slow, or is slower than was expected, is found once."""
    assert watch("slow-steps", seconds, **settings)[: len(steps)] == steps


@pytest.mark.parametrize(
    ("seconds", "settings"),
    [
        pytest.param(USUAL, {}, id="noise"),
        pytest.param(USUAL, {"expected_seconds": 0.1}, id="as-expected"),
        pytest.param(np.where(np.arange(900) % 50 == 0, 60.0, USUAL), {}, id="validations"),
        pytest.param(SLOWS / np.where(np.arange(900) > 450, 2.0, 1.0), {}, id="twice-as-slow-on-a-shared-machine"),
        pytest.param(SLOWS / 100, {}, id="steps-of-a-millisecond"),
        pytest.param(USUAL * np.where(np.arange(900) // 120 == 5, 6.0, 1.0), {}, id="for-120-steps"),
        pytest.param(USUAL[::-1] * np.linspace(5, 1, 900), {}, id="faster-and-faster"),
    ],
)
def test_usual_steps_are_silent(seconds: Sequence[float], settings: dict[str, float]) -> None:
    """Noise, validations, and a machine that is shared are no slowdown."""
    assert watch("slow-steps", seconds, **settings) == []


def test_stall_is_reported() -> None:
    """A step of ten minutes among those of a tenth of a second is found, each time."""
    assert watch("stalled-step", [*USUAL[:100], 600.0, *USUAL[:100], 600.0]) == [101, 202]


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(USUAL, id="noise"),
        pytest.param([0.1] * 10 + [600.0] + [0.1] * 100, id="in-the-first-steps"),
        pytest.param([0.1] * 100 + [20.0], id="a-checkpoint"),
        pytest.param([60.0] * 100 + [600.0], id="ten-times-a-long-step"),
    ],
)
def test_no_stall(seconds: Sequence[float]) -> None:
    """What is short, or not so long beside the others, is no stall."""
    assert watch("stalled-step", seconds) == []


def test_hung_run_is_told_from_outside() -> None:
    """A run hangs that has made no step for half a minute and 50 times its usual one."""
    assert is_hung(31, 0.1)
    assert not is_hung(29, 0.1)
    assert not is_hung(31, 2.0)
    assert is_hung(101, 2.0)
