"""Pacing: bounded changes of the learning rate on top of the schedule, told from the reviews alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from trimtab.control.course import (
    DEFAULT_PATIENCE,
    Adaptation,
    Rules,
    find_finalization,
    find_rate_factor,
    measure_progress,
    name_adaptation,
)
from trimtab.control.outcomes import Outcome
from trimtab.control.review import Review

COOLED, RAISED = 0.5, 1.25
"""What the learning rate is multiplied by on a plateau, and where there is room to push."""

LEAST_FACTOR, MOST_FACTOR = 0.25, 2.0
"""The bounds of all changes together, on top of the schedule."""

LEAST_STALE = 3
"""Reviews without an improvement that are a plateau at least, or as many as there is patience."""

MOST_RETURNS = 2
"""Changes of a kind that may be given back before it is not tried again."""

STEADY = 0.9
"""The share of the fall before that a fall has to have to be as steady as one with room to push."""

CLEAR = 0.02
"""The share of its level that a validation loss has to have fallen by, for the same."""


def decide_return(
    reviews: Sequence[Review], past: Sequence[Adaptation], outcomes: Sequence[Outcome]
) -> Adaptation | None:
    """Give a change of the learning rate back that did not help, once its effect is measured.

    Args:
        reviews: all reviews.
        past: the adaptations made, the oldest first.
        outcomes: what was measured of them.
    """
    newest = next((each for each in reversed(past) if each.kind in ("cool", "raise", "return")), None)
    if newest is None or newest.kind == "return" or find_finalization(past) is not None:
        return None
    outcome = next((each for each in outcomes if each.of == newest.name), None)
    if outcome is None or outcome.verdict == "helped":
        return None
    return Adaptation(
        name=name_adaptation("return", past),
        kind="return",
        num_reviews=len(reviews),
        epoch=reviews[-1].epoch,
        step=reviews[-1].step,
        what="rate_factor",
        before=newest.after,
        after=newest.before,
        trigger="outcome",
        why=outcome.message,
        expected=f"what {newest.name} did is undone",
    )


def decide_rate(
    reviews: Sequence[Review], past: Sequence[Adaptation], outcomes: Sequence[Outcome], rules: Rules
) -> Adaptation | None:
    """Cool on a plateau, or raise where the loss falls so steadily that there is room to push.

    One change is judged before the next is made, so that what follows is due to it. On a plateau the learning rate is
    cooled once, at half the patience, so that it is judged before the run has stalled.

    Args:
        reviews: all reviews.
        past: the adaptations made, the oldest first.
        outcomes: what was measured of them.
        rules: what the run was asked for.
    """
    if not rules.is_adaptive or not reviews or find_finalization(past) is not None or _is_warming_up(reviews):
        return None
    judged = {each.of for each in outcomes}
    if any(each.num_judged and each.name not in judged for each in past):
        return None
    factor = find_rate_factor(past)
    num_stale = measure_progress(reviews, past, rules).num_stale
    patience = rules.patience or DEFAULT_PATIENCE
    is_flat = num_stale >= max(patience // 2, min(LEAST_STALE, patience))
    if is_flat and factor * COOLED >= LEAST_FACTOR and _may_try("cool", reviews, past, num_stale):
        why = f"the validation loss has not improved for {num_stale} reviews"
        expected = "the validation loss falls below its level, as smaller updates go further down"
        return _change("cool", factor * COOLED, "plateau", why, expected, reviews, past, rules)
    fall = find_room(reviews, rules.num_judged)
    if fall is not None and factor * RAISED <= MOST_FACTOR and _may_try("raise", reviews, past, 0):
        why = (
            f"the validation loss fell by {fall:.2%} of its level in {rules.num_judged} reviews, as steadily as before"
        )
        expected = "the validation loss falls faster than by its trend"
        return _change("raise", factor * RAISED, "room", why, expected, reviews, past, rules)
    return None


def find_room(reviews: Sequence[Review], num: int) -> float | None:
    """How far the loss fell, as a share of its level, if that shows room to push; else None.

    It does if each of the newest reviews was better than the one before, and the fall is as large as the one before.

    Args:
        reviews: all reviews.
        num: reviews of one fall; twice as many are looked at.
    """
    scores = [each.score for each in reviews[-2 * num - 1 :]]
    if len(scores) < 2 * num + 1 or any(not later < before for before, later in pairwise(scores)):
        return None
    fall_before, fall = scores[0] - scores[num], scores[num] - scores[-1]
    level = abs(scores[-1])
    is_steady = fall >= STEADY * fall_before and fall >= CLEAR * level
    return fall / level if is_steady and level > 0 else None


def _may_try(kind: str, reviews: Sequence[Review], past: Sequence[Adaptation], num_stale: int) -> bool:
    """True if a kind was not given back too often, and was not tried on this very plateau."""
    changes = [each for each in past if each.kind in ("cool", "raise", "return")]
    num_returned = sum(before.kind == kind and after.kind == "return" for before, after in pairwise(changes))
    is_tried = any(each.kind == kind and each.num_reviews > len(reviews) - num_stale for each in past)
    return num_returned < MOST_RETURNS and not is_tried


def _is_warming_up(reviews: Sequence[Review]) -> bool:
    rates = [each.metrics.get("learning_rate", 0.0) for each in reviews[-2:]]
    return len(rates) < 2 or rates[1] > rates[0]


def _change(
    kind: str,
    factor: float,
    trigger: str,
    why: str,
    expected: str,
    reviews: Sequence[Review],
    past: Sequence[Adaptation],
    rules: Rules,
) -> Adaptation:
    return Adaptation(
        name=name_adaptation(kind, past),
        kind=kind,
        num_reviews=len(reviews),
        epoch=reviews[-1].epoch,
        step=reviews[-1].step,
        what="rate_factor",
        before=find_rate_factor(past),
        after=factor,
        trigger=trigger,
        why=why,
        expected=expected,
        num_judged=rules.num_judged,
    )
