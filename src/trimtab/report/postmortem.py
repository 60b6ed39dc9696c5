"""The post-mortem of a run as an offline page: verdict, loss curve, causes, what was done, how to prevent it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from trimtab.diagnosis import Diagnosis
from trimtab.diagnosis.postmortem import (
    EFFECTS_HEAD,
    NEAR,
    TIMELINE_HEAD,
    VERDICTS,
    list_commands,
    list_effects,
    list_roots,
    list_timeline,
    tell_facts,
)
from trimtab.diagnosis.sweep import as_run
from trimtab.diagnosis.walk import Run, gather
from trimtab.journal import RunLog
from trimtab.report.curves import draw_losses
from trimtab.report.page import Card, Rows, write_page
from trimtab.report.panels import add_panels

NEAR_LABELS = 0.03
"""The share of the run within which two causes share a label in the figure."""

MOST_DRAWN = 20_000
"""Measurements that are drawn; of longer runs evenly spaced ones."""

EVIDENCE_HEAD = ("cause", "from step", "confidence", "became of it", "evidence")
ROOT_HEAD = ("cause", "first seen at step", "what it is")
FIX_HEAD = ("against", "do")
RULED_OUT_HEAD = ("cause", "in place of", "what speaks against it")
"""The columns of the tables."""


def write_postmortem_page(path: str | Path, diagnosis: Diagnosis, run: Run, options: Sequence[str] = ()) -> None:
    """Write the post-mortem of a run as one page that opens offline.

    Args:
        path: the file to write.
        diagnosis: what `diagnose` said of the run.
        run: the run or the log: its path, or as it was read.
        options: what else `trimtab diagnose` was given to read the log, such as `--map`.
    """
    evidence = gather(run)
    log = as_run(run)
    tables = [
        Rows("Timeline", TIMELINE_HEAD, [(str(step), told) for step, told in list_timeline(diagnosis, evidence)]),
        *_list_cause_rows(diagnosis),
        Rows(f"Actions and their effect: losses are medians of {NEAR} records", EFFECTS_HEAD, list_effects(evidence)),
        Rows("Prevention", FIX_HEAD, [(each.name, each.fix) for each in diagnosis.causes]),
        Rows("Not measured, and so not judged", ("what", "how to measure it"), _split(diagnosis.not_measured)),
        Rows("Reproduce", ("command",), [(f"`{each}`",) for each in list_commands(run, evidence, options)]),
    ]
    facts = " ".join(tell_facts(diagnosis, evidence))
    notes = "".join(f" {note}." for note in diagnosis.notes)
    figure = draw_losses({log.folder.name: thin_out(log)}, _make_marks(diagnosis))
    write_page(
        path,
        title=f"Post-mortem: {log.folder.name}",
        summary=f"{VERDICTS[diagnosis.verdict]} {facts}{notes}",
        cards=_make_cards(diagnosis, sum(action.num_lost for _, action in evidence.decided)),
        figure=add_panels(figure, thin_out(log)),
        tables=[each for each in tables if each.body],
    )


def _make_marks(diagnosis: Diagnosis) -> list[tuple[int, int, str]]:
    """Where causes begin; those too near to each other for their labels share one."""
    marks: list[tuple[int, int, str]] = []
    for each in sorted((each for each in diagnosis.causes if each.step), key=lambda each: each.step):
        if marks and each.step - marks[-1][0] < NEAR_LABELS * diagnosis.last_step:
            first, _, label = marks[-1]
            marks[-1] = (first, each.step, f"{label}, {each.name}")
        else:
            marks.append((each.step, each.step, each.name))
    return marks


def _make_cards(diagnosis: Diagnosis, num_lost: int) -> list[Card]:
    cards = [Card("Verdict", diagnosis.verdict, f"{diagnosis.num_steps:,} records up to step {diagnosis.last_step:,}")]
    if diagnosis.causes:
        first = diagnosis.causes[0]
        cards.append(Card("Likely cause", first.name, f"confidence {first.confidence:.2f}, from step {first.step:,}"))
    return [*cards, Card("Updates lost", f"{num_lost:,}", "by what was done about it")]


def _list_cause_rows(diagnosis: Diagnosis) -> list[Rows]:
    evidence = [
        (each.name, str(each.step), f"{each.confidence:.2f}", each.outcome, "\n".join(each.evidence))
        for each in diagnosis.causes
    ]
    excluded = [(name, each.name, why) for each in diagnosis.causes for name, why in _split(each.ruled_out)]
    return [
        Rows("Evidence", EVIDENCE_HEAD, evidence),
        Rows("Root cause", ROOT_HEAD, list_roots(diagnosis)),
        Rows("What was ruled out", RULED_OUT_HEAD, excluded),
    ]


def _split(lines: Sequence[str]) -> list[tuple[str, str]]:
    """Lines such as `name: text` in two columns."""
    parts = (line.partition(": ") for line in lines)
    return [(name, text) for name, _, text in parts]


def thin_out(log: RunLog) -> RunLog:
    """A run with no more measurements than a page can hold; reviews and decisions are all kept."""
    stride = -(-len(log.measurements) // MOST_DRAWN)
    kept = [each for row, each in enumerate(log.measurements) if row % stride == 0 or each.clock == "review"]
    return replace(log, measurements=kept)
