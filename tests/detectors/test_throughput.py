"""`slow-steps`, `stalled-step`, `data-bound` and `idle-device`: what they report, and where they stay silent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from trimtab.detectors import detect
from trimtab.detectors.pace import judge_pace
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


def make_history(step: float, num: int = 120, **others: float) -> History:
    """Steps of these seconds with a tenth of noise, and the same of other metrics; the device is read now and then."""
    history, noise = History(), np.random.default_rng(1).normal(1, 0.1, num)
    for row in range(num):
        values = {name: each * noise[row] for name, each in {"step_seconds": step, **others}.items()}
        if row % 100 != 2:
            values.pop("device_utilization", None)
        history.append(Measurement(row + 1, values))
        history.close(accepted=True)
    return history


@pytest.mark.parametrize(
    ("history", "waited", "bound"),
    [
        pytest.param(make_history(0.2, data_seconds=0.15, cpu_seconds=0.04), 0.0, "data-bound", id="slow-loader"),
        pytest.param(make_history(0.2, data_seconds=0.02, cpu_seconds=0.35), 0.0, "device-bound", id="two-cores"),
        pytest.param(make_history(0.2, data_seconds=0.02, cpu_seconds=0.05), 0.0, "host-bound", id="waits-elsewhere"),
        pytest.param(make_history(0.2, cpu_seconds=0.01, device_utilization=0.95), 0.0, "device-bound", id="busy-gpu"),
        pytest.param(make_history(0.2, cpu_seconds=0.2, device_utilization=0.3), 0.0, "host-bound", id="idle-gpu"),
        pytest.param(make_history(0.002, data_seconds=0.0015, cpu_seconds=0.002), 0.0, "device-bound", id="tiny-steps"),
        pytest.param(make_history(0.2, data_seconds=0.15), 40.0, "hung", id="no-step-for-40-s"),
        pytest.param(make_history(0.2), 20.0, "not known", id="nothing-but-the-time"),
        pytest.param(make_history(0.2, num=5, data_seconds=0.15), 40.0, "not known", id="too-few-steps"),
    ],
)
def test_what_sets_the_pace(history: History, waited: float, bound: str) -> None:
    """The data, the device, the host, or nothing since the run hangs; in words too."""
    pace = judge_pace(history, waited)
    assert pace.bound == bound
    assert pace.message


def find(name: str, rows: Sequence[dict[str, float]]) -> list[int]:
    """The steps at which something is found in rows of metrics."""
    history, found = History(), list[int]()
    for step, values in enumerate(rows, 1):
        history.append(Measurement(step, values))
        found += [each.step for each in detect(history, {name: {}})]
        history.close(accepted=True)
    return found


def wait(waited: float, took: float, num: int) -> list[dict[str, float]]:
    """Steps of which so much is waiting."""
    return [{"step_seconds": took, "data_seconds": waited} for _ in range(num)]


@pytest.mark.parametrize(
    ("rows", "steps"),
    [
        pytest.param(wait(0.08, 0.1, 350), [102], id="from-the-start-said-once"),
        pytest.param([*wait(0.01, 0.1, 150), *wait(0.08, 0.17, 350)], [202], id="later"),
        pytest.param(wait(0.03, 0.1, 350), [], id="a-third"),
        pytest.param(wait(0.004, 0.005, 350), [], id="tiny-steps"),
        pytest.param([*wait(0.01, 0.1, 9), *wait(5.0, 5.1, 1)] * 35, [], id="single-batches"),
        pytest.param([{"step_seconds": 0.1}] * 350, [], id="not-said"),
    ],
)
def test_waiting_for_data(rows: Sequence[dict[str, float]], steps: list[int]) -> None:
    """A run of which much is waiting for data is found, once."""
    assert find("data-bound", rows) == steps


def use(*shares: float, took: float = 0.2, waited: float = 0.0) -> list[dict[str, float]]:
    """A hundred steps for each reading of the device's utilization, read at the second of them."""
    return [
        {"step_seconds": took, "data_seconds": waited} | ({"device_utilization": share} if row == 1 else {})
        for share in shares
        for row in range(100)
    ]


@pytest.mark.parametrize(
    ("rows", "steps"),
    [
        pytest.param(use(0.4, 0.5, 0.3, 0.4), [202], id="said-once"),
        pytest.param(use(0.95, 0.5, 0.3, 0.4), [302], id="later"),
        pytest.param(use(0.95, 0.9, 0.85, 0.97), [], id="busy"),
        pytest.param(use(0.5, 0.9, 0.4, 0.5, 0.97), [], id="now-and-then"),
        pytest.param(use(0.4, 0.5, 0.3, 0.4, took=0.01), [], id="short-steps"),
        pytest.param(use(0.4, 0.5, 0.3, 0.4, waited=0.15), [], id="for-want-of-data"),
    ],
)
def test_idle_device(rows: Sequence[dict[str, float]], steps: list[int]) -> None:
    """A device that is idle in long steps and not for want of data is found, once."""
    assert find("idle-device", rows) == steps
