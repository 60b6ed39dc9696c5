"""`gradient-underflow`: what it reports and when it stays silent."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, nan

import pytest

from trimtab.detectors import detect
from trimtab.history import CAPACITY, History
from trimtab.types import Finding, Measurement


def watch(shares: Sequence[float | None], *, is_accepted: bool = True, **settings: float) -> list[Finding]:
    """What is found in these shares, one a step; None where it is not measured."""
    history = History()
    found: list[Finding] = []
    for step, share in enumerate(shares, 1):
        measured = {} if share is None else {"underflow_share": share}
        history.append(Measurement(step, {"loss": 1.0, "loss_scale": 1024.0, **measured}))
        found += detect(history, {"gradient-underflow": settings})
        history.close(is_accepted)
    return found


GAP = [None] * 99


@pytest.mark.parametrize(
    ("shares", "found"),
    [
        pytest.param([0.6, 0.7], [2], id="two-in-a-row"),
        pytest.param([None, 1.0, *GAP, 1.0], [102], id="a-hundred-steps-apart"),
        pytest.param([0.1, 0.6, 0.6, 0.6, 0.1], [3, 4], id="as-long-as-it-lasts"),
        pytest.param([0.51, 0.51], [2], id="just-above"),
    ],
)
def test_reports(shares: Sequence[float | None], found: list[int]) -> None:
    """A share above the limit at two samples is found at the second, and says what to do."""
    findings = watch(shares)
    assert [finding.step for finding in findings] == found
    assert "times the loss scale 1024 are below 6.1e-05" in findings[0].message
    assert (findings[0].severity, findings[0].limit) == ("medium", 0.5)


def test_rejected_steps_count() -> None:
    """Whatever else is found at the sampled steps, so that their updates are dropped, underflow is found too."""
    assert len(watch([1.0, 1.0], is_accepted=False)) == 1


@pytest.mark.parametrize(
    "shares",
    [
        pytest.param([], id="no-step"),
        pytest.param([None] * 9, id="not-float16"),
        pytest.param([0.0] * 9, id="nothing-underflows"),
        pytest.param([0.5] * 9, id="exactly-at-the-limit"),
        pytest.param([1.0], id="first-sample"),
        pytest.param([1.0, None, None], id="not-at-steps-between-samples"),
        pytest.param([1.0, 0.2, 1.0, 0.2, 1.0], id="every-other-sample"),
        pytest.param([0.9, 0.4, 0.2, 0.1], id="falling"),
        pytest.param([1.0, *[None] * CAPACITY, 1.0], id="older-than-the-history"),
        pytest.param([1.0, 0.1, nan, 1.0], id="not-a-number-between"),
    ],
)
def test_stays_silent(shares: Sequence[float | None]) -> None:
    """One sample says nothing, and small shares are healthy."""
    assert watch(shares) == []


def test_limit_is_a_setting() -> None:
    """`limit` is the share that is too much."""
    assert watch([0.3, 0.3], limit=0.2)
    assert not watch([0.9, 0.9], limit=0.95)
    assert not watch([inf, 0.3])
