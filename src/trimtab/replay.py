"""A recorded run through detectors and a policy again."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from trimtab.journal import RunLog, to_fields, to_json
from trimtab.policy import Judge, Policy
from trimtab.types import Action, Decision, Record


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a policy would have decided at a step, beside what was decided there."""

    step: int
    """The step."""

    recorded: Decision | None
    """What was decided when the run took place; None where nothing was found."""

    replayed: Decision | None
    """What the policy decides; None where it finds nothing."""

    @property
    def is_same(self) -> bool:
        """True if both found the same and decided the same, to the last digit."""
        return bool(to_json(to_fields(self.recorded)) == to_json(to_fields(self.replayed)))

    @property
    def decides_same(self) -> bool:
        """True if both would have done the same, whatever limit it was found by."""
        both = [each or Decision(self.step) for each in (self.recorded, self.replayed)]
        return both[0].verdict == both[1].verdict and both[0].responses == both[1].responses


def replay_run(log: RunLog, policy: Policy | None = None) -> list[Comparison]:
    """What a policy would have found and decided, for every step or review where it or the run found something.

    With the policy the run had, the recorded measurements and actions alone reproduce the decisions. With another
    one, what follows the first differing decision is a guess: the measurements are those of the run as it went.

    Args:
        log: the run.
        policy: the policy to judge by; None for the run's own.
    """
    policy = Policy.from_dict(log.manifest["policy"]) if policy is None else policy
    recorded = {key: decision for key, (decision, _) in log.records.items()}
    replayed = {(decision.step, decision.clock): decision for decision in _decide_again(log, policy)}
    keys = sorted(recorded.keys() | replayed.keys())
    return [Comparison(key[0], recorded.get(key), replayed.get(key)) for key in keys]


def _decide_again(log: RunLog, policy: Policy) -> Iterator[Decision]:
    resumed_at = {event["step"] for event in log.events if event["event"] == "resumed"}
    decided = deque(log.decided)
    settled: list[Record] = []
    judge = Judge(policy, log.manifest["groups"])
    for measurement in log.measurements:
        step, clock = measurement.step, measurement.clock
        if settled and step < settled[-1].measurement.step + (clock == "step"):
            kept = step - 1 if step - 1 in resumed_at else 0
            settled = [each for each in settled if each.measurement.step <= kept]
            judge = Judge(policy, log.manifest["groups"])
            for each in settled:
                judge.remember(each)
        decision = judge.judge(measurement)
        action = Action(step, decision.verdict)
        if decided and (decided[0][0].step, decided[0][0].clock) == (step, clock):
            was_decided, was_done = decided.popleft()
            action = was_done if was_decided.verdict == decision.verdict else action
        settled.append(Record(measurement, decision, action))
        judge.settle(settled[-1])
        if decision.findings:
            yield decision
