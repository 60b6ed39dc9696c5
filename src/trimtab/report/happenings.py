"""What happened to a run beside its steps: decisions, plan and epochs, its end; told from its events as they come."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from trimtab.errors import RunFormatError
from trimtab.history import CAPACITY
from trimtab.journal import parse_action, parse_decision
from trimtab.journal.recorder import tell_story
from trimtab.report.standing import Told
from trimtab.types import LEVELLED, Action, Decision

SILENT = ("plan", "epoch", "health", "spectra", "end", "outcome")
"""The events that are shown otherwise, or are no news."""

SEVERITIES = ("critical", "high", "medium", "low")
"""From the gravest on."""

SENTENCES = ("message", "why", "reason", "expected_effect")
"""The fields of an event that say it in a sentence, the best first."""

MOST_REJECTED = 2 * CAPACITY
"""Steps without a sample that are remembered: those of the newest steps are asked for."""


class Happenings:
    """The events of a run, taken as they come.

    Args:
        num_told: how much of it is kept to be told.

    Attributes:
        told: the newest of what happened, in lines.
        counts: how often each verdict but `proceed` was carried out.
        marks: step and verdict of each time, for a curve.
        num_lost: updates lost by it.
        num_steps: the steps the run is to have; None where that is not known.
        num_epochs: the epochs it is to have; None where that is not known.
        halted_because: the reason of a halt; empty without one.
        rejected: the newest steps that are no samples.
    """

    def __init__(self, num_told: int) -> None:
        self.told: deque[Told] = deque(maxlen=num_told)
        self.counts: Counter[str] = Counter()
        self.marks: deque[tuple[int, str]] = deque(maxlen=10_000)
        self.num_lost = 0
        self.num_steps: int | None = None
        self.num_epochs: int | None = None
        self.halted_because = ""
        self.rejected: deque[int] = deque(maxlen=MOST_REJECTED)
        self._phases: dict[int, str] = {}
        self._epochs: dict[int, int] = {}
        self._review_step = 0
        self._is_finalizing = False
        self._end: tuple[int, str] | None = None

    def take(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Take events in their order.

        Raises:
            RunFormatError: if one is none.
        """
        for event in events:
            try:
                self._take(str(event["event"]), event)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise RunFormatError(f"run: its events are damaged: {str(event)[:80]!r} is none") from error

    def note_review(self, step: int) -> None:
        """Note that there was a review at a step."""
        self._review_step = step

    def go_back(self, step: int) -> None:
        """The run goes on from a step: what came after it does not count for where it is."""
        self._end = None
        self._epochs = {epoch: at for epoch, at in self._epochs.items() if at <= step}
        while self.marks and self.marks[-1][0] > step:
            self.marks.pop()

    def find_end(self, step: int) -> str | None:
        """How the run ended, as it said itself; None if it did not, or has gone on since.

        Args:
            step: its newest step.
        """
        if self._end is None or step > self._end[0]:
            return None
        return self._end[1]

    def is_between(self, step: int) -> bool:
        """True between two epochs: one was ended, and the step after it has not come."""
        return self._epoch > 0 and self._epochs[self._epoch] >= step

    @property
    def _epoch(self) -> int:
        """The last epoch that was completed; 0 for none."""
        return max(self._epochs, default=0)

    def find_epoch(self, is_live: bool) -> int | None:
        """The epoch that the run is in, or the last one that it completed; None where that is not known."""
        if self.num_epochs is None and not self._epoch:
            return None
        most = self.num_epochs or self._epoch + 1
        return min(self._epoch + 1, most) if is_live else self._epoch

    def name_phase(self, step: int) -> str:
        """What the run does at its newest step."""
        if self.is_between(step) and self._review_step < self._epochs[self._epoch]:
            return "validation"
        if self._is_finalizing:
            return "finalization"
        return self._phases.get(self._epoch + 1, "")

    def _take(self, name: str, event: Mapping[str, Any]) -> None:
        step = int(event.get("step", 0))
        if name == "decision":
            self._take_decision(parse_decision(event["decision"]), parse_action(event["action"]))
        elif name == "end":
            self._end = step, str(event.get("status", "finished"))
        elif name == "plan":
            self._take_plan(event)
        elif name == "epoch":
            self._epochs[int(event["epoch"])] = step
        elif name == "adaptation" and event.get("kind") in ("finalization", "resumption"):
            self._is_finalizing = event["kind"] == "finalization"
        elif name == "resumed":
            self.go_back(step)
        if name not in (*SILENT, "decision"):
            self._tell(Told(step, name, _tell_event(name, event), since=step))

    def _take_plan(self, event: Mapping[str, Any]) -> None:
        phases, first = event.get("phase", ()), int(event.get("first_epoch", 1))
        self._phases |= {first + index: str(each) for index, each in enumerate(phases)}
        self.num_epochs = first - 1 + len(phases) if phases else self.num_epochs
        self.num_steps = int(event["num_steps"]) if event.get("num_steps") else None

    def _take_decision(self, decision: Decision, action: Action) -> None:
        self.num_lost += action.num_lost
        if action.verdict != "proceed":
            self.counts[action.verdict] += 1
            self.marks.append((decision.step, action.verdict))
        if action.verdict == "halt":
            self.halted_because = decision.reason
        is_rejected = action.verdict != "proceed" or any(each.metric in LEVELLED for each in decision.findings)
        if decision.clock == "step" and is_rejected:
            self.rejected.append(decision.step)
        severity = min((each.severity for each in decision.findings), key=SEVERITIES.index, default=None)
        kind = action.verdict if action.verdict != "proceed" or not decision.findings else "found"
        self._tell(Told(decision.step, kind, tell_story(decision, action), severity, decision.step), decision)

    def _tell(self, told: Told, decision: Decision | None = None) -> None:
        """Keep a line; one of the same kind by the same detectors as that before takes its place and is counted."""
        detectors = () if decision is None else tuple(sorted({each.detector for each in decision.findings}))
        key = (told.kind, detectors) if decision is not None else (told.kind, told.text)
        if self.told and key == self._key:
            before = self.told.pop()
            told = replace(told, since=before.since, num=before.num + 1)
        self._key: tuple[Any, ...] = key
        self.told.append(told)


def _tell_event(name: str, event: Mapping[str, Any]) -> str:
    """An event in a sentence."""
    if name == "diagnosis":
        causes = event.get("causes") or [{}]
        return f"the likely cause is {causes[0].get('cause', 'not known')}"
    if name == "failure":
        return f"Trimtab itself failed and left the step alone: {str(event.get('trace', '')).strip().splitlines()[-1:]}"
    if name == "gap":
        return f"the journal lost {event.get('num_lost')} records: {event.get('reason')}"
    if name == "resumed":
        return f"going on from step {event.get('step')}"
    for each in SENTENCES:
        if event.get(each):
            return str(event[each])
    shown = {key: value for key, value in event.items() if key not in ("event", "step") and not isinstance(value, dict)}
    return ", ".join(f"{key} {_show(value)}" for key, value in shown.items())


def _show(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else str(value)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
