"""A diagnosis as text: code can be copied whole."""

from __future__ import annotations

import pytest

from trimtab.diagnosis import Cause, Diagnosis
from trimtab.diagnosis.telling import tell

LONG = "OneCycleLR(optimizer, max_lr, total_steps=num_steps)"


@pytest.mark.parametrize(
    ("fix", "lines"),
    [
        pytest.param("call `f()` once", ["call `f()` once"], id="short-code-stays-in-its-line"),
        pytest.param(f"use `{LONG}`; then rest", ["use", f"  {LONG}", "then rest"], id="long-code-has-its-own"),
        pytest.param(
            f"call `f()` once, not `g()`: `{LONG}`",
            ["call `f()` once, not `g()`:", f"  {LONG}"],
            id="long-code-after-short",
        ),
    ],
)
def test_code_of_a_fix_stands_whole(fix: str, lines: list[str]) -> None:
    """Long code has a line of its own, and what stands between two pieces of code is not taken for code."""
    cause = Cause(confidence=0.5, step=1, evidence=("seen",), fix=fix, name="odd", outcome="it passed by itself")
    told = tell(Diagnosis("degraded", (cause,), (), ())).splitlines()
    assert told[told.index("   fix:") + 1 :] == [f"     {line}" for line in lines]
