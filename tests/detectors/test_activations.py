"""The detectors of activations: the samples they report, and those on which they stay silent."""

from __future__ import annotations

from collections.abc import Mapping
from math import nan

import numpy as np
import pytest

from trimtab.detectors import detect
from trimtab.history import History
from trimtab.types import Finding, Measurement, Value

GROUPS = ("a", "b", "c", "d", "e")


def watch(name: str, taken: Mapping[int, Mapping[str, Value]]) -> list[Finding]:
    """Judge every step of a run in which something was measured at some steps."""
    history = History(GROUPS)
    found: list[Finding] = []
    for step in range(1, 503):
        history.append(Measurement(step, {"loss": 1.0, **taken.get(step, {})}))
        found += detect(history, {name: {}})
        history.close(accepted=True)
    return found


SAMPLED = (2, 102, 202, 302)


def sample(metric: str, *values: Value) -> dict[int, dict[str, Value]]:
    """The same metric at one sampled step after the other."""
    return {step: {metric: value} for step, value in zip(SAMPLED, values, strict=False)}


FULL = (0.1, 0.95, 0.2, nan, 0.99)
HALF = (0.1, 0.5, 0.2, nan, 0.5)
RISES, FALLS = (1.0, 20.0, 400.0, 8e3, 2e5), (1.0, 0.05, 2e-3, 1e-4, 5e-6)
UNORDERED = (1.0, 2e5, 3.0, 1e-3, 2e5)


@pytest.mark.parametrize(
    ("name", "taken", "expected"),
    [
        pytest.param("saturated-units", sample("saturated_units", FULL, FULL), {102: ("e", "b")}, id="saturated"),
        pytest.param("depth-activation", sample("activation_std", RISES, RISES), {102: ("a", "e")}, id="explodes"),
        pytest.param("depth-activation", sample("activation_std", FALLS, FALLS), {102: ("a", "e")}, id="vanishes"),
        pytest.param("constant-output", sample("output_spread", *[1e-7] * 4), {202: ()}, id="constant-said-once"),
    ],
)
def test_reports(name: str, taken: Mapping[int, Mapping[str, Value]], expected: Mapping[int, tuple[str, ...]]) -> None:
    """What lasts from one sampled step to the next is found, the most suspect group first."""
    assert {finding.step: finding.groups for finding in watch(name, taken)} == expected


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        pytest.param("saturated-units", sample("saturated_units", FULL, HALF, FULL), id="not-twice-in-a-row"),
        pytest.param("saturated-units", sample("saturated_units", HALF, HALF, HALF), id="half"),
        pytest.param("depth-activation", sample("activation_std", RISES, UNORDERED, RISES), id="at-one-sample"),
        pytest.param("depth-activation", sample("activation_std", *[UNORDERED] * 4), id="without-order"),
        pytest.param("depth-activation", sample("activation_std", *[(1.0, 2e5, nan, nan, nan)] * 4), id="two-layers"),
        pytest.param("depth-activation", sample("activation_std", RISES, FALLS), id="up-and-then-down"),
        pytest.param("constant-output", sample("output_spread", 1e-7, 1e-7, 0.1, 1e-7), id="not-three-in-a-row"),
        pytest.param("constant-output", sample("output_spread", *[1e-3] * 4), id="a-large-mean"),
    ],
)
def test_stays_silent(name: str, taken: Mapping[int, Mapping[str, Value]]) -> None:
    """Single samples, and differences without order, are nothing to speak of."""
    assert watch(name, taken) == []


def make_norms(spread: float, seed: int = 0) -> dict[int, dict[str, Value]]:
    """Log-normal gradient norms whose logarithms have this standard deviation."""
    logs = np.random.default_rng(seed).normal(0, spread, 503)
    return {step: {"grad_norm": float(np.exp(logs[step]))} for step in range(1, 503)}


def test_fluctuation_is_found() -> None:
    """Norms that differ by orders of magnitude from step to step are found at sampled steps."""
    assert [each.step for each in watch("gradient-fluctuation", make_norms(4.0))] == [102, 202, 302, 402, 502]


@pytest.mark.parametrize(
    "taken",
    [
        pytest.param(make_norms(0.3), id="usual-noise"),
        pytest.param(make_norms(1.0), id="wide-noise"),
        pytest.param({step: {"grad_norm": 10.0 ** (-step / 50)} for step in range(1, 503)}, id="falls-by-1e10"),
        pytest.param({step: {"grad_norm": 1e6 if step % 7 == 0 else 1.0} for step in range(1, 503)}, id="heavy-tail"),
        pytest.param({step: {"grad_norm": 0.0} for step in range(1, 503)}, id="exactly-0"),
    ],
)
def test_usual_norms_do_not_fluctuate(taken: Mapping[int, Mapping[str, Value]]) -> None:
    """Noise, trends and heavy tails are no fluctuation by orders of magnitude."""
    assert watch("gradient-fluctuation", taken) == []
