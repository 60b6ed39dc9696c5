"""What is done about representations that die: told from the reviews and from what was done, and from nothing else.

`nudge`: a loss weight is moved by a factor. `restoration`: the model is set back to before the collapse. `renewal`: a
dead column is initialized anew. `recovery`: it is declared, and nothing is changed. `relaxation`: the loss weight that
was raised is lowered a little. `exhaustion`: nothing is left to be tried. Beside these, `request`: the loop itself has
moved a knob.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, nan

from trimtab.control.course import Adaptation, name_adaptation
from trimtab.control.knobs import NUDGE_REVIEWS
from trimtab.control.remedies import BETTER, DEAD, DIVERSITY, RANK, RECALL, RULES, SPREAD, Rule
from trimtab.control.review import Review

FLOOR = 0.05
"""A weight that is to be raised begins at least here: no factor lifts 0, or 0.01 within a run."""

MOST, MOST_TIMES = 1.0, 4.0
"""A weight is not raised above 1, or four times what it was as the run began: far above, it is the only loss. What is
lowered is not lowered below a quarter of it."""

TEMPERATURE, HOT, COOL = "temperature", 1.0, 0.2
"""The temperature of the contrastive loss: one above 1, of cosines from -1 to 1, minds no row more than another (Wang
and Liu, arXiv 2012.09740), and counts as 1; it is not lowered below 0.2, as a low one is a trouble of its own."""

MOST_RAISES = 4
"""Reviews in a row at which weights are raised before something has to have got better."""

RELAXED = 0.95
"""What the weight of the spread is multiplied by at each review once all is well again."""

KEPT = 0.5
"""The share of the highest weight below which it is not lowered again: what was too little is not gone back to."""

SETTLING = 5
"""Reviews without an alarm within which recall and rank have to come back."""

MOST_RESTORATIONS = 3
"""Restorations in a run; as many renewals of a column."""

RECALLED, RANKED = 0.9, 0.5
"""The shares of recall and of effective rank, as they were before, from which a run has recovered."""

STUCK = 1e-4
"""The diversity below which the tokens of a column do not differ at all: no loss has a gradient that would help."""

SAME = 0.1
"""The spread below which embeddings are all the same, where even an untrained model is above."""

ANSWERS = ("nudge", "restoration", "renewal", "exhaustion")
"""What is done about an alarm: an episode lasts from the first of them to a recovery."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """All that a decision rests on."""

    reviews: Sequence[Review]
    """The reviews with embeddings, the newest the one to answer."""

    past: Sequence[Adaptation]
    """What was done, the oldest first."""

    targets: Mapping[str, float]
    """The knobs, as they will be once what is on its way has arrived."""

    initial: Mapping[str, float]
    """The knobs as the run began."""

    kept: int | None = None
    """The reviews made before the state that can be restored; None where there is none."""

    renewable: Sequence[str] = ()
    """The columns that can be initialized anew."""

    dead: Sequence[str] = field(default_factory=tuple)
    """The columns that are dead."""

    @property
    def alarms(self) -> list[str]:
        """The detectors that found something at the newest review, the gravest first."""
        return [name for name in RULES if name in self.reviews[-1].findings]

    @property
    def episode(self) -> list[Adaptation]:
        """What was done since the last recovery; empty where all is well."""
        ends = [index for index, each in enumerate(self.past) if each.kind == "recovery"]
        since = self.past[ends[-1] + 1 :] if ends else self.past
        return [each for each in since if each.kind in ANSWERS]

    def count(self, kind: str, what: str | None = None) -> int:
        """How often something was done in the run."""
        return sum(each.kind == kind and what in (None, each.what) for each in self.past)


def decide_answer(situation: Situation) -> list[Adaptation]:
    """Decide what the newest review asks for.

    While there is an alarm, weights are raised, or lowered where less is more, at each review; after `MOST_RAISES` of
    these without any improvement, the model goes back to before the collapse, with the weights as they are by then.
    Once there is no alarm, recall and rank have to come back too: then a recovery is declared. A model that was spread
    again and still tells no rows apart goes back as well.

    Args:
        situation: what is known.

    Returns:
        What is to be done now, in order; empty for nothing, as at every review of a healthy run.
    """
    if situation.alarms:
        return _answer_alarm(situation)
    if situation.episode:
        return _settle(situation)
    return _relax(situation)


def has_recovered(situation: Situation) -> bool:
    """True if recall and effective rank are what they were before the episode, nearly."""
    first = situation.episode[0].num_reviews
    calm = [each for each in situation.reviews[: first - 1] if is_sound(each)]
    if not calm:
        return True
    before, now = max(calm, key=_rate), situation.reviews[-1]
    shares = [(RECALL, RECALLED), (RANK, RANKED)]
    return all(not now.metrics.get(name, nan) < share * before.metrics.get(name, nan) for name, share in shares)


def is_sound(review: Review) -> bool:
    """True of a review without an alarm at which embeddings were apart; muted in warm-up, they may be all the same."""
    return not set(RULES) & set(review.findings) and not review.metrics.get(SPREAD, nan) < SAME


def _rate(review: Review) -> float:
    """By which of several reviews are compared: recall, or rank where it was not measured."""
    value = review.metrics.get(RECALL, review.metrics.get(RANK, nan))
    return value if isfinite(value) else -1.0


def _answer_alarm(situation: Situation) -> list[Adaptation]:
    leading = RULES[situation.alarms[0]]
    if situation.alarms[0] == DEAD and situation.reviews[-1].metrics.get(DIVERSITY, nan) < STUCK:
        return _escalate(situation)
    if _count_stale(situation, leading) < MOST_RAISES:
        return _nudge(situation)
    return _escalate(situation)


def _find_mark(situation: Situation) -> int:
    """The reviews made before the model was last set back, made anew in part, or had recovered; 0 for never."""
    marks = [each.num_reviews for each in situation.past if each.kind in ("restoration", "renewal", "recovery")]
    return max(marks, default=0)


def _count_stale(situation: Situation, rule: Rule) -> int:
    """The reviews with an alarm since the mark, or since something has got better, but for the first of them."""
    since = [each for each in situation.reviews[_find_mark(situation) :] if set(RULES) & set(each.findings)]
    counted: list[Review] = []
    for each in since:
        if counted and rule.has_improved(counted[0], each):
            counted = []
        counted.append(each)
    return len(counted) - 1


def _list_rounds(situation: Situation) -> list[int]:
    """The reviews at which weights were moved since the mark."""
    nudges = {each.num_reviews for each in situation.episode if each.kind == "nudge"}
    return sorted(each for each in nudges if each > _find_mark(situation))


def _nudge(situation: Situation) -> list[Adaptation]:
    """A nudge of each knob that an alarm asks to be moved; of several factors the furthest from 1."""
    asked: dict[str, tuple[str, float]] = {}
    for alarm in situation.alarms:
        for knob, factor in RULES[alarm].factors.items():
            if knob in situation.targets and _reach(factor) > _reach(asked.get(knob, ("", 1.0))[1]):
                asked[knob] = alarm, factor
    made: list[Adaptation] = []
    for knob, (alarm, factor) in asked.items():
        before = situation.targets[knob]
        began = situation.initial.get(knob, before)
        after = before * factor
        if factor > 1:
            most = max(MOST, MOST_TIMES * began, before)
            after = min(max(before, FLOOR) * factor, most)
        elif knob == TEMPERATURE:
            after = max(min(before, HOT) * factor, min(before, COOL))
        else:
            after = max(after, min(before, began / MOST_TIMES))
        if after == before:
            continue
        why = f"{alarm} at review {len(situation.reviews)}"
        expected = f"{RULES[alarm].metric} {'falls' if RULES[alarm].is_falling else 'rises'} within a few reviews"
        made.append(_make(situation, made, "nudge", knob, before, after, alarm, why, expected, NUDGE_REVIEWS))
    return made


def _reach(factor: float) -> float:
    return max(factor, 1 / factor)


def _escalate(situation: Situation) -> list[Adaptation]:
    """What is done where weights alone do not help."""
    trigger = situation.alarms[0] if situation.alarms else "outcome"
    columns = [each for each in situation.dead if each in situation.renewable]
    columns = [each for each in columns if situation.count("renewal", each) < MOST_RESTORATIONS]
    made: list[Adaptation] = []
    if trigger == DEAD and columns:
        for each in columns:
            why = f"its tokens are the same after {MOST_RAISES} raises of weights"
            expected = "its tokens differ where its values do"
            made.append(_make(situation, made, "renewal", each, 0.0, 1.0, trigger, why, expected, NUDGE_REVIEWS))
        return made
    num_restored = situation.count("restoration")
    is_other = bool(_list_rounds(situation)) or not num_restored  # from there it would go as it went
    if situation.kept is not None and is_other and num_restored < MOST_RESTORATIONS:
        now, then = len(situation.reviews), situation.kept
        why = f"{trigger if situation.alarms else 'recall or rank'} has not got better by weights alone"
        expected = "what was learned before is kept, now that the weights are others"
        return [_make(situation, made, "restoration", "weights", now, then, trigger, why, expected, NUDGE_REVIEWS)]
    if any(each.kind == "exhaustion" for each in situation.episode):
        return []
    why = f"{trigger} is still there after {num_restored} restorations"
    return [_make(situation, made, "exhaustion", "weights", 0.0, 0.0, trigger, why, "nothing; the run goes on", 0)]


def _is_worth_restoring(situation: Situation) -> bool:
    """True if the state to go back to is worth more than the one at hand: by recall, or by rank without one."""
    then, now = situation.reviews[(situation.kept or 0) - 1], situation.reviews[-1]
    return not _rate(now) > _rate(then)


def _settle(situation: Situation) -> list[Adaptation]:
    """Declare a recovery, wait for it, or go back where it does not come."""
    now = len(situation.reviews)
    if has_recovered(situation):
        why = "there is no alarm any more, and recall and rank are back"
        return [_make(situation, [], "recovery", "weights", 0.0, 0.0, "outcome", why, "nothing; it is declared", 0)]
    since = max(each.num_reviews for each in situation.episode)
    is_rising = now > SETTLING and _rate(situation.reviews[-1]) >= BETTER * _rate(situation.reviews[-1 - SETTLING])
    if now - since < SETTLING or is_rising or situation.kept is None or not _is_worth_restoring(situation):
        return []
    return _escalate(situation)


def _relax(situation: Situation) -> list[Adaptation]:
    """Lower the weight of the spread a little, where it was raised."""
    raised = [each.after for each in situation.past if each.kind == "nudge" and each.what == "spread"]
    if not raised:
        return []
    before = situation.targets["spread"]
    least = max(situation.initial.get("spread", before), KEPT * max(raised))
    after = max(before * RELAXED, least)
    if not after < before:
        return []
    why, expected = "all is well again", "the other losses count for more, and nothing gets worse"
    return [_make(situation, [], "relaxation", "spread", before, after, "outcome", why, expected, NUDGE_REVIEWS)]


def _make(
    situation: Situation,
    beside: Sequence[Adaptation],
    kind: str,
    what: str,
    before: float,
    after: float,
    trigger: str,
    why: str,
    expected: str,
    num_judged: int,
) -> Adaptation:
    newest = situation.reviews[-1]
    name = name_adaptation(kind, [*situation.past, *beside])
    numbers = len(situation.reviews), newest.epoch, newest.step
    return Adaptation(name, kind, *numbers, what, before, after, trigger, why, expected, num_judged)
