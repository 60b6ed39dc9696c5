"""What a diagnosis says."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

from trimtab.diagnosis.telling import tell
from trimtab.diagnosis.tree import Cause
from trimtab.journal import to_json
from trimtab.types import Finding

Verdict = Literal["healthy", "degraded", "failed"]

EXITS: dict[Verdict, int] = {"healthy": 0, "degraded": 1, "failed": 2}
"""The exit status of each verdict."""

MOST_FINDINGS = 200
"""Findings that are listed; of more the first of each detector and the newest."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What is the matter with a run: causes with evidence and fixes, the most likely first."""

    verdict: Verdict
    """healthy: nothing is the matter. degraded: faults were put right, or trouble is there that the run survived.
    failed: it ended non-finite or halted, diverged, or never learned."""

    causes: tuple[Cause, ...]
    """The causes, the most likely first; trouble with the log itself comes last."""

    findings: tuple[Finding, ...]
    """What the detectors found, in order."""

    not_measured: tuple[str, ...]
    """What was not measured, each with how to measure it."""

    notes: tuple[str, ...] = ()
    """What was odd in the log and how it was put right; said before all else."""

    unasked: tuple[str, ...] = ()
    """The questions that were not asked, since one before them had a fatal answer."""

    pattern: str = ""
    """The shape of the loss curve in a few words; empty where the log is too short for one."""

    rest: str = ""
    """Of a run whose loss is flat at its end: whether it is done, or why not; empty where it falls on."""

    adaptations: tuple[str, ...] = ()
    """What the run changed in itself between epochs: what, from, to, why, what was expected and what came of it."""

    num_steps: int = 0
    """Records of steps that it rests on."""

    last_step: int = 0
    """The last step that is recorded."""

    measured: tuple[str, ...] = ()
    """The metrics that were recorded, and so could be judged."""

    is_short: bool = False
    """True if it is too short for its curve to be judged: then healthy says little."""

    @property
    def exit_status(self) -> int:
        """0 for healthy, 1 for degraded, 2 for failed."""
        return EXITS[self.verdict]

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON can hold it."""
        table = {
            "verdict": self.verdict,
            "causes": [_to_entry(each) for each in self.causes],
            "findings": [_to_row(each) for each in _select(self.findings)],
            "not_measured": list(self.not_measured),
            "notes": list(self.notes),
            "unasked": list(self.unasked),
            "pattern": self.pattern,
            "rest": self.rest,
            "adaptations": list(self.adaptations),
            "num_steps": self.num_steps,
            "last_step": self.last_step,
            "measured": list(self.measured),
            "is_short": self.is_short,
        }
        told: dict[str, Any] = to_json(table)
        return told

    def __str__(self) -> str:
        return tell(self)


def _to_entry(cause: Cause) -> dict[str, Any]:
    return {
        "cause": cause.name,
        "confidence": cause.confidence,
        "step": cause.step,
        "evidence": list(cause.evidence),
        "ruled_out": list(cause.ruled_out),
        "fix": cause.fix,
        "alternative": cause.alternative,
        "state": cause.state,
        "outcome": cause.outcome,
    }


def _to_row(finding: Finding) -> dict[str, Any]:
    return {
        "step": finding.step,
        "detector": finding.detector,
        "severity": finding.severity,
        "metric": finding.metric,
        "value": finding.value,
        "message": finding.message,
    }


def _select(findings: tuple[Finding, ...]) -> list[Finding]:
    """Not more findings than can be read: the first few of each detector, and the newest."""
    if len(findings) <= MOST_FINDINGS:
        return list(findings)
    counts: Counter[str] = Counter()
    kept = []
    for each in findings[: -MOST_FINDINGS // 2]:
        counts[each.detector] += 1
        if counts[each.detector] <= MOST_FINDINGS // 20:
            kept.append(each)
    return [*kept[: MOST_FINDINGS // 2], *findings[-MOST_FINDINGS // 2 :]]
