"""`stale-gradient`: what it reports, and where it stays silent; real loops are in the tests of its probe."""

from __future__ import annotations

import pytest

from trimtab.detectors import detect
from trimtab.history import History
from trimtab.types import Finding, Measurement, Value


def judge(values: dict[str, Value]) -> tuple[Finding, ...]:
    """What is found at one sampled step."""
    history = History()
    history.append(Measurement(2, values))
    return detect(history, {"stale-gradient": {}})


@pytest.mark.parametrize("share", [pytest.param(1.0, id="on-this-rank"), pytest.param(0.25, id="on-one-rank-of-four")])
def test_reports(share: float) -> None:
    """Gradients that were not cleared are found, with what to do about them."""
    (finding,) = judge({"loss": 1.0, "stale_gradients": share})
    assert (finding.metric, finding.value, finding.limit, finding.severity) == ("stale_gradients", share, 0.0, "high")
    assert "zero_grad" in finding.message


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({"stale_gradients": 0.0}, id="cleared"),
        pytest.param({"loss": 1.0}, id="not-measured"),
        pytest.param({}, id="nothing-measured"),
        pytest.param({"stale_gradients": (1.0,)}, id="another-metric-of-that-name"),
    ],
)
def test_stays_silent(values: dict[str, Value]) -> None:
    """Steps that are not sampled and cleared gradients are not reported."""
    assert judge(values) == ()
