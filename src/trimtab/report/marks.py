"""What happened in a run as marks on its axis of steps: each decision with what was found and done, each event."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from trimtab.diagnosis.evidence import Evidence
from trimtab.journal.recorder import tell_story
from trimtab.report.reduction import Spans
from trimtab.types import VERDICTS, Action, Decision, Finding

MOST_MARKS = 1500
"""Marks of a page; of more, the strongest verdicts and the gravest findings."""

MOST_NAMED = 8
"""Groups, rows and changes that a mark names."""

SEVERITIES = ("low", "medium", "high", "critical")
"""From the least to the gravest."""

DONE = {
    "proceed": "Let pass",
    "clip": "Clipped",
    "drop": "Dropped",
    "skip": "Skipped",
    "rollback": "Rolled back",
    "reload": "Reloaded",
    "halt": "Halted",
}
"""What each verdict did, in a word."""

SILENT = {"plan", "epoch", "health", "spectra", "diagnosis", "decision"}
"""The events that are shown in other ways than as a mark."""


def list_undone(evidence: Evidence) -> Spans:
    """The spans of steps that were measured on states that a rollback or a reload gave up; none overlaps another.

    A step measures what the update before it has led to, so a span begins with the second step after the one that was
    restored, and ends with the step that was judged.
    """
    spans: list[tuple[int, int]] = []
    for decision, action in evidence.decided:
        if action.restored_step is not None and action.restored_step + 1 < decision.step:
            first = action.restored_step + 2
            while spans and spans[-1][1] >= first - 1:
                first = min(first, spans.pop()[0])
            spans.append((first, decision.step))
    return spans


def list_marks(evidence: Evidence) -> tuple[list[dict[str, Any]], int]:
    """The marks of a run in the order of their steps, and how many more there were than a page can hold."""
    decided = evidence.decided or [(each, Action(each.step)) for each in _list_found(evidence.findings)]
    marks = [_mark_decision(evidence, decision, action) for decision, action in decided if decision.findings]
    marks += [mark for event in evidence.events for mark in _mark_event(event)]
    kept = sorted(marks, key=_weigh, reverse=True)[:MOST_MARKS]
    kept.sort(key=lambda mark: mark["step"])
    for number, mark in enumerate(kept):
        mark["id"] = f"mark-{number}"
    return kept, len(marks) - len(kept)


def _list_found(findings: Sequence[Finding]) -> Iterator[Decision]:
    """What was found in a log that nothing was decided in, as decisions to let it pass."""
    for step, found in groupby(sorted(findings, key=lambda each: each.step), key=lambda each: each.step):
        together = tuple(found)
        reason = "; ".join(f"{each.detector}: {each.message}" for each in together)
        yield Decision(step, findings=together, reason=reason)


def _weigh(mark: Mapping[str, Any]) -> tuple[int, int, int]:
    """How much a mark matters beside others: what was done, then how grave it is, then how new."""
    rank = VERDICTS.index(mark["kind"]) if mark["kind"] in VERDICTS else len(VERDICTS) * (mark["lane"] == "course")
    return (rank, SEVERITIES.index(mark["severity"]) if mark["severity"] else 0, mark["step"])


def _mark_decision(evidence: Evidence, decision: Decision, action: Action) -> dict[str, Any]:
    is_acted = bool(decision.responses)
    gravest = max(decision.findings, key=lambda each: SEVERITIES.index(each.severity))
    detectors = ", ".join(dict.fromkeys(each.detector for each in decision.findings))
    verdict = action.verdict if action.verdict != "proceed" or not is_acted else decision.responses[0].kind
    return {
        "step": decision.step,
        "clock": decision.clock,
        "lane": "done" if is_acted else "found",
        "kind": verdict if is_acted else "finding",
        "severity": gravest.severity,
        "title": _name_done(verdict, action) if is_acted else f"Found: {detectors}",
        "story": tell_story(decision, action),
        "facts": [list(each) for each in _list_facts(evidence, decision, action)],
        "value": _look_up_loss(evidence, decision),
    }


def _name_done(verdict: str, action: Action) -> str:
    if action.restored_step is not None:
        return f"{DONE[verdict]} to step {action.restored_step:,}"
    return DONE.get(verdict, verdict.capitalize())


def _list_facts(evidence: Evidence, decision: Decision, action: Action) -> Iterator[tuple[str, str]]:
    yield from (("found", _tell_finding(each)) for each in decision.findings)
    groups = list(dict.fromkeys(name for each in decision.findings for name in each.groups))
    if groups:
        yield "groups", _join(groups)
    rows = list(dict.fromkeys(row for each in decision.findings for row in each.rows))
    if rows:
        yield "rows of data", _join(map(str, rows))
    batch = _tell_batch(evidence, decision.step)
    if batch:
        yield "batch", batch
    if decision.responses:
        yield "decided", ", ".join(each.kind for each in decision.responses)
        yield "done", action.verdict if action.restored_step is None else f"back to step {action.restored_step:,}"
    if action.num_lost:
        yield "updates lost", f"{action.num_lost:,}"
    changes = [f"{each.what} {each.before:.4g} → {each.after:.4g}" for each in action.changes]
    if changes:
        yield "changed", _join(changes)
    if action.note:
        yield "noted", action.note


def _tell_finding(finding: Finding) -> str:
    since = "" if finding.since is None else f", since step {finding.since:,}"
    return f"{finding.detector} ({finding.severity}{since}): {finding.message}"


def _tell_batch(evidence: Evidence, step: int) -> str:
    """Whether the batch of a step was there before, where batches are known again."""
    seen = evidence.metric("batch_fingerprint")
    fingerprint = seen.at(step)
    if not math.isfinite(fingerprint):
        return ""
    before = seen.steps[(seen.values == fingerprint) & (seen.steps < step)]
    return f"seen before, at step {_join([f'{each:,}' for each in before[-3:]])}" if len(before) else "not seen before"


def _look_up_loss(evidence: Evidence, decision: Decision) -> float | None:
    """The loss at a mark; None where it is not known."""
    loss = evidence.metric("loss").at(decision.step) if decision.clock == "step" else math.nan
    return float(f"{loss:.6g}") if math.isfinite(loss) else None


def _mark_event(event: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The mark of an event that is no decision, where there is something to be seen of it."""
    name = str(event.get("event"))
    if name in SILENT:
        return
    title, story = _tell_event(name, event)
    kind = str(event.get("verdict", name)) if name == "outcome" else name
    yield {
        "step": int(event.get("step", 0)),
        "clock": "step",
        "lane": "course",
        "kind": kind,
        "severity": "",
        "title": title,
        "story": story,
        "facts": [[key, _tell(value)] for key, value in event.items() if key not in ("event", "step", "trace")],
        "value": None,
    }


def _tell_event(name: str, event: Mapping[str, Any]) -> tuple[str, str]:
    """What an event is called, and its story in a sentence."""
    if name == "adaptation":
        return str(event.get("name")), f"{event.get('why')}; expected: {event.get('expected')}"
    if name == "outcome":
        return f"{event.get('of')}: {event.get('verdict')}", str(event.get("message"))
    if name == "end":
        return f"End: {event.get('status')}", f"the run ended: {event.get('status')}"
    if name == "failure":
        return "Trimtab failed", str(event.get("trace", "")).strip().rpartition("\n")[2]
    said = event.get("message") or event.get("why") or event.get("reason")
    return name.replace("-", " ").capitalize(), str(said) if said else _tell_fields(event)


def _tell_fields(event: Mapping[str, Any]) -> str:
    fields = {key: value for key, value in event.items() if key not in ("event", "step")}
    return "; ".join(f"{key} {_tell(value)}" for key, value in fields.items()) or str(event.get("event"))


def _tell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_tell(each)}" for key, each in value.items())
    return _join([_tell(each) for each in value]) if isinstance(value, (list, tuple)) else str(value)


def _join(names: Any) -> str:
    """Names in a list that can be read."""
    listed = list(names)
    more = f" and {len(listed) - MOST_NAMED} more" if len(listed) > MOST_NAMED else ""
    return ", ".join(listed[:MOST_NAMED]) + more


def find_episodes(steps: Sequence[int], room: int) -> Spans:
    """The spans of steps around some steps, those that touch each other joined.

    Args:
        steps: the steps.
        room: how far a span reaches before the first and after the last of them.
    """
    spans: list[tuple[int, int]] = []
    for step in np.unique(np.array(steps, dtype=np.int64)).tolist():
        if spans and step - room <= spans[-1][1] + 1:
            spans[-1] = (spans[-1][0], step + room)
        else:
            spans.append((step - room, step + room))
    return spans
