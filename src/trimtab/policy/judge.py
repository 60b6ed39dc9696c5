"""Judging by a policy: what is remembered for it, and the one way from a measurement to a decision."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.detectors import detect, detectors
from trimtab.detectors.innovation import METRIC, can_judge
from trimtab.errors import InputError
from trimtab.history import History
from trimtab.journal import parse_decision, to_fields
from trimtab.policy.decision import decide
from trimtab.policy.table import LEDGER_CAPACITY, Policy
from trimtab.types import LEVEL_STEP, Decision, Finding, Measurement, Record


class Judge:
    """Judges measurements by a policy, live or from a log, from the two histories and the ledger.

    Args:
        policy: the policy.
        groups: the names of the parameter groups.

    Attributes:
        policy: the policy.
        steps: the newest measurements of steps.
        reviews: the newest measurements of reviews.
        ledger: the newest decisions that had findings.
    """

    def __init__(self, policy: Policy, groups: Sequence[str] = ()) -> None:
        self.policy = policy
        self._settings = policy.settings
        self._judges_probe = any(detectors[name].needs == METRIC for name in policy.plans)
        self.steps = History(groups)
        self.reviews = History()
        self.ledger: deque[Decision] = deque(maxlen=LEDGER_CAPACITY)

    def remember(self, record: Record) -> None:
        """Take a record that was judged before."""
        self._begin_level(record.measurement)
        self._history_of(record.measurement).append(record.measurement)
        self.settle(record)

    def judge(self, measurement: Measurement) -> Decision:
        """Remember a measurement, and decide on it; `settle` has to follow."""
        history = self._history_of(measurement)
        self._begin_level(measurement)
        history.append(measurement)
        findings = detect(history, self._settings)
        return decide(
            findings,
            self.ledger,
            self.policy,
            step=measurement.step,
            clock=measurement.clock,
            is_state_sound=self._is_state_sound(measurement, findings),
            is_batch_known=bool(findings) and self._is_batch_known(measurement),
        )

    def would_proceed(self, measurement: Measurement) -> bool:
        """True if a loss seen before backward can be left to the step's own judgement; nothing is remembered.

        That is, it is finite, or the policy lets it pass.
        """
        if all(math.isfinite(value) for value in measurement.values.values() if isinstance(value, float)):
            return True
        alone = History()
        alone.append(measurement)
        return decide(detect(alone, self._settings), self.ledger, self.policy, step=measurement.step).proceed

    def settle(self, record: Record) -> bool:
        """Remember what became of the newest measurement.

        Returns:
            True if the level is re-based: so many rejected rows in a row are the samples now.
        """
        is_rebased = self._history_of(record.measurement).close(record.is_sample)
        if record.action.restored_step is not None:
            self.steps.abandon(record.action.restored_step)
        if record.decision.findings:
            self.ledger.append(record.decision)
        return is_rebased

    def state_dict(self) -> dict[str, Any]:
        """All that it remembers, as numbers, text and arrays."""
        return {
            "history": self.steps.state_dict(),
            "reviews": self.reviews.state_dict(),
            "ledger": [to_fields(decision) for decision in self.ledger],
        }

    def require_fit(self, state: Mapping[str, Any]) -> None:
        """See that a state is one of a run with these parameter groups.

        Raises:
            InputError: if it is not.
        """
        if not {"step", "history", "reviews", "ledger", "adjustments", "suspects"} <= state.keys():
            raise InputError("supervisor: the state is none of a supervisor's; pass what state_dict() returned")
        groups = state["history"]["groups"]
        if tuple(groups) != self.steps.groups:
            raise InputError(
                f"supervisor: the state is of a run with the groups {', '.join(groups)}; "
                f"this one has {', '.join(self.steps.groups)}; build it with the same groups="
            )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what another one with these parameter groups remembered."""
        self.steps.load_state_dict(state["history"])
        self.reviews.load_state_dict(state["reviews"])
        self.ledger = deque(map(parse_decision, state["ledger"]), maxlen=LEDGER_CAPACITY)

    def _begin_level(self, measurement: Measurement) -> None:
        """Let no row be a sample that was measured of a loss, or of weights, that were changed on purpose since."""
        kept = measurement.values.get(LEVEL_STEP)
        if isinstance(kept, float):
            self.steps.abandon(int(kept))

    def _is_state_sound(self, measurement: Measurement, findings: Sequence[Finding]) -> bool:
        """True if the probe has measured the state at this step, and it was judged, and nothing was found in it."""
        is_measured = METRIC in measurement.values and not any(each.in_state for each in findings)
        return is_measured and self._judges_probe and can_judge(self.steps)

    def _is_batch_known(self, measurement: Measurement) -> bool:
        """True if a batch with the same fingerprint was found bad at an earlier step, and not the state with it."""
        fingerprint = measurement.values.get("batch_fingerprint")
        if not isinstance(fingerprint, float) or not math.isfinite(fingerprint):
            return False
        steps = set(self.steps.steps[self.steps.column("batch_fingerprint") == fingerprint].tolist())
        return any(
            each.step in steps and not each.proceed and not any(finding.in_state for finding in each.findings)
            for each in self.ledger
        )

    def _history_of(self, measurement: Measurement) -> History:
        return self.steps if measurement.clock == "step" else self.reviews
