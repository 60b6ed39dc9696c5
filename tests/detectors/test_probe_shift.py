"""`probe-shift`: says that the probe has changed, where a restored state measures worse than when it was accepted."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

import pytest

from trimtab.detectors import detect
from trimtab.history import History
from trimtab.types import STATE_STEP, Finding, Measurement, Value

ONES = [1.0] * 12


def watch(values: Sequence[float], restored: Sequence[int]) -> list[Finding]:
    """Judge each measurement in turn; those innovation finds are rejected, as the default policy does."""
    history, found, accepted = History(), list[Finding](), 0
    for step, value in enumerate(values, 1):
        state = accepted if step in restored else step - 1
        row: dict[str, Value] = {"probe_loss": value}
        history.append(Measurement(step, row | ({STATE_STEP: float(state)} if state != step - 1 else {})))
        findings = detect(history, {"innovation": {}, "probe-shift": {}})
        is_accepted = all(each.detector != "innovation" for each in findings)
        history.close(accepted=is_accepted)
        accepted = state if is_accepted else accepted
        found += [each for each in findings if each.detector == "probe-shift"]
    return found


@pytest.mark.parametrize(
    ("values", "restored", "steps"),
    [
        pytest.param([*ONES, 9.0, 9.0], [14], [14], id="worse-than-when-accepted"),
        pytest.param([*ONES, *[9.0] * 5, 40.0, 40.0], [14, 19], [14, 19], id="each-shift-once"),
        pytest.param([-1.0] * 12 + [5.0, 5.0], [14], [14], id="negative"),
    ],
)
def test_reports(values: list[float], restored: list[int], steps: list[int]) -> None:
    """A restored state that measures far worse is found once."""
    assert [each.step for each in watch(values, restored)] == steps


@pytest.mark.parametrize(
    ("values", "restored"),
    [
        pytest.param([*ONES, 9.0, 1.0], [14], id="as-when-accepted"),
        pytest.param([*ONES, 9.0, 0.5], [14], id="better"),
        pytest.param([*ONES, 9.0, 1.0005], [14], id="within-rounding"),
        pytest.param([*ONES, 9.0, 9.0], [], id="not-restored"),
        pytest.param([9.0], [1], id="nothing-accepted-yet"),
        pytest.param([*ONES, 9.0, nan], [14], id="not-finite"),
    ],
)
def test_stays_silent(values: list[float], restored: list[int]) -> None:
    """Where the state measures as it did, the update was to blame."""
    assert watch(values, restored) == []


def test_finding_says_both_numbers() -> None:
    """The finding carries level and measurement; it is advisory and no fault of the state."""
    (found,) = watch([*ONES, 9.0, 8.0], [14])
    assert (found.metric, found.value, found.limit, found.expected) == (STATE_STEP, 8.0, 1.25, 1.0)
    assert (found.severity, found.in_state) == ("low", False)
    assert found.message.startswith("a state that was accepted measures 8 now, where 1 is expected")
