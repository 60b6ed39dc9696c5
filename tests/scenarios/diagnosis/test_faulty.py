"""Logs of runs in which something went wrong: the cause is named first, and what it did to the run."""

from __future__ import annotations

import pytest

from tests.scenarios.diagnosis.faulty import FAULTY
from tests.scenarios.diagnosis.logs import Make, draw
from trimtab.diagnosis import diagnose_values, known_causes

ROWS = [pytest.param(name, *row, id=name.replace(" ", "-")) for name, row in FAULTY.items()]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("name", "make", "cause", "verdict"), ROWS)
def test_cause_is_named_first(name: str, make: Make, cause: str, verdict: str, seed: int) -> None:
    """The first cause is the one that was put in, with evidence and a fix, and the verdict is what it did."""
    draft = draw(name, make, seed)
    diagnosis = diagnose_values(draft.measurements(), manifest=draft.manifest)
    named = [each.name for each in diagnosis.causes]
    assert named[:1] == [cause], named
    assert diagnosis.verdict == verdict
    first = diagnosis.causes[0]
    assert first.fix
    assert any(character.isdigit() for line in first.evidence for character in line)
    assert 0 < first.confidence < 1


def test_every_cause_of_a_log_has_its_scenario() -> None:
    """All causes are put in here, or in the runs that Trimtab recorded itself."""
    own = {
        "batch-not-finite", "transient-fault", "corrupted-moments", "bad-batches",
        "harmful-update", "precision-loss", "loss-scale-oscillating", "unreached-parameters", "dead-units", "halted",
        "schedule-at-wrong-pace", "trained-in-eval-mode", "unoptimized-parameters", "gradients-change-with-depth",
        "updates-out-of-proportion", "weights-turned-to-noise", "saturated-units", "activations-change-with-depth",
        "input-ignored", "fluctuating-gradients", "dead-network", "learns-too-slowly", "replicas-apart", "growing-gap",
        "evaluation-stands-still", "dropout-in-evaluation", "batch-norm-statistics-lag", "idle-device",
        "representations-shrink", "few-directions", "one-sided", "columns-are-dead",
        "numbers-are-ignored", "numbers-dominate",
    }  # fmt: skip
    unmeasured = {"loss-not-recorded", "loss-scale-not-recorded"}
    assert known_causes.keys() - own - unmeasured == {cause for _, cause, _ in FAULTY.values()}
