"""`lost-update`: what it reports and when it stays silent."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from typing import TypeAlias

import pytest

from trimtab.detectors import detect
from trimtab.history import CAPACITY, History
from trimtab.types import Finding, Measurement, Value

GROUPS = ("embed", "block", "head", "tail")

Shares: TypeAlias = tuple[float, float, float, float]


def watch(steps: Sequence[Shares | None], *, rate: float | None = 1e-4, **settings: float) -> list[Finding]:
    """What is found in the shares of the groups, one a step; None where they are not measured."""
    history = History(GROUPS)
    found: list[Finding] = []
    for step, shares in enumerate(steps, 1):
        values: dict[str, Value] = {} if rate is None else {"learning_rate": rate}
        values |= {} if shares is None else {"lost_updates": shares}
        history.append(Measurement(step, values))
        found += detect(history, {"lost-update": settings})
        history.close(accepted=True)
    return found


FINE: Shares = (0.1, 0.2, 0.3, nan)
LOST: Shares = (0.1, 0.95, 0.2, nan)
MORE: Shares = (0.1, 0.95, 0.99, nan)
ALL: Shares = (1.0, 1.0, 1.0, 1.0)
GAP = [None] * 31


@pytest.mark.parametrize(
    ("steps", "found"),
    [
        pytest.param([LOST, LOST], {2: ("block",)}, id="one-group"),
        pytest.param([LOST, *GAP, LOST], {33: ("block",)}, id="a-snapshot-cycle-apart"),
        pytest.param([MORE, MORE], {2: ("head", "block")}, id="the-worst-first"),
        pytest.param([MORE, LOST, MORE], {2: ("block",), 3: ("block",)}, id="each-group-by-itself"),
        pytest.param([ALL, ALL], {2: GROUPS}, id="all-groups"),
        pytest.param([FINE, LOST, None, LOST, FINE], {4: ("block",)}, id="as-long-as-it-lasts"),
    ],
)
def test_reports(steps: Sequence[Shares | None], found: dict[int, tuple[str, ...]]) -> None:
    """A group above the limit at two measurements is named at the second."""
    findings = watch(steps)
    assert {finding.step: finding.groups for finding in findings} == found
    assert "keep float32 master weights or use stochastic rounding" in findings[0].message
    assert (findings[0].severity, findings[0].metric) == ("medium", "lost_updates")


def test_message_names_few_groups() -> None:
    """Of many groups the message names three."""
    (finding,) = watch([ALL, ALL])
    assert finding.message.startswith(
        "up to 100% of the weights of embed, block, head and 1 more were left unchanged by an update: "
    )


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([], id="no-step"),
        pytest.param([None] * 9, id="not-measured"),
        pytest.param([FINE] * 9, id="healthy"),
        pytest.param([(0.9, 0.9, 0.9, 0.9)] * 9, id="exactly-at-the-limit"),
        pytest.param([ALL], id="first-measurement"),
        pytest.param([ALL, None, None], id="not-at-steps-between"),
        pytest.param([LOST, FINE, LOST, FINE], id="every-other-time"),
        pytest.param([(0.95, 0.1, 0.1, 0.1), (0.1, 0.95, 0.1, 0.1)], id="another-group-each-time"),
        pytest.param([(nan, nan, nan, nan)] * 5, id="no-half-precision"),
        pytest.param([(nan, 1.0, nan, nan), (1.0, nan, nan, nan)], id="measured-once-each"),
        pytest.param([ALL, *[None] * CAPACITY, ALL], id="older-than-the-history"),
    ],
)
def test_stays_silent(steps: Sequence[Shares | None]) -> None:
    """One measurement says nothing, and a part of the updates may be lost."""
    assert watch(steps) == []


@pytest.mark.parametrize("rate", [0.0, None])
def test_rate_of_0_loses_nothing(rate: float | None) -> None:
    """Where the learning rate is 0, or not known, weights that stay what they are tell nothing."""
    assert watch([ALL] * 5, rate=rate) == []


def test_limit_is_a_setting() -> None:
    """`limit` is the share that is too much."""
    assert watch([FINE, FINE], limit=0.25)
    assert not watch([ALL, ALL], limit=1.0)
