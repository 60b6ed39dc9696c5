"""What has to hold of a scenario, on whatever data."""

from __future__ import annotations

from tests.scenarios.representation.runs import SCENARIOS, train_healthy, train_spoilt

WITHIN = 2
"""Epochs after its onset by which a trouble has to be found."""

SHARE = 0.9
"""The share of the healthy run's recall that a guarded run has to end with, and an unguarded one does not."""


def check_scenario(data: str, name: str) -> None:
    """It is found in time, answered, and mended; without the guard it is found in time too, and nothing mends it."""
    healthy = train_healthy(data, name)
    spoilt = train_spoilt(data, name, guarded=False)
    guarded = train_spoilt(data, name, guarded=True)
    for run in (spoilt, guarded):
        assert run.first_sign is not None
        assert SCENARIOS[name].onset < run.first_sign <= SCENARIOS[name].onset + WITHIN
    assert guarded.guard is not None
    answers = [each for each in guarded.guard.made if each.kind in ("nudge", "renewal")]
    assert answers[0].num_reviews - 1 == guarded.first_sign
    judged = {each.of for each in guarded.guard.outcomes}
    assert {each.name for each in answers} <= judged
    assert guarded.recall >= SHARE * healthy.recall, (guarded.recall, healthy.recall)
    assert spoilt.recall < SHARE * healthy.recall, (spoilt.recall, healthy.recall)
