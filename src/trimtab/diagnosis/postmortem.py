"""The post-mortem of a run: what happened, why, what was done about it, and how to keep it from happening again."""

from __future__ import annotations

import shlex
from collections import Counter
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
    "failed": "The run did not come through; what it ended with is not to be used.",
}


TIMELINE_HEAD = ("step", "what happened")
EFFECTS_HEAD = ("steps", "done", "updates lost", "loss before", "loss after")
"""The columns of the tables."""


def postmortem(diagnosis: Diagnosis, run: Run, options: Sequence[str] = ()) -> str:
    """The post-mortem of a run, as Markdown.

    Args:
        diagnosis: what `diagnose` said of it.
        run: the run or the log: its path, or as it was read.
        options: what else `trimtab diagnose` was given to read the log, such as `--map`.
    """
    evidence = gather(run)
    sections = {
        "Summary": summarize(diagnosis, evidence),
        "Timeline": _draw_table(TIMELINE_HEAD, list_timeline(diagnosis, evidence)),
        "Evidence": _list_evidence(diagnosis),
        "Root cause": _tell_root(diagnosis),
        "What was ruled out": _list_excluded(diagnosis),
        "Actions and their effect": _tell_actions(evidence),
        "Prevention": _list_fixes(diagnosis),
        "Reproduce": ("```", *list_commands(run, evidence, options), "```"),
    }
    parts = ["# Post-mortem", *(f"## {title}\n\n{chr(10).join(lines)}" for title, lines in sections.items())]
    return "\n\n".join(parts) + "\n"


def summarize(diagnosis: Diagnosis, evidence: Evidence) -> Iterator[str]:
    """How the run ended, what was the matter, and what it cost, in sentences."""
    yield f"**{diagnosis.verdict}** after {diagnosis.last_step} steps. {VERDICTS[diagnosis.verdict]}"
    yield from tell_facts(diagnosis, evidence)
    if diagnosis.causes:
        yield "\nCauses, what is open first, and then the most likely:\n"
    for each in diagnosis.causes:
        yield f"- {each.name} from step {each.step} (confidence {each.confidence:.2f}; {each.outcome})"
    if diagnosis.notes:
        yield "\nOf the log:\n"
    yield from (f"- {note}" for note in diagnosis.notes)


def tell_facts(diagnosis: Diagnosis, evidence: Evidence) -> Iterator[str]:
    """The shape of the loss, what was lost, and with what the run was started, in sentences."""
    if diagnosis.pattern:
        yield f"The loss {diagnosis.pattern}."
    num_lost = sum(action.num_lost for _, action in evidence.decided)
    if num_lost:
        yield f"Lost: {num_lost} updates, {num_lost / max(diagnosis.num_steps, 1):.1%} of all."
    if evidence.manifest.get("started"):
        versions = evidence.manifest.get("versions", {})
        told = "".join(f", {name} {number}" for name, number in versions.items())
        yield f"Started {evidence.manifest['started']}{told}, precision {evidence.regime or 'not known'}."


def list_timeline(diagnosis: Diagnosis, evidence: Evidence) -> list[tuple[int, str]]:
    """What happened when: where causes begin, what was done, the best evaluation, the end."""
    rows = list(_tell_start(evidence))
    rows += [(each.step, f"{each.name} begins") for each in diagnosis.causes if each.step]
    for decisions in list_episodes(evidence):
        first, last = decisions[0][0].step, decisions[-1][0].step
        until = f", from step {first} to {last}" if last > first else ""
        found = "; ".join(finding.message for finding in decisions[0][0].findings)
        rows.append((first, f"{_count_verdicts(decisions)}{until}, since {found}"))
    rows += [(after, f"restarted, after step {before}") for before, after in evidence.repairs.restarts]
    reviewed = evidence.review("val_loss", "eval_loss").finite
    if len(reviewed):
        best = int(np.argmin(reviewed.values))
        rows.append((int(reviewed.steps[best]), f"the best evaluation, {reviewed.values[best]:.4g}"))
    ends = [event for event in evidence.events if event.get("event") == "end"]
    rows.append((evidence.last_step, f"the end: {ends[-1].get('status')}" if ends else "the last record"))
    return sorted(rows, key=lambda row: row[0])


def _tell_start(evidence: Evidence) -> Iterator[tuple[int, str]]:
    """The first record, with its loss."""
    losses = evidence.metric("loss")
    if len(losses):
        yield int(losses.steps[0]), f"the first record, with a loss of {losses.values[0]:.4g}"


def list_episodes(evidence: Evidence) -> list[list[tuple[Decision, Action]]]:
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
    yield from (f"- **{name}**, first seen at step {step}. {told}" for name, step, told in list_roots(diagnosis))


def list_roots(diagnosis: Diagnosis) -> list[tuple[str, str, str]]:
    """The cause that ended the run, or of a run that came through each that was found: its name, step, and meaning."""
    fatal = [each for each in diagnosis.causes if each.state == "fatal"]
    rows = []
    for each in fatal[:1] or diagnosis.causes:
        manual = known_causes[each.name].manual.split("\n")[0]
        other = f" Or else: {each.alternative}." if each.alternative else ""
        rows.append((each.name, str(each.step), f"{manual}{other}"))
    return rows


def _list_excluded(diagnosis: Diagnosis) -> Iterator[str]:
    excluded = [each for each in diagnosis.causes if each.ruled_out]
    for each in excluded:
        yield f"- in place of {each.name} at step {each.step}:"
        yield from (f"    - {line}" for line in each.ruled_out)
    yield from (f"- not asked: {QUESTIONS[each]}" for each in diagnosis.unasked)
    if not excluded and not diagnosis.unasked:
        yield "Nothing had to be."


def _count_verdicts(decisions: Sequence[tuple[Decision, Action]]) -> str:
    """What was done, in words such as `9 × skip, rollback`."""
    counts = Counter(action.verdict for _, action in decisions)
    return ", ".join(f"{num} × {verdict}" if num > 1 else verdict for verdict, num in counts.items())


def _tell_actions(evidence: Evidence) -> Iterator[str]:
    rows = list_effects(evidence)
    if not rows:
        yield "Nothing was done."
        return
    yield from _draw_table(EFFECTS_HEAD, rows)
    yield f"\nLosses are medians of the {NEAR} records before the first step and after the last."


def list_effects(evidence: Evidence) -> list[tuple[str, ...]]:
    """What was done in each episode, with the median loss before and after."""
    rows = []
    for decisions in list_episodes(evidence):
        first, last = decisions[0][0].step, decisions[-1][0].step
        before = evidence.loss.newest_before(first, NEAR).values
        begins = int(np.searchsorted(evidence.loss.steps, last, side="right"))
        after = evidence.loss.values[begins : begins + NEAR]
        num_lost = sum(action.num_lost for _, action in decisions)
        levels = [f"{np.median(each):.4g}" if len(each) else "–" for each in (before, after)]
        rows.append(
            (f"{first}–{last}" if last > first else str(first), _count_verdicts(decisions), str(num_lost), *levels)
        )
    return rows


def _list_fixes(diagnosis: Diagnosis) -> Iterator[str]:
    yield from (f"{number}. {each.name}: {each.fix}" for number, each in enumerate(diagnosis.causes, 1))
    yield from (f"- measure {line}" for line in diagnosis.not_measured)
    if not diagnosis.causes and not diagnosis.not_measured:
        yield "Nothing is to be changed."


def list_commands(run: Run, evidence: Evidence, options: Sequence[str] = ()) -> Iterator[str]:
    """How the run was started, and how to see this again."""
    path = run if isinstance(run, (str, Path)) else getattr(run, "folder", None) or getattr(run, "source", "LOG")
    command = evidence.manifest.get("command_line")
    if command:
        yield shlex.join([*(["python"] if str(command[0]).endswith(".py") else []), *command])
    yield shlex.join(["trimtab", "diagnose", str(path), *options])
    if evidence.manifest.get("policy"):
        yield shlex.join(["trimtab", "replay", str(path)])


def _draw_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    """A Markdown table; of many rows the first and the newest."""
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    is_long = len(rows) > MOST_ROWS
    shown = [*rows[: MOST_ROWS // 2], ["…"] * len(head), *rows[-MOST_ROWS // 2 :]] if is_long else rows
    yield from (f"| {' | '.join(str(cell).replace('|', '/') for cell in row)} |" for row in shown)
