"""The outline of a run: losses, what was undone, reviews and decisions, in as few points as a small figure needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trimtab.journal import RunLog
from trimtab.journal.recorder import tell_story
from trimtab.types import RESTORING, Clock, Decision, Measurement

NUM_STRETCHES = 400
"""Stretches of steps that a run is divided into; of each the lowest and the highest of a metric are kept."""

MOST_MARKED = 200
"""Decisions that are marked, beside those that set the run back or ended it."""

USUAL = 0.75
"""The share of the losses that are the usual ones; what lies far above them is drawn at the edge."""

FAR = 100.0
"""How many times the usual losses the axis goes up to; on one that is not logarithmic, how many times their range."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A decision that was acted on."""

    step: int
    """Its step."""

    verdict: str
    """What was done."""

    story: str
    """What was found, and what was done."""


@dataclass(frozen=True, slots=True)
class Outline:
    """What is drawn of a run."""

    losses: dict[int, float]
    """The loss by step, of the updates that count; NaN where it is not finite."""

    undone: dict[int, float]
    """The same up to each rollback, of what it undid and of the step it answered; NaN after each branch."""

    reviews: dict[int, float]
    """The validation loss by step."""

    marks: tuple[Mark, ...]
    """The decisions that were acted on."""

    is_log: bool
    """True if the axis of the losses is logarithmic: all of them are above 0."""

    lowest: float
    """Where it begins."""

    limit: float
    """Where it ends; what is above is drawn there."""

    highest: float
    """The highest loss of all."""

    @property
    def title(self) -> str:
        """What the axis shows, and what it does not."""
        return f"loss, up to {self.highest:.3g}" if self.highest > self.limit else "loss"

    def hold(self, loss: float) -> float:
        """Where a loss is drawn."""
        return min(loss, self.limit)


def outline_run(log: RunLog) -> Outline:
    """The outline of a run of any length."""
    losses = find_series(log, "loss")
    spans = [
        range(action.restored_step + 1, decision.step + 1)
        for decision, action in log.records.values()
        if action.restored_step is not None
    ]
    undone = {step for span in spans for step in span}
    faint = {step: loss for step, loss in losses.items() if step in undone}
    faint |= {span.stop: math.nan for span in spans}  # a gap, so that two branches are not joined
    reviews = find_series(log, "val_loss", "review")
    finite = [each for each in (*losses.values(), *reviews.values()) if math.isfinite(each)]
    is_log = bool(finite) and min(finite) > 0
    lowest, limit = _choose_range(finite, is_log=is_log)
    return Outline(
        {step: loss for step, loss in losses.items() if step not in undone},
        dict(sorted(faint.items())),
        reviews,
        _list_marks(log),
        is_log,
        lowest,
        limit,
        max(finite, default=1.0),
    )


def find_series(log: RunLog, metric: str, clock: Clock = "step") -> dict[int, float]:
    """A metric by step, thinned out such that no spike is lost; NaN where it is not finite.

    Of a step that was made again after a resume, the later number counts.
    """
    found = [(each.step, value) for each in log.measurements if (value := _read(each, metric, clock)) is not None]
    series = {step: value if math.isfinite(value) else math.nan for step, value in found}
    steps = sorted(series)
    if len(steps) <= 2 * NUM_STRETCHES:
        return {step: series[step] for step in steps}
    kept: set[int] = {steps[0], steps[-1]}
    for some in np.array_split(np.array(steps), NUM_STRETCHES):
        values = np.array([series[step] for step in some.tolist()])
        finite, others = some[~np.isnan(values)], some[np.isnan(values)]
        kept |= set(others[:1].tolist())
        if len(finite):
            numbers = values[~np.isnan(values)]
            kept |= {int(finite[numbers.argmin()]), int(finite[numbers.argmax()])}
    return {step: series[step] for step in sorted(kept)}


def _read(measurement: Measurement, metric: str, clock: Clock) -> float | None:
    value = measurement.values.get(metric) if measurement.clock == clock else None
    return value if isinstance(value, float) else None


def _choose_range(losses: Sequence[float], *, is_log: bool) -> tuple[float, float]:
    """From where to where losses are drawn, so that one spike does not hide the curve."""
    if not losses:
        return 0.0, 1.0
    lowest, usual = min(losses), float(np.quantile(losses, USUAL))
    limit = FAR * usual if is_log else usual + FAR * (usual - lowest)
    highest = max(each for each in losses if each <= limit)
    return lowest, highest if highest > lowest else lowest + max(abs(lowest), 1.0)


def _list_marks(log: RunLog) -> tuple[Mark, ...]:
    """The decisions that were acted on: those that set the run back or ended it all, of the others the first ones."""
    acted = [each for each in log.records.values() if each[0].responses]
    others = [decision for decision, _ in acted if not _is_grave(decision)][:MOST_MARKED]
    kept = {(each.step, each.clock) for each in others}
    return tuple(
        Mark(decision.step, action.verdict, tell_story(decision, action))
        for decision, action in acted
        if _is_grave(decision) or (decision.step, decision.clock) in kept
    )


def _is_grave(decision: Decision) -> bool:
    return decision.verdict in (*RESTORING, "halt")
