"""The course of a run: what is done between two epochs when it no longer gets better, told from its reviews alone.

Nothing is remembered but the reviews and the adaptations made. So a run that goes on after a kill decides the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trimtab.control.early_stopping import Progress, assess_progress
from trimtab.control.review import Review

DEFAULT_PATIENCE = 10
"""Reviews without an improvement after which a run has stalled, where nothing else is said."""

LEAST_EPOCHS = 50
"""A run is not stopped before so many epochs, or before half of them where there are fewer than twice as many."""

FINAL_EPOCHS = 5
"""The epochs of a finalization, or a tenth of all where there are fewer than ten times as many."""

MOST_ROTATIONS = 3
"""Changes to fresh data in a run."""

NO_LEARNING = "no-learning"
"""The detector after whose finding a run is not stopped for `GRACE` epochs: what answers it needs time to show."""

GRACE = 10
"""Epochs for which a run is not stopped after a finding of `NO_LEARNING`."""

MOST_JUDGED = 5
"""Reviews after which the effect of an adaptation is measured, or as many as there is patience if that is fewer."""


@dataclass(frozen=True, slots=True)
class Adaptation:
    """A change that was made to a run between two epochs, and why."""

    name: str
    """Its kind and its number among those of the kind, such as `rotation-1`."""

    kind: str
    """`rotation`: training goes on with fresh data. `finalization`: from the best weights, the learning rate falls to
    nearly 0. `cool`, `raise`: the learning rate is multiplied by less or more than 1. `return`: a change of the
    learning rate is given back. `resumption`: a finalization is given up, since stopping was ruled out meanwhile. Of a
    `RepresentationGuard`: `nudge`, `request`, `relaxation`, `restoration`, `renewal`, `recovery` and `exhaustion`, see
    `trimtab.control.representation`."""

    num_reviews: int
    """Reviews made before it."""

    epoch: int
    """Epochs completed before it."""

    step: int
    """Steps made before it."""

    what: str
    """What was changed: `partition`, `rate_factor`, which multiplies the learning rate of the schedule, or the name of
    a loss weight; of what sets weights back or initializes them anew, `weights`."""

    before: float
    """What it was."""

    after: float
    """What it is from now on; of a finalization, what it falls to."""

    trigger: str
    """What asked for it: `plateau`, `room`, `outcome`, `signal` or `loop`; or the detector that found something."""

    why: str
    """What was seen, in one sentence."""

    expected: str
    """What it is meant to do, in one sentence."""

    num_judged: int = 0
    """Reviews after which its effect is measured; 0 for one whose effect is not."""

    num_steps: int = 0
    """Of a finalization: the steps over which the learning rate falls."""

    def to_event(self) -> dict[str, Any]:
        """Its fields for the run folder."""
        fields = asdict(self)
        return {"from": fields.pop("before"), "to": fields.pop("after"), **fields}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a run was asked for, as far as its course depends on it."""

    epochs: int
    """The epochs it has altogether."""

    patience: int | None = None
    """Reviews without an improvement after which it has stalled; None for no early stopping."""

    min_delta: float = 0.0
    """By how much a score has to be lower to count as an improvement."""

    num_partitions: int = 1
    """The parts that its training data are divided into."""

    is_adaptive: bool = False
    """True if the learning rate may be changed on top of the schedule."""

    @property
    def least_epochs(self) -> int:
        """The epochs before which it is not stopped."""
        return min(LEAST_EPOCHS, self.epochs // 2)

    @property
    def final_epochs(self) -> int:
        """The epochs of a finalization; 0 for none."""
        return min(FINAL_EPOCHS, self.epochs // 10)

    @property
    def num_rotations(self) -> int:
        """The most changes to fresh data."""
        return min(MOST_ROTATIONS, self.num_partitions - 1)

    @property
    def num_judged(self) -> int:
        """Reviews after which the effect of an adaptation is measured."""
        return min(MOST_JUDGED, self.patience or DEFAULT_PATIENCE)


def measure_progress(reviews: Sequence[Review], past: Sequence[Adaptation], rules: Rules) -> Progress:
    """How a run is getting on: its patience begins anew with fresh data."""
    return assess_progress(
        [each.score for each in reviews],
        patience=rules.patience or DEFAULT_PATIENCE,
        min_delta=rules.min_delta,
        disturbed=[each.is_disturbed for each in reviews],
        counted_from=max((each.num_reviews for each in past if each.kind in ("rotation", "resumption")), default=0),
    )


def find_finalization(past: Sequence[Adaptation]) -> Adaptation | None:
    """The finalization that is under way; None if there is none."""
    newest = next((each for each in reversed(past) if each.kind in ("finalization", "resumption")), None)
    return newest if newest is not None and newest.kind == "finalization" else None


def find_rate_factor(past: Sequence[Adaptation]) -> float:
    """What the learning rate of the schedule is multiplied by, beside a finalization."""
    factors = [each.after for each in past if each.kind in ("cool", "raise", "return")]
    return factors[-1] if factors else 1.0


def decide_course(
    reviews: Sequence[Review], past: Sequence[Adaptation], rules: Rules, *, may_stop: bool
) -> Adaptation | None:
    """Decide whether a run that has stalled goes to fresh data, or into its finalization.

    Fresh data come first, as long as there are any. A finalization begins only where the run may be stopped after it.

    Args:
        reviews: all reviews.
        past: the adaptations made, the oldest first.
        rules: what the run was asked for.
        may_stop: False once stopping was ruled out by a signal.

    Returns:
        What to do before the next epoch; None for nothing.
    """
    if rules.patience is None or not reviews:
        return None
    final = find_finalization(past)
    if final is not None:
        return None if may_stop else _resume(reviews, past, final)
    progress = measure_progress(reviews, past, rules)
    if not progress.has_stalled:
        return None
    num_rotations = count_kind(past, "rotation")
    if num_rotations < rules.num_rotations:
        return _rotate(reviews, past, rules, progress, num_rotations)
    length = min(rules.final_epochs, rules.epochs - reviews[-1].epoch)
    if length > 0 and may_stop and not find_hindrance(reviews, rules):
        return _finalize(reviews, past, progress, length)
    return None


def explain_stop(reviews: Sequence[Review], past: Sequence[Adaptation], rules: Rules, *, may_stop: bool) -> str | None:
    """Why a run is to be stopped before its next epoch, in one sentence; None if it is to go on.

    Args:
        reviews: all reviews.
        past: the adaptations made, the oldest first.
        rules: what the run was asked for.
        may_stop: False once stopping was ruled out by a signal.
    """
    if rules.patience is None or not reviews or not may_stop:
        return None
    final = find_finalization(past)
    if final is not None:
        is_over = len(reviews) - final.num_reviews >= final.num_judged
        return f"{final.trigger} at epoch {final.epoch}, and the finalization after it is over" if is_over else None
    progress = measure_progress(reviews, past, rules)
    has_tried = count_kind(past, "rotation") >= rules.num_rotations
    if progress.has_stalled and has_tried and not rules.final_epochs and not find_hindrance(reviews, rules):
        return _tell_plateau(progress)
    return None


def find_hindrance(reviews: Sequence[Review], rules: Rules) -> str:
    """Why a run that has stalled must not be stopped yet, in one sentence; empty if it may be."""
    epoch = reviews[-1].epoch
    if epoch < rules.least_epochs:
        return f"a run of {rules.epochs} epochs is not stopped before epoch {rules.least_epochs}"
    found = [each.epoch for each in reviews if NO_LEARNING in each.findings and epoch - each.epoch < GRACE]
    if found:
        return f"{NO_LEARNING} was found at epoch {found[-1]}, and what answers it is given {GRACE} epochs"
    return ""


def name_adaptation(kind: str, past: Sequence[Adaptation]) -> str:
    """The name of the next adaptation of a kind."""
    return f"{kind}-{count_kind(past, kind) + 1}"


def count_kind(past: Sequence[Adaptation], kind: str) -> int:
    """The adaptations of a kind."""
    return sum(each.kind == kind for each in past)


def _rotate(
    reviews: Sequence[Review], past: Sequence[Adaptation], rules: Rules, progress: Progress, num_rotations: int
) -> Adaptation:
    return Adaptation(
        name=name_adaptation("rotation", past),
        kind="rotation",
        num_reviews=len(reviews),
        epoch=reviews[-1].epoch,
        step=reviews[-1].step,
        what="partition",
        before=num_rotations,
        after=num_rotations + 1,
        trigger="plateau",
        why=_tell_plateau(progress),
        expected="the validation loss falls below its level, as there is something new to learn",
        num_judged=rules.num_judged,
    )


def _finalize(reviews: Sequence[Review], past: Sequence[Adaptation], progress: Progress, length: int) -> Adaptation:
    steps = [0, *(each.step for each in reviews)]
    return Adaptation(
        name=name_adaptation("finalization", past),
        kind="finalization",
        num_reviews=len(reviews),
        epoch=reviews[-1].epoch,
        step=reviews[-1].step,
        what="rate_factor",
        before=find_rate_factor(past),
        after=0.0,
        trigger="plateau",
        why=_tell_plateau(progress),
        expected="from the best weights, the validation loss falls below its best as the learning rate falls",
        num_judged=length,
        num_steps=max(length * (steps[-1] - steps[-2]), 1),
    )


def _resume(reviews: Sequence[Review], past: Sequence[Adaptation], final: Adaptation) -> Adaptation:
    return Adaptation(
        name=name_adaptation("resumption", past),
        kind="resumption",
        num_reviews=len(reviews),
        epoch=reviews[-1].epoch,
        step=reviews[-1].step,
        what="rate_factor",
        before=final.after,
        after=find_rate_factor(past),
        trigger="signal",
        why="no-stop was signalled",
        expected="training goes on with the learning rate of the schedule",
    )


def _tell_plateau(progress: Progress) -> str:
    return f"the validation loss has not improved for {progress.num_stale} reviews"
