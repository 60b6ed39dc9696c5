"""Knobs: moved along half a cosine, over three reviews at least."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
from hypothesis import given, strategies as st

from trimtab import InputError
from trimtab.control.knobs import Knobs


def test_a_nudge_follows_half_a_cosine() -> None:
    """A quarter, three quarters, all: slow at both ends; what is not nudged stays."""
    weights = {"spread": 0.0, "joint": 1.0}
    knobs = Knobs(weights)
    knobs.nudge("spread", 1.0)
    seen = []
    for _ in range(4):
        knobs.advance()
        seen.append(weights["spread"])
    assert seen == pytest.approx([0.25, 0.75, 1.0, 1.0])
    assert weights["joint"] == 1.0
    assert knobs.advance() == []


@given(first=st.floats(0, 10), second=st.floats(0, 10), third=st.floats(0, 10), num=st.integers(3, 20))
def test_a_nudge_never_leaves_the_way(first: float, second: float, third: float, num: int) -> None:
    """A knob stays between where it is and its target, also when another nudge takes over, and arrives there."""
    weights = {"spread": first}
    knobs = Knobs(weights)
    for target, steps in ((second, 2), (third, num)):
        before = weights["spread"]
        knobs.nudge("spread", target, num)
        for _ in range(steps):
            knobs.advance()
            assert min(before, target) - 1e-9 <= weights["spread"] <= max(before, target) + 1e-9
    assert weights["spread"] == third == knobs.targets["spread"]


def test_state_goes_on_where_it_was() -> None:
    """Saved in the middle of a nudge and loaded into another mapping, it arrives at the same numbers."""
    weights, other = {"spread": 0.2, "joint": 1.0}, {"spread": 9.0, "joint": 9.0}
    knobs, resumed = Knobs(weights), Knobs(other)
    knobs.nudge("spread", 0.8, 5)
    knobs.advance()
    resumed.load_state_dict(knobs.state_dict())
    assert other == weights
    for _ in range(5):
        knobs.advance()
        resumed.advance()
        assert other == weights


@pytest.mark.parametrize(
    ("values", "said"),
    [
        pytest.param({}, "has to be a dict of numbers", id="empty"),
        pytest.param([1.0], "has to be a dict of numbers", id="no-dict"),
        pytest.param({"spread": inf}, "has to be a finite number", id="infinite"),
        pytest.param({"spread": "1"}, "has to be a finite number", id="text"),
    ],
)
def test_what_is_no_knob_is_refused(values: Any, said: str) -> None:
    """It is said when the knobs are made."""
    with pytest.raises(InputError, match=said):
        Knobs(values)


@pytest.mark.parametrize(
    ("nudge", "said"),
    [
        pytest.param(("spred", 1.0), "there is no 'spred'; there are spread", id="unknown"),
        pytest.param(("spread", inf), "a target has to be finite", id="infinite"),
        pytest.param(("spread", 1.0, 2), "cannot move within 2 reviews; 3 is the least", id="too-fast"),
    ],
)
def test_a_nudge_that_cannot_be_is_refused(nudge: tuple[Any, ...], said: str) -> None:
    """It is said with what there is."""
    with pytest.raises(InputError, match=said):
        Knobs({"spread": 1.0}).nudge(*nudge)
