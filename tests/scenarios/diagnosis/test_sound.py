"""Logs of runs with which nothing is the matter: nothing is named, whatever their shape."""

from __future__ import annotations

import pytest

from tests.scenarios.diagnosis.logs import Make, draw
from tests.scenarios.diagnosis.sound import SOUND
from trimtab.diagnosis import diagnose_values

ROWS = [pytest.param(name, make, id=name.replace(" ", "-")) for name, make in SOUND.items()]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("name", "make"), ROWS)
def test_healthy_run_is_declared_healthy(name: str, make: Make, seed: int) -> None:
    """No cause is made of noise, of a schedule's bumps, of a small remainder to learn, or of how the log was kept."""
    draft = draw(name, make, seed)
    diagnosis = diagnose_values(draft.measurements(), manifest=draft.manifest)
    assert [(each.name, each.evidence) for each in diagnosis.causes] == []
    assert (diagnosis.verdict, diagnosis.exit_status) == ("healthy", 0)
