"""Causes that are what a detector found."""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.diagnosis.evidence import Evidence
from trimtab.diagnosis.tree import Answer, Cause, State


def tell_findings(
    evidence: Evidence, detector: str, confidence: float, fix: str, alternative: str = "", *, metric: str = ""
) -> Iterator[Answer]:
    """The cause with the first finding of the detector that looks for it, and how often it was found.

    Args:
        evidence: what is known of the run.
        detector: the name of the detector.
        confidence: that of the cause, from 0 to 1.
        fix: what to do.
        alternative: what else it may be.
        metric: what the detector judges, if it says so at every review at which it is so: the trouble is over where
            that was measured later and nothing was found.
    """
    found = evidence.found_by(detector)
    if found:
        more = (f"it was found at {len(found)} steps, up to step {found[-1].step}",) if len(found) > 1 else ()
        told = tuple(dict.fromkeys(each.message for each in found))[:2]
        yield Cause(
            confidence=confidence,
            step=found[0].step,
            evidence=(*told, *more),
            fix=fix,
            alternative=alternative,
            state=_judge_state(evidence, found[-1].step, metric),
        )


def _judge_state(evidence: Evidence, last: int, metric: str) -> State:
    """What became of it after the last finding: a guard of representations declares a recovery."""
    measured = evidence.review(metric).finite.steps
    if not len(measured) or measured[-1] <= last:
        return "lasting"
    is_mended = any(each.get("kind") == "recovery" and int(each["step"]) > last for each in evidence.events)
    return "mended" if is_mended else "passed"
