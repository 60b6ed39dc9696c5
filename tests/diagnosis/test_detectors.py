"""Every detector has a cause in the tree, or a reason why it has none."""

from __future__ import annotations

import pytest

from trimtab.detectors import detectors
from trimtab.diagnosis import diagnose_values, known_causes
from trimtab.diagnosis.gather import gather_values, replay_detectors
from trimtab.diagnosis.spikes import find_spikes
from trimtab.types import Action, Decision, Finding, Measurement

WITHOUT_CAUSE = {
    "probe-shift": "it records that the probe's level begins anew; the state it names is a good one",
}
"""The detectors whose findings are no trouble of the run."""

OWN_NUMBERS = {
    "data-bound": "judged by its metric",
    "drift": "a rise is judged over the whole record",
    "gradient-underflow": "judged by its metric",
    "loss-scale-collapsed": "judged by its metric",
    "loss-scale-stuck": "judged by its metric",
    "loss-spike": "a spike is judged by the curve around it, before and after",
    "lost-update": "judged by its metric",
    "nonfinite": "judged by the numbers themselves",
    "persistent-spike": "a spike is judged by the curve around it, before and after",
    "stale-gradient": "judged by its metric",
    "severe-overfitting": "judged by the two curves",
    "silent-divergence": "a rise is judged over the whole record",
    "slow-steps": "judged by its metric",
    "stalled-step": "judged by its metric",
    "unstable-training": "judged by the curve itself",
    "zero-gradient": "judged by its metric",
    "zero-learning-rate": "judged by its metric",
}
"""The detectors whose causes look at the same numbers again, over the whole record, in place of the findings."""


def record(detector: str) -> tuple[list[Measurement], list[tuple[Decision, Action]]]:
    """A run whose loss falls, and which has one finding of a detector."""
    measurements = [Measurement(step, {"loss": 1 + 2 * 0.98**step}) for step in range(1, 201)]
    finding = Finding(
        detector=detector,
        severity="low",
        step=102,
        metric="some_metric",
        value=2.0,
        limit=1.0,
        message="something is odd",
    )
    return measurements, [(Decision(102, "proceed", findings=(finding,)), Action(102))]


def test_every_detector_has_a_cause_or_a_reason() -> None:
    """A new detector does not pass before the tree has a cause for it, or it is said here why not."""
    told = {name for kind in known_causes.values() for name in kind.detectors}
    assert told | WITHOUT_CAUSE.keys() == set(detectors)
    assert not told & WITHOUT_CAUSE.keys()
    assert OWN_NUMBERS.keys() <= told


@pytest.mark.parametrize("name", sorted(set(detectors) - WITHOUT_CAUSE.keys() - OWN_NUMBERS.keys()))
def test_finding_is_told_as_its_cause(name: str) -> None:
    """A finding of a detector alone is told as a cause that names it, with its message as evidence and a fix."""
    measurements, decided = record(name)
    diagnosis = diagnose_values(measurements, decided)
    named = [each for each in diagnosis.causes if name in known_causes[each.name].detectors]
    assert len(named) == 1
    assert any("something is odd" in line for line in named[0].evidence)
    assert named[0].step == 102
    assert named[0].fix
    assert diagnosis.verdict == "degraded"


def test_rate_that_slips_is_no_peak_of_a_schedule() -> None:
    """One rate 1000 times too high does not make the rates before and after it those of a schedule that is over."""
    steps = range(1, 301)
    rates = {step: 2.6 if step == 84 else 2.6e-3 for step in steps}
    measurements = [Measurement(step, {"loss": 1 + 2 * 0.98**step, "learning_rate": rates[step]}) for step in steps]
    assert "schedule-too-fast" not in [each.name for each in diagnose_values(measurements).causes]


def test_spikes_that_are_apart_are_told_apart() -> None:
    """A spike long over is not the beginning of the next, and does not hide how far that one stands out."""
    losses = [1 + 0.01 * (step % 5) for step in range(1, 301)]
    losses[149] = losses[190] = 9.0
    measurements = [Measurement(step, {"loss": loss}) for step, loss in enumerate(losses, 1)]
    spikes = find_spikes(replay_detectors(gather_values(measurements)))
    assert [(each.step, each.recovered_at) for each in spikes] == [(150, 151), (191, 192)]
    assert spikes[1].sigmas > 100
