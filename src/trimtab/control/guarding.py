"""The guard of representations: moves loss weights by what the reviews say, and goes back where that does not help."""

from __future__ import annotations

import logging
from collections.abc import Mapping, MutableMapping
from dataclasses import asdict
from math import isfinite
from typing import Any

from torch import nn

from trimtab.control.course import Adaptation, name_adaptation
from trimtab.control.knobs import NUDGE_REVIEWS, Knobs
from trimtab.control.outcomes import Outcome, judge_adaptation
from trimtab.control.remedies import RECALL, SPREAD
from trimtab.control.representation import Situation, decide_answer, is_sound
from trimtab.control.review import Review
from trimtab.detectors.dead_columns import list_dead
from trimtab.detectors.representing import name_zone
from trimtab.errors import InputError
from trimtab.state.live import Snapshot
from trimtab.supervisor import Supervisor
from trimtab.types import Record

NOTABLE = 0.1
"""The share of itself by which a knob has to move at a review for the loss to be another one."""

logger = logging.getLogger("trimtab")


class RepresentationGuard:
    """Keeps the representations of a run alive: made once, beside the supervisor, it acts at every review.

        weights = {"joint": 1.0, "spread": 0.3}           # what the loss reads at every step
        guard = RepresentationGuard(supervisor, weights)
        for epoch in range(epochs):
            …
            supervisor.review(embeddings=model(sample), views=model(other_view))

    It answers what the detectors of representations find, and nothing else: a policy without them has no guard. The
    knobs it knows are `spread`, `diversity`, `diversity_temperature`, `marginal`, `temperature`, `centring` and
    `coverage`; a weight of 0 will do, it is raised from 0.05 up. All that it does is an event of the run, and so is its
    measured effect.

    Args:
        supervisor: the supervisor whose reviews it answers.
        weights: the loss weights, and whatever else of the loss can be changed while it is read.
        columns: the part of the model that encodes a column, by the column's name, to be initialized anew when the
            column is dead and nothing else helps.

    Raises:
        InputError: if the weights are none, or a column is no module that can be initialized anew.

    Attributes:
        made: what was done, the oldest first.
        outcomes: what was measured of it.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        weights: MutableMapping[str, float],
        *,
        columns: Mapping[str, nn.Module] | None = None,
    ) -> None:
        self._supervisor = supervisor
        self._knobs = Knobs(weights)
        if columns is not None and not isinstance(columns, Mapping):
            raise InputError(
                f"guard: columns is a {type(columns).__name__!r}; it has to be a dict of modules by column"
            )
        self._columns = dict(columns or {})
        for name, module in self._columns.items():
            _require_renewable(name, module)
        self._initial = self._knobs.values
        self._reviews: list[Review] = []
        self._kept: Snapshot | None = None
        self._num_kept = 0
        self.made: list[Adaptation] = []
        self.outcomes: list[Outcome] = []
        supervisor.follow(self)

    def follow(self, record: Record) -> None:
        """Do what a review asks for; a supervisor calls it."""
        values = record.measurement.values
        metrics = {name: each for name, each in values.items() if isinstance(each, float)}
        if not isfinite(metrics.get(SPREAD, float("nan"))):
            return
        found = tuple(dict.fromkeys(each.detector for each in record.decision.findings))
        self._reviews.append(Review(len(self._reviews) + 1, record.measurement.step, metrics, findings=found))
        if self._kept is None:
            self._keep()
        self._judge()
        situation = self._describe(found)
        answers = decide_answer(situation)
        for each in answers:
            self._make(each)
        before = self._knobs.values
        if self._knobs.advance():
            self._tell("weights", zone=name_zone(metrics), **self._knobs.values)
        if any(each.kind == "restoration" for each in answers) or _is_another_loss(before, self._knobs.values):
            self._supervisor.declare_loss_change()
        if not situation.alarms and not situation.episode and self._is_best():
            self._keep()

    def nudge(self, knob: str, target: float, why: str, num_reviews: int = NUDGE_REVIEWS) -> None:
        """Move a knob of your own the same way: slowly, as an event whose effect is measured.

        It moves at each review from the next one on. What the guard itself decides is not held up by it.

        Args:
            knob: its name in `weights`, which the guard need not know.
            target: where to.
            why: why, for the run folder.
            num_reviews: the reviews it takes.

        Raises:
            InputError: if there is no such knob, the target is not finite, it takes too few reviews, or there was no
                review yet to hold its effect against.
        """
        if not self._reviews:
            raise InputError(f"guard: {knob} cannot move before the first review, which its effect is held against")
        before, newest = self._knobs.targets.get(knob, target), self._reviews[-1]
        self._knobs.nudge(knob, target, num_reviews)
        self._record(
            Adaptation(
                name_adaptation("request", self.made),
                "request",
                len(self._reviews),
                newest.epoch,
                self._supervisor.step,
                knob,
                before,
                target,
                "loop",
                why,
                "what the loop is after",
                num_reviews,
            )
        )

    def finalize(self, targets: Mapping[str, float], *, is_over: bool = False) -> None:
        """Move knobs to where a finalization wants them, or back to where they began where it is given up.

        Args:
            targets: where to, by the knob's name; those that `weights` lacks are passed over.
            is_over: True to move them back.
        """
        why = "the finalization is given up" if is_over else "the run is finalized"
        for knob, target in targets.items():
            if self._reviews and knob in self._initial:
                self.nudge(knob, self._initial[knob] if is_over else float(target), why)

    def complete(self) -> None:
        """Measure the effects of what was done last, at the end of a run."""
        self._judge(is_over=True)

    def state_dict(self) -> dict[str, Any]:
        """All that is remembered but the state to go back to, which the next healthy review keeps again."""
        return {
            "reviews": [
                {"epoch": each.epoch, "step": each.step, "metrics": dict(each.metrics), "findings": list(each.findings)}
                for each in self._reviews
            ],
            "made": [asdict(each) for each in self.made],
            "outcomes": [asdict(each) for each in self.outcomes],
            "knobs": self._knobs.state_dict(),
            "initial": dict(self._initial),
        }

    def load_state_dict(self, state_dict: Any) -> None:
        """Take over what was remembered; weights are set in the mapping that the loss reads."""
        self._reviews = [Review(**{**each, "findings": tuple(each["findings"])}) for each in state_dict["reviews"]]
        self.made = [Adaptation(**each) for each in state_dict["made"]]
        self.outcomes = [Outcome(**each) for each in state_dict["outcomes"]]
        self._knobs.load_state_dict(state_dict["knobs"])
        self._initial = dict(state_dict["initial"])
        self._kept = None

    def _describe(self, found: tuple[str, ...]) -> Situation:
        dead = self._supervisor.policy.plans.get("dead-columns")
        settings = {"limit": 0.01, "samples": 2, **(dead.settings if dead is not None else {})}
        is_dead = "dead-columns" in found
        return Situation(
            reviews=self._reviews,
            past=self.made,
            targets=self._knobs.targets,
            initial=self._initial,
            kept=None if self._kept is None else self._num_kept,
            renewable=tuple(self._columns),
            dead=tuple(list_dead(self._supervisor.reviews, **settings)) if is_dead else (),
        )

    def _make(self, adaptation: Adaptation) -> None:
        if adaptation.kind in ("nudge", "relaxation"):
            self._knobs.nudge(adaptation.what, adaptation.after)
        if adaptation.kind == "renewal":
            self._supervisor.renew(self._columns[adaptation.what])
        if adaptation.kind == "restoration" and self._kept is not None:
            self._supervisor.return_to(self._kept)
        self._record(adaptation)

    def _record(self, adaptation: Adaptation) -> None:
        self.made.append(adaptation)
        logger.info(
            "review %d: %s: %s %.4g → %.4g: %s",
            adaptation.num_reviews,
            adaptation.name,
            adaptation.what,
            adaptation.before,
            adaptation.after,
            adaptation.why,
        )
        self._tell("adaptation", **{name: each for name, each in adaptation.to_event().items() if name != "step"})

    def _judge(self, *, is_over: bool = False) -> None:
        """Tell of every effect that can be measured now, once."""
        judged = {each.of for each in self.outcomes}
        metric = RECALL if all(RECALL in each.metrics for each in self._reviews) else SPREAD
        for each in self.made:
            if each.name in judged:
                continue
            outcome = judge_adaptation(each, self._reviews, is_over=is_over, metric=metric, is_higher_better=True)
            if outcome is not None:
                self.outcomes.append(outcome)
                logger.info("%s", outcome.message)
                self._tell("outcome", **outcome.to_event())

    def _is_best(self) -> bool:
        """True if no healthy review had a higher recall; of a run without recall, at every healthy one."""
        calm = [each for each in self._reviews if is_sound(each)]
        recalls = [each.metrics.get(RECALL, 0.0) for each in calm]
        return bool(recalls) and recalls[-1] >= max(recalls)

    def _keep(self) -> None:
        """Keep the state at hand, unless there is something wrong with it: nobody would go back to that."""
        if is_sound(self._reviews[-1]):
            self._kept = self._supervisor.keep_state()
            self._num_kept = len(self._reviews)

    def _tell(self, event: str, **fields: Any) -> None:
        self._supervisor.tell_event(event, **fields)


def _is_another_loss(before: Mapping[str, float], now: Mapping[str, float]) -> bool:
    return any(abs(now[name] - each) > NOTABLE * abs(each) for name, each in before.items())


def _require_renewable(name: str, module: Any) -> None:
    if not isinstance(module, nn.Module):
        raise InputError(f"guard: the column {name!r} is a {type(module).__name__!r}; it has to be a Module")
    for each in module.modules():
        if list(each.parameters(recurse=False)) and not callable(getattr(each, "reset_parameters", None)):
            raise InputError(
                f"guard: the column {name!r} cannot be initialized anew: its {type(each).__name__} has parameters and "
                "no method reset_parameters(), as nn.Linear has; give it one"
            )
