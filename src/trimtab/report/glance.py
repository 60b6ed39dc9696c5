"""A run in one glance: its verdict, what happened, what was done, and whether it helped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from trimtab.diagnosis import Diagnosis
from trimtab.diagnosis.evidence import Evidence
from trimtab.diagnosis.postmortem import NEAR, VERDICTS, list_episodes
from trimtab.types import Action, Decision

NOT_ENDED = "not ended"
"""The status of a run of which nothing says how it ended: it is running, or was cut short."""

MOST_CAUSES = 3
"""Causes that are named."""


def glance(evidence: Evidence, diagnosis: Diagnosis, status: str) -> list[dict[str, str]]:
    """Four answers, each with its question, a few words, and a sentence.

    Args:
        evidence: the run.
        diagnosis: what was said of it.
        status: how it ended.
    """
    verdict = VERDICTS[diagnosis.verdict]
    if status == NOT_ENDED:
        verdict = f"So far: {verdict[0].lower()}{verdict[1:]}"
    answers = {
        "Verdict": (diagnosis.verdict, verdict),
        "What happened": _tell_causes(evidence, diagnosis),
        "What was done": _tell_done(evidence),
        "Did it help": _tell_help(evidence, status),
    }
    return [{"question": name, "answer": answer, "more": more} for name, (answer, more) in answers.items()]


def _tell_causes(evidence: Evidence, diagnosis: Diagnosis) -> tuple[str, str]:
    counts = Counter(finding.detector for finding in evidence.findings)
    found = ", ".join(f"{num} × {name}" if num > 1 else name for name, num in counts.most_common(MOST_CAUSES))
    more = f" and {len(counts) - MOST_CAUSES} other kinds" if len(counts) > MOST_CAUSES else ""
    told = f"Found: {found}{more}." if counts else "No detector found anything."
    if not diagnosis.causes:
        shape = f"The loss {diagnosis.pattern}. " if diagnosis.pattern else ""
        return "nothing to name", shape + told
    named = ", ".join(f"{each.name} from step {each.step:,}" for each in diagnosis.causes[:MOST_CAUSES])
    left = len(diagnosis.causes) - MOST_CAUSES
    first = diagnosis.causes[0].name
    others = f" and {len(diagnosis.causes) - 1} more" if len(diagnosis.causes) > 1 else ""
    return first + others, f"{named}{f' and {left} more' if left > 0 else ''}. {told}"


def _tell_done(evidence: Evidence) -> tuple[str, str]:
    acted = [(decision, action) for decision, action in evidence.decided if decision.responses]
    adapted = [str(event.get("name")) for event in evidence.events if event.get("event") == "adaptation"]
    if not acted and not adapted:
        num = sum(bool(decision.findings) for decision, _ in evidence.decided)
        return "nothing", f"{num} findings were recorded only." if num else "Nothing asked for an answer."
    counts = Counter(_name(decision, action) for decision, action in acted)
    done = ", ".join(f"{num} × {name}" if num > 1 else name for name, num in counts.most_common())
    num_lost = sum(action.num_lost for _, action in acted)
    num_steps = max(len(evidence.metric("loss", "grad_norm")), 1)
    parts = [f"{num_lost:,} of {num_steps:,} updates lost ({num_lost / num_steps:.2%})."] if acted else []
    parts += [f"Between epochs: {', '.join(adapted)}."] if adapted else []
    return done or ", ".join(adapted), " ".join(parts)


def _name(decision: Decision, action: Action) -> str:
    return action.verdict if action.verdict != "proceed" else decision.responses[0].kind


def _tell_help(evidence: Evidence, status: str) -> tuple[str, str]:
    judged = [
        each for each in (_came_back(evidence, episode) for episode in list_episodes(evidence)) if each is not None
    ]
    outcomes = Counter(str(event.get("verdict")) for event in evidence.events if event.get("event") == "outcome")
    parts = list(_tell_reviews(evidence))
    if status == "halted":
        parts.insert(0, "The run was halted.")
    if outcomes:
        parts.insert(
            0, f"Of the changes between epochs: {', '.join(f'{num} {name}' for name, num in outcomes.items())}."
        )
    if not judged:
        answer = ", ".join(f"{num} {name}" for name, num in outcomes.items()) if outcomes else "nothing to judge"
        return answer, " ".join(parts)
    num = sum(judged)
    answer = "yes" if num == len(judged) else "no" if num == 0 else f"{num} times of {len(judged)}"
    told = f"After {num} of {len(judged)} interventions the loss was back in the range of the {NEAR} records before."
    return answer, " ".join([told, *parts])


def _came_back(evidence: Evidence, episode: Sequence[tuple[Decision, Action]]) -> bool | None:
    """True if the median loss after an episode is within the range of the losses before it; None if that is unknown."""
    before = evidence.loss.newest_before(episode[0][0].step, NEAR).values
    begins = int(np.searchsorted(evidence.loss.steps, episode[-1][0].step, side="right"))
    after = evidence.loss.values[begins : begins + NEAR]
    if not len(before):
        return None
    return bool(len(after)) and bool(np.median(after) <= before.max())


def _tell_reviews(evidence: Evidence) -> Iterator[str]:
    reviewed = evidence.review("val_loss").finite
    if len(reviewed):
        best = int(np.argmin(reviewed.values))
        yield f"Best validation loss {reviewed.values[best]:.4g} at step {int(reviewed.steps[best]):,},"
        yield f"last {reviewed.values[-1]:.4g}."
    elif len(evidence.loss):
        yield f"Last loss {evidence.loss.values[-1]:.4g}."


def summarize_results(evidence: Evidence) -> dict[str, Any]:
    """The numbers that runs are compared by."""
    reviewed, losses = evidence.review("val_loss").finite, evidence.loss
    seconds = evidence.metric("step_seconds").finite
    best = int(np.argmin(reviewed.values)) if len(reviewed) else 0
    acted = [action for decision, action in evidence.decided if decision.responses]
    return {
        "steps": evidence.last_step,
        "last loss": _round(np.median(losses.values[-NEAR:])) if len(losses) else None,
        "best validation loss": _round(reviewed.values[best]) if len(reviewed) else None,
        "at step": int(reviewed.steps[best]) if len(reviewed) else None,
        "last validation loss": _round(reviewed.values[-1]) if len(reviewed) else None,
        "findings": len(evidence.findings),
        "interventions": len(acted),
        "updates lost": sum(action.num_lost for action in acted),
        "seconds a step": _round(np.median(seconds.values)) if len(seconds) else None,
    }


def _round(number: Any) -> float:
    return float(f"{float(number):.6g}")
