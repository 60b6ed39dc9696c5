"""A recorded run through detectors and a policy again."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from trimtab.detectors import detect
from trimtab.history import History
from trimtab.journal import RunLog, to_fields, to_json
from trimtab.policy import LEDGER_CAPACITY, Policy, decide
from trimtab.types import Decision


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
    histories = {"step": History(log.manifest["groups"]), "review": History()}
    ledger: deque[Decision] = deque(maxlen=LEDGER_CAPACITY)
    resumed_at = {event["step"] for event in log.events if event["event"] == "resumed"}
    records = log.records
    last_step = 0
    for measurement in log.measurements:
        if measurement.step < last_step + (measurement.clock == "step"):
            kept = measurement.step - 1 if measurement.step - 1 in resumed_at else 0
            for history in histories.values():
                history.rewind(kept)
            ledger = deque((each for each in ledger if each.step <= kept), maxlen=LEDGER_CAPACITY)
        last_step = measurement.step
        history = histories[measurement.clock]
        history.append(measurement)
        findings = detect(history, policy.settings)
        decision = decide(findings, ledger, policy, step=measurement.step, clock=measurement.clock)
        verdict, restored = decision.verdict, None
        was_decided, action = records.get((measurement.step, measurement.clock), (None, None))
        if action is not None and was_decided is not None and was_decided.verdict == verdict:
            verdict, restored = action.verdict, action.restored_step
        history.close(verdict == "proceed")
        if restored is not None:
            histories["step"].abandon(restored)
        if decision.findings:
            ledger.append(decision)
            yield decision
