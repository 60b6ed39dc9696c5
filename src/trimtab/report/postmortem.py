"""The post-mortem of a run as an offline page: verdict, loss curve, causes, what was done, how to prevent it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from trimtab.diagnosis import Diagnosis
from trimtab.diagnosis.postmortem import (
    EFFECTS_HEAD,
    TIMELINE_HEAD,
    VERDICTS,
    list_commands,
    list_effects,
    list_timeline,
)
from trimtab.diagnosis.sweep import as_run
from trimtab.diagnosis.walk import Run, gather
from trimtab.journal import RunLog
from trimtab.report.curves import draw_losses
from trimtab.report.page import Card, Rows, write_page

MOST_DRAWN = 20_000
"""Measurements that are drawn; of longer runs evenly spaced ones."""

CAUSES_HEAD = ("cause", "step", "confidence", "became of it", "evidence", "fix")
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
    shape = f" The loss {diagnosis.pattern}." if diagnosis.pattern else ""
    marks = [(each.step, each.step, each.name) for each in diagnosis.causes if each.step]
    tables = [
        *_list_cause_rows(diagnosis),
        Rows("Timeline", TIMELINE_HEAD, [(str(step), told) for step, told in list_timeline(diagnosis, evidence)]),
        Rows("Actions and their effect", EFFECTS_HEAD, list_effects(evidence)),
        Rows("Not measured, and so not judged", ("what", "how to measure it"), _split(diagnosis.not_measured)),
        Rows("Reproduce", ("command",), [(each,) for each in list_commands(run, evidence, options)]),
    ]
    write_page(
        path,
        title=f"Post-mortem: {log.folder.name}",
        summary=f"{VERDICTS[diagnosis.verdict]}{shape} {'. '.join(diagnosis.notes)}",
        cards=_make_cards(diagnosis, sum(action.num_lost for _, action in evidence.decided)),
        figure=draw_losses({log.folder.name: thin_out(log)}, marks),
        tables=[each for each in tables if each.body],
    )


def _make_cards(diagnosis: Diagnosis, num_lost: int) -> list[Card]:
    cards = [Card("Verdict", diagnosis.verdict, f"{diagnosis.num_steps:,} records up to step {diagnosis.last_step:,}")]
    if diagnosis.causes:
        first = diagnosis.causes[0]
        cards.append(Card("Likely cause", first.name, f"confidence {first.confidence:.2f}, from step {first.step:,}"))
    return [*cards, Card("Updates lost", f"{num_lost:,}", "by what was done about it")]


def _list_cause_rows(diagnosis: Diagnosis) -> list[Rows]:
    causes = [
        (each.name, str(each.step), f"{each.confidence:.2f}", each.outcome, "; ".join(each.evidence), each.fix)
        for each in diagnosis.causes
    ]
    excluded = [(name, each.name, why) for each in diagnosis.causes for name, why in _split(each.ruled_out)]
    return [Rows("Causes", CAUSES_HEAD, causes), Rows("What was ruled out", RULED_OUT_HEAD, excluded)]


def _split(lines: Sequence[str]) -> list[tuple[str, str]]:
    """Lines such as `name: text` in two columns."""
    parts = (line.partition(": ") for line in lines)
    return [(name, text) for name, _, text in parts]


def thin_out(log: RunLog) -> RunLog:
    """A run with no more measurements than a page can hold; reviews and decisions are all kept."""
    stride = -(-len(log.measurements) // MOST_DRAWN)
    kept = [each for row, each in enumerate(log.measurements) if row % stride == 0 or each.clock == "review"]
    return replace(log, measurements=kept)
