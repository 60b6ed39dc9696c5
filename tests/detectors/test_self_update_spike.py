"""`self-update-spike`: moves of self-updating parameters far above the usual ones, and busy times that are not."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, nan

import numpy as np
import pytest

from trimtab.detectors import detect
from trimtab.history import History
from trimtab.types import Finding, Measurement

METRIC = "self_update_ratio"

QUIET = [1e-3 * (1.0 + 0.05 * (-1) ** step) for step in range(40)]

USUAL = [1e-3 * (1.0 + 0.2 * (-1) ** step) for step in range(40)]


def watch(values: Sequence[float], **settings: float) -> list[Finding]:
    """Judge each ratio in turn; what is found is rejected."""
    history, found = History(), list[Finding]()
    for step, value in enumerate(values, 1):
        history.append(Measurement(step, {METRIC: value}))
        findings = detect(history, {"self-update-spike": settings})
        history.close(accepted=not findings)
        found += findings
    return found


@pytest.mark.parametrize(
    ("values", "steps"),
    [
        pytest.param([*[1e-3] * 16, 1.01e-2], [17], id="above-10-times-a-quiet-level"),
        pytest.param([*[1e-3] * 10, *[3e-3], *[1e-3] * 10, 1.3e-2], [22], id="above-4-times-the-largest"),
        pytest.param([1e-3] * 4 + [0.11], [5], id="first-judged-against-the-coarse-limit"),
        pytest.param([*USUAL, 0.5, 0.5, 1e-3, 0.5], [41, 42, 44], id="each-time"),
        pytest.param([0.0] * 20 + [1e-3] * 20 + [0.5], [41], id="after-a-quiet-time"),
    ],
)
def test_reports(values: list[float], steps: list[int]) -> None:
    """A move far above the usual ones is found at the very step."""
    assert [each.step for each in watch(values)] == steps


@pytest.mark.parametrize(
    "values",
    [
        pytest.param([], id="none"),
        pytest.param([0.0] * 100, id="nothing-moves"),
        pytest.param([0.0] * 100 + [1e-3], id="first-move-says-nothing-of-scale"),
        pytest.param([1.0, 1e-6, 1.0, 1e-6], id="nothing-before-the-fourth"),
        pytest.param([*[1e-3] * 16, 9.9e-3], id="below-10-times"),
        pytest.param([1e-3, 1e-3, 1e-2] * 30, id="busy-and-quiet-times"),
        pytest.param([1e-3 * 1.05**step for step in range(150)], id="rising-slowly"),
        pytest.param([1e-3 * 0.95**step for step in range(150)], id="falling"),
        pytest.param([float(each) for each in np.random.default_rng(0).lognormal(-7, 0.7, 300)], id="noisy"),
        pytest.param([*USUAL, nan, inf], id="not-finite-is-another-detectors"),
    ],
)
def test_stays_silent(values: list[float]) -> None:
    """Quiet and busy times of a rule are no spikes."""
    assert watch(values) == []


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        pytest.param({}, [41], id="default"),
        pytest.param({"sigmas": 30}, [], id="more-sigmas"),
        pytest.param({"warmup": 60}, [], id="longer-warm-up"),
        pytest.param({"warmup": 60, "coarse": 5}, [41], id="finer-coarse-limit"),
        pytest.param({"window": 8}, [41], id="shorter-window"),
    ],
)
def test_settings(settings: dict[str, float], steps: list[int]) -> None:
    """Each setting does what the manual page says."""
    assert [each.step for each in watch([*QUIET, 0.05], **settings)] == steps


def test_finding_says_what_was_seen() -> None:
    """The finding carries ratio, limit and level; the update at hand is at fault, not the state."""
    (found,) = watch([*[1e-3] * 20, 0.5])
    assert (found.metric, found.value, found.severity, found.in_state) == (METRIC, 0.5, "high", False)
    assert found.limit == pytest.approx(1e-2)
    assert found.expected == pytest.approx(1e-3)
