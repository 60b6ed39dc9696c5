"""The post-mortem of a run: what happened, why, what was done about it, and how to keep it from happening again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from trimtab.diagnosis.evidence import Evidence
from trimtab.diagnosis.outliers import group
from trimtab.diagnosis.result import Diagnosis
from trimtab.diagnosis.tree import QUESTIONS, known_causes
from trimtab.diagnosis.walk import Run, gather
from trimtab.types import Action, Decision

NEAR = 20
"""Records before and after what was done whose median loss says what came of it."""

SAME_EPISODE = 5
"""Steps between two decisions of the same episode at most: the policy's memory."""

MOST_ROWS = 30
"""Rows of a table; of more the first and the newest."""

VERDICTS = {
    "healthy": "Nothing is the matter with the run, as far as it was measured.",
    "degraded": "The run came through, with faults that were put right or trouble that remains.",
    "failed": "The run is worth nothing as it ended.",
}


def postmortem(diagnosis: Diagnosis, run: Run) -> str:
    """The post-mortem of a run, as Markdown.

    Args:
        diagnosis: what `diagnose` said of it.
        run: the run or the log: its path, or as it was read.
    """
    evidence = gather(run)
    sections = {
        "Summary": _summarize(diagnosis),
        "Timeline": _tell_timeline(diagnosis, evidence),
        "Evidence": _list_evidence(diagnosis),
        "Root cause": _tell_root(diagnosis),
        "What was ruled out": _list_excluded(diagnosis),
        "Actions and their effect": _tell_actions(evidence),
        "Prevention": _list_fixes(diagnosis),
        "Reproduce": _tell_commands(run, evidence),
    }
    parts = ["# Post-mortem", *(f"## {title}\n\n{chr(10).join(lines)}" for title, lines in sections.items())]
    return "\n\n".join(parts) + "\n"


def _summarize(diagnosis: Diagnosis) -> Iterator[str]:
    yield f"**{diagnosis.verdict}** after {diagnosis.last_step} steps. {VERDICTS[diagnosis.verdict]}"
    if diagnosis.pattern:
        yield f"The loss {diagnosis.pattern}."
    if diagnosis.causes:
        named = ", ".join(f"{each.name} from step {each.step} ({each.state})" for each in diagnosis.causes)
        yield f"Causes, the most likely first: {named}."
    yield from (f"Of the log: {note}." for note in diagnosis.notes)


def _tell_timeline(diagnosis: Diagnosis, evidence: Evidence) -> Iterator[str]:
    """What happened when: where causes begin, what was done, the best evaluation, the end."""
    rows = [(each.step, f"{each.name} begins") for each in diagnosis.causes if each.step]
    for decisions in _list_episodes(evidence):
        first, last = decisions[0][0].step, decisions[-1][0].step
        kinds = dict.fromkeys(action.verdict for _, action in decisions)
        until = f", until step {last}" if last > first else ""
        rows.append((first, f"{' then '.join(kinds)}{until}: {decisions[0][0].reason}"))
    rows += [(after, f"restarted, after step {before}") for before, after in evidence.repairs.restarts]
    reviewed = evidence.review("val_loss", "eval_loss").finite
    if len(reviewed):
        best = int(np.argmin(reviewed.values))
        rows.append((int(reviewed.steps[best]), f"the best evaluation, {reviewed.values[best]:.4g}"))
    ends = [event for event in evidence.events if event.get("event") == "end"]
    rows.append((evidence.last_step, f"the end: {ends[-1].get('status')}" if ends else "the last record"))
    yield from _draw_table(("step", "what happened"), sorted(rows))


def _list_episodes(evidence: Evidence) -> list[list[tuple[Decision, Action]]]:
    """The decisions that changed something, in episodes."""
    acted = {decision.step: (decision, action) for decision, action in evidence.decided if decision.responses}
    return [[acted[step] for step in steps] for steps in group(sorted(acted), SAME_EPISODE)]


def _list_evidence(diagnosis: Diagnosis) -> Iterator[str]:
    if not diagnosis.causes:
        yield "Nothing speaks for any cause."
    for each in diagnosis.causes:
        yield f"- **{each.name}**, confidence {each.confidence:.2f}"
        yield from (f"    - {line}" for line in each.evidence)


def _tell_root(diagnosis: Diagnosis) -> Iterator[str]:
    if not diagnosis.causes:
        yield "None was found."
        yield from (f"- not measured: {line}" for line in diagnosis.not_measured)
        return
    root = diagnosis.causes[0]
    manual = known_causes[root.name].manual.split("\n")[0]
    yield f"**{root.name}** (confidence {root.confidence:.2f}), first seen at step {root.step}. {manual}"
    if root.alternative:
        yield f"\nOr else: {root.alternative}."


def _list_excluded(diagnosis: Diagnosis) -> Iterator[str]:
    told = list(dict.fromkeys(line for each in diagnosis.causes for line in each.ruled_out))
    yield from (f"- {line}" for line in told)
    yield from (f"- not asked: {QUESTIONS[each]}" for each in diagnosis.unasked)
    if not told and not diagnosis.unasked:
        yield "Nothing had to be."


def _tell_actions(evidence: Evidence) -> Iterator[str]:
    """What was done in each episode, with the median loss before and after."""
    episodes = _list_episodes(evidence)
    if not episodes:
        yield "Nothing was done."
        return
    rows = []
    for decisions in episodes:
        first, last = decisions[0][0].step, decisions[-1][0].step
        before = evidence.loss.newest_before(first, NEAR).values
        begins = int(np.searchsorted(evidence.loss.steps, last, side="right"))
        after = evidence.loss.values[begins : begins + NEAR]
        kinds = dict.fromkeys(action.verdict for _, action in decisions)
        num_lost = sum(action.num_lost for _, action in decisions)
        levels = [f"{np.median(each):.4g}" if len(each) else "–" for each in (before, after)]
        rows.append((f"{first}–{last}" if last > first else str(first), " then ".join(kinds), num_lost, *levels))
    yield from _draw_table(("steps", "done", "updates lost", "loss before", "loss after"), rows)


def _list_fixes(diagnosis: Diagnosis) -> Iterator[str]:
    yield from (f"{number}. {each.name}: {each.fix}" for number, each in enumerate(diagnosis.causes, 1))
    yield from (f"- measure {line}" for line in diagnosis.not_measured)
    if not diagnosis.causes and not diagnosis.not_measured:
        yield "Nothing is to be changed."


def _tell_commands(run: Run, evidence: Evidence) -> Iterator[str]:
    """How the run was started, and how to see this again."""
    path = run if isinstance(run, (str, Path)) else getattr(run, "folder", None) or getattr(run, "source", "LOG")
    yield "```"
    command = evidence.manifest.get("command_line")
    if command:
        yield shlex.join(command)
    yield f"trimtab diagnose {shlex.quote(str(path))}"
    if evidence.manifest.get("policy"):
        yield f"trimtab replay {shlex.quote(str(path))}"
    yield "```"


def _draw_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    """A Markdown table; of many rows the first and the newest."""
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    is_long = len(rows) > MOST_ROWS
    shown = [*rows[: MOST_ROWS // 2], ["…"] * len(head), *rows[-MOST_ROWS // 2 :]] if is_long else rows
    yield from (f"| {' | '.join(str(cell).replace('|', '/') for cell in row)} |" for row in shown)
