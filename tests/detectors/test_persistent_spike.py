"""`persistent-spike`: spikes that do not come down within the patience, and those that do."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, nan

import numpy as np
import pytest
from hypothesis import given, strategies as st

from trimtab.detectors import detect
from trimtab.detectors.persistent_spike import JUDGED_EVERY
from trimtab.history import History
from trimtab.types import LEVEL_STEP, Finding, Measurement

FLAT = [1.0 + 0.1 * (-1) ** step for step in range(120)]
"""Mean 1, standard deviation 0.1: a spike is above 1.3, and over at 1.05."""

PATIENCE = 50


def watch(values: Sequence[float], changed: float = 0, **settings: float) -> list[Finding]:
    """Judge each loss in turn; all are accepted, so that the spike itself becomes part of the level.

    At the step `changed` the loop says that the loss is another one.
    """
    history, found = History(), list[Finding]()
    for step, value in enumerate(values, 1):
        told = {LEVEL_STEP: -1.0} if step == changed else {}
        history.append(Measurement(step, {"loss": value, **told}))
        found += detect(history, {"persistent-spike": settings})
        history.close(accepted=True)
    return found


@pytest.mark.parametrize(
    ("values", "since"),
    [
        pytest.param([*FLAT, *[1.4] * 60], 121, id="up-and-not-down"),
        pytest.param([*FLAT, 9.0, *[1.2] * 60], 121, id="down-a-little"),
        pytest.param([*FLAT[:40], *[1.4] * 60], 41, id="with-a-quarter-of-the-window"),
        pytest.param([*[-each for each in FLAT], *[3.0] * 60], 121, id="negative"),
        pytest.param([exp(-step / 50) for step in range(120)] + [2.0] * 60, 121, id="after-a-fall"),
        pytest.param([*FLAT, *[nan] * 60], 121, id="not-a-number"),
    ],
)
def test_reports(values: list[float], since: int) -> None:
    """A loss that rose and has not come down in 50 steps is found at the next judgement, dated to its rise."""
    found = watch(values)
    assert found[0].since == since
    assert since + PATIENCE <= found[0].step <= since + PATIENCE + JUDGED_EVERY
    assert found[0].step % JUDGED_EVERY == 0


@pytest.mark.parametrize("place", range(JUDGED_EVERY))
def test_is_found_once(place: int) -> None:
    """Wherever it falls between two judgements, a spike that stays is found once."""
    assert len(watch([*FLAT[: 112 + place], *[3.0, 3.05] * 60])) == 1


@pytest.mark.parametrize(
    "values",
    [
        pytest.param([], id="none"),
        pytest.param([1.0] * 300, id="constant"),
        pytest.param([exp(-step / 30) for step in range(300)], id="falling"),
        pytest.param(FLAT * 3, id="two-valued"),
        pytest.param([*FLAT, 9.0, *FLAT], id="one-step"),
        pytest.param([*FLAT, *[9.0] * 49, *FLAT], id="down-just-in-time"),
        pytest.param([*FLAT, *[9.0] * 49, 1.04, *[9.0] * 20], id="down-once"),
        pytest.param([*FLAT, *[1.29] * 60], id="below-three-deviations"),
        pytest.param([*FLAT[:20], *[9.0] * 60], id="too-little-before"),
        pytest.param([1.0 + 0.002 * step for step in range(300)], id="slow-rise"),
    ],
)
def test_stays_silent(values: list[float]) -> None:
    """Spikes that come down, rises below the limit, and start-up are none."""
    assert watch(values) == []


@given(st.integers(0, 2**32 - 1))
def test_stays_silent_on_noise(seed: int) -> None:
    """Noise has no spike that stays."""
    assert watch([float(each) for each in np.random.default_rng(seed).normal(1.0, 0.2, 200)]) == []


@pytest.mark.parametrize(
    ("settings", "is_found"),
    [
        pytest.param({}, True, id="default"),
        pytest.param({"sigmas": 6.0}, False, id="more-sigmas"),
        pytest.param({"recovered": 5.0}, False, id="recovered-earlier"),
        pytest.param({"patience": 80}, False, id="more-patience"),
        pytest.param({"patience": 20}, True, id="less-patience"),
        pytest.param({"window": 800}, False, id="longer-window"),
    ],
)
def test_settings(settings: dict[str, float], is_found: bool) -> None:
    """Each setting does what the manual page says."""
    assert bool(watch([*FLAT, *[1.4] * 70], **settings)) == is_found


def test_finding_says_when_and_how_far() -> None:
    """The finding carries the loss now, the limit it broke, the mean, and the step it began at."""
    found = watch([*FLAT, *[1.4] * 60])[0]
    assert (found.metric, found.value, found.since, found.severity) == ("loss", 1.4, 121, "high")
    assert found.limit == pytest.approx(1.3)
    assert found.expected == pytest.approx(1.0)
    assert found.message == "the loss rose to 1.4 at step 121, above 1.3, and has not come down in 50 steps"


@pytest.mark.parametrize("num_rejected", [30, 60])
def test_rejected_steps_are_judged_too(num_rejected: int) -> None:
    """A spike whose steps are rejected, as loss-spike does, is as persistent as any other."""
    history, found = History(), list[Finding]()
    for step, value in enumerate([*FLAT, *[5.0] * 70], 1):
        history.append(Measurement(step, {"loss": value}))
        found += detect(history, {"persistent-spike": {}})
        history.close(accepted=not 120 < step <= 120 + num_rejected)
    assert [each.since for each in found][:1] == [121]


def test_another_loss_is_no_spike() -> None:
    """A loss that was changed on purpose is compared with what it was since, and a spike after that is dated right."""
    assert watch([*FLAT, *[9.0, 9.1] * 60], changed=121) == []
    (finding,) = watch([*[9.0, 9.1] * 60, *FLAT, *[3.0, 3.05] * 60], changed=121)
    assert finding.since == 241
