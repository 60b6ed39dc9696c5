"""The outline of a run: losses, what was undone, reviews and decisions, in as few points as a small figure needs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from trimtab.diagnosis.evidence import Series
from trimtab.journal import RunLog
from trimtab.journal.recorder import tell_story
from trimtab.report.axes import choose_axis
from trimtab.report.reduction import reduce_series
from trimtab.types import RESTORING, Clock, Decision, Measurement

MOST_POINTS = 800
"""About how many points a small figure has room for."""

MOST_MARKED = 200
"""Decisions that are marked, beside those that set the run back or ended it."""


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
    axis = choose_axis([np.array(finite)], prefers_log=is_log)
    return Outline(
        {step: loss for step, loss in losses.items() if step not in undone},
        dict(sorted(faint.items())),
        reviews,
        _list_marks(log),
        is_log,
        axis.lowest,
        axis.limit if axis.limit > axis.lowest else axis.lowest + max(abs(axis.lowest), 1.0),
        axis.highest,
    )


def find_series(log: RunLog, metric: str, clock: Clock = "step") -> dict[int, float]:
    """A metric by step, thinned out such that no spike is lost; NaN where it is not finite.

    Of a step that was made again after a resume, the later number counts.
    """
    found = [(each.step, value) for each in log.measurements if (value := _read(each, metric, clock)) is not None]
    series = {step: value if math.isfinite(value) else math.nan for step, value in found}
    steps = sorted(series)
    whole = Series(np.array(steps, dtype=np.int64), np.array([series[step] for step in steps], dtype=np.float64))
    kept = reduce_series(whole, MOST_POINTS)
    return dict(zip(kept.steps.tolist(), kept.values.tolist(), strict=True))


def _read(measurement: Measurement, metric: str, clock: Clock) -> float | None:
    value = measurement.values.get(metric) if measurement.clock == clock else None
    return value if isinstance(value, float) else None


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
