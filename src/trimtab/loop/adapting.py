"""What `fit` changes between two epochs, tells of, and measures the effect of."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from trimtab.control.course import (
    Adaptation,
    Rules,
    decide_course,
    explain_stop,
    find_finalization,
    find_rate_factor,
)
from trimtab.control.guarding import RepresentationGuard
from trimtab.control.outcomes import Outcome, judge_adaptation
from trimtab.control.pacing import decide_rate, decide_return
from trimtab.control.rate import ramp_down
from trimtab.loop.data import TrainingData
from trimtab.loop.reviews import Criterion, Reviews
from trimtab.supervisor import Supervisor

logger = logging.getLogger("trimtab")


class Adapting:
    """Carries out what the course of a run asks for.

    Args:
        rules: what the run was asked for.
        reviews: its reviews, with the weights of the best.
        data: its training data.
        supervisor: told of everything.
        by: which weights a finalization begins with.
        guard: moves the weights of the loss; None for none.
        final_weights: the weights of the loss that a finalization goes to, by name.

    Attributes:
        made: the adaptations, the oldest first.
        outcomes: what was measured of them.
        may_stop: False once stopping is ruled out.
    """

    def __init__(
        self,
        rules: Rules,
        reviews: Reviews,
        data: TrainingData,
        supervisor: Supervisor,
        by: Criterion,
        guard: RepresentationGuard | None = None,
        final_weights: Mapping[str, float] | None = None,
    ) -> None:
        self._rules, self._reviews, self._data, self._supervisor = rules, reviews, data, supervisor
        self._by: Criterion = by
        self._guard, self._final_weights = guard, dict(final_weights or {})
        self.may_stop = True
        self.made: list[Adaptation] = []
        self.outcomes: list[Outcome] = []

    @property
    def is_finalizing(self) -> bool:
        """True while a finalization is under way."""
        return find_finalization(self.made) is not None

    def find_factor(self, num_steps: int) -> float:
        """What the learning rate of the schedule is multiplied by at a step.

        Args:
            num_steps: the steps of the run that are made.
        """
        factor, final = find_rate_factor(self.made), find_finalization(self.made)
        return factor if final is None else factor * ramp_down(num_steps - final.step, final.num_steps)

    def adapt(self) -> None:
        """Measure what was done, and do what is asked for now; call it before an epoch begins, as often as you like."""
        reviews = self._reviews.made
        self._judge(is_over=False)
        if not reviews or any(each.num_reviews == len(reviews) for each in self.made):
            return
        course = decide_course(reviews, self.made, self._rules, may_stop=self.may_stop)
        if course is not None:
            self._judge(is_over=True)  # its own effect is not to be theirs
        returned = decide_return(reviews, self.made, self.outcomes)
        if returned is not None:
            self._make(returned)
        if course is not None:
            self._make(course)
        elif returned is None:
            paced = decide_rate(reviews, self.made, self.outcomes, self._rules)
            if paced is not None:
                self._make(paced)

    def explain_stop(self) -> str | None:
        """Why the run is to be stopped now; None if it is to go on."""
        return explain_stop(self._reviews.made, self.made, self._rules, may_stop=self.may_stop)

    def complete(self) -> None:
        """Measure what there is, at the end of a run."""
        self._judge(is_over=True)

    def state_dict(self) -> dict[str, Any]:
        """All that is remembered."""
        return {
            "made": [asdict(each) for each in self.made],
            "outcomes": [asdict(each) for each in self.outcomes],
            "may_stop": self.may_stop,
        }

    def load_state_dict(self, state: Mapping[str, Any], num_steps: int) -> None:
        """Take over what was remembered.

        Args:
            state: a `state_dict`.
            num_steps: the steps of the run that are made.
        """
        self.made = [Adaptation(**each) for each in state["made"]]
        self.outcomes = [Outcome(**each) for each in state["outcomes"]]
        self.may_stop = state["may_stop"]
        if self.made and self.made[-1].kind == "rotation" and self.made[-1].step == num_steps:
            self._supervisor.declare_data_change()  # no step was made since

    def _judge(self, *, is_over: bool) -> None:
        """Tell of every outcome that can be measured now, once."""
        judged = {each.of for each in self.outcomes}
        for each in self.made:
            if each.name in judged:
                continue
            outcome = judge_adaptation(each, self._reviews.made, min_delta=self._rules.min_delta, is_over=is_over)
            if outcome is not None:
                self.outcomes.append(outcome)
                logger.info("%s", outcome.message)
                self._supervisor.tell_event("outcome", **outcome.to_event())

    def _make(self, adaptation: Adaptation) -> None:
        if adaptation.kind == "rotation":
            self._data.rotate(int(adaptation.after))
            self._supervisor.declare_data_change()
        if adaptation.kind == "finalization":
            best = self._reviews.restore_best(self._by)
            if best is None:
                adaptation = replace(adaptation, expected=adaptation.expected.replace("from the best weights, ", ""))
            else:
                self._supervisor.trust_state(best.step)
                adaptation = replace(adaptation, why=f"{adaptation.why}; the best weights are of epoch {best.epoch}")
        self.made.append(adaptation)
        logger.info("epoch %d: %s: %s", adaptation.epoch, adaptation.name, adaptation.why)
        self._supervisor.tell_event("adaptation", **_without_step(adaptation.to_event()))
        if adaptation.kind in ("finalization", "resumption") and self._guard is not None:
            self._guard.finalize(self._final_weights, is_over=adaptation.kind == "resumption")


def _without_step(fields: Mapping[str, Any]) -> dict[str, Any]:
    """An event's fields without what every event has."""
    return {name: value for name, value in fields.items() if name != "step"}
