"""Everything that the page of a run shows, as one document that JSON can hold.

    name, status, verdict       what the run is called, how it ended, what the diagnosis says
    glance                      four questions with their answers: {question, answer, more}
    facts, results              pairs of name and text; numbers by which runs are compared
    steps                       the first and the last step
    undone                      spans of steps measured on states that a rollback gave up
    panels                      what is drawn: `kind` is `lines` or `heat`; the same id in every run
    marks, num_left_out         what happened, each with its step, lane, kind, title, story and facts
    diagnosis                   the causes with their evidence, as `Diagnosis.to_dict` has them, without the findings
    timeline                    of each epoch what was planned and what happened
    rows                        of each kind of rows how many there are, and the first of them
    tables                      further tables: {title, head, body}
    settings                    what the run was started with, flat

A comparison is `{"runs": [document, …], "differences": [table, …]}`, and may have a `title`, a `summary`, `cards` as of
a glance, and `tables` of its own. What was not recorded is absent or empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.diagnosis import Diagnosis
from trimtab.diagnosis.evidence import Evidence
from trimtab.diagnosis.postmortem import (
    EFFECTS_HEAD,
    NEAR,
    TIMELINE_HEAD,
    list_commands,
    list_effects,
    list_roots,
    list_timeline,
    tell_facts,
)
from trimtab.diagnosis.walk import Run, diagnose_evidence, gather
from trimtab.errors import InputError
from trimtab.journal import MANIFEST, RunLog, to_json
from trimtab.report.comparison import list_differences
from trimtab.report.courses import describe_rows, describe_timeline
from trimtab.report.glance import NOT_ENDED, glance, summarize_results
from trimtab.report.heatmaps import describe_heatmaps
from trimtab.report.marks import find_episodes, list_marks, list_undone
from trimtab.report.panel import SECTIONS, describe_panels
from trimtab.report.panels import list_panels
from trimtab.report.spectral import describe_spectra

VERSION = 1
"""The version of the document's layout."""

NUM_POINTS = 80_000
"""About how many points of lines a page holds: about a megabyte."""

ROOM = 60
"""Steps around what happened that are drawn one by one, in the first episodes."""

MOST_EPISODES = 20
"""Episodes of which every step is drawn, however long the run."""

Document = dict[str, Any]
"""A document: what JSON can hold."""


def describe_run(folder: str | Path, num_points: int = NUM_POINTS) -> Document:
    """Everything that the page of a run shows, as one document that JSON can hold.

    Args:
        folder: a run folder, one that is still written to included; or another tool's log.
        num_points: about how many points its lines may have altogether.

    Raises:
        InputError: if there is nothing at the path, or it is a log that cannot be read.
        RunFormatError: if it is a run folder that cannot be read.
    """
    folder = Path(folder)
    if not folder.exists():
        raise InputError(f"report: there is no {str(folder)!r}; name a run folder, or another tool's log")
    evidence = gather(folder)
    return describe_evidence(evidence, diagnose_evidence(evidence), folder, num_points=num_points)


def compare_runs(folders: Sequence[str | Path], names: Sequence[str] = ()) -> Document:
    """The documents of several runs, and in what they differ.

    Args:
        folders: run folders, or other tools' logs.
        names: what they are called; by default the shortest ends of their paths that tell them apart.

    Raises:
        InputError: if there is nothing at a path, or it is a log that cannot be read.
        RunFormatError: if one is a run folder that cannot be read.
    """
    paths = [Path(each) for each in folders]
    runs = [describe_run(path, NUM_POINTS // len(paths)) for path in paths]
    for run, name in zip(runs, names or tell_apart(paths), strict=True):
        run["name"] = name
    return {"version": VERSION, "runs": runs, "differences": list_differences(runs)}


def tell_apart(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of some paths that are all different; a path that is there twice is numbered."""
    whole = [path.resolve() for path in paths]
    most = max(len(path.parts) for path in whole)
    for num in range(1, most + 1):
        names = ["/".join(path.parts[-num:]) for path in whole]
        if len(set(names)) == len(names):
            return names
    return [f"{path.name} ({number})" for number, path in enumerate(whole, 1)]


@np.errstate(over="ignore", invalid="ignore")  # of numbers near the end of float64 the sums are infinite
def describe_evidence(
    evidence: Evidence, diagnosis: Diagnosis, run: Run, options: Sequence[str] = (), num_points: int = NUM_POINTS
) -> Document:
    """The document of a run whose evidence is at hand.

    Args:
        evidence: what was gathered of it.
        diagnosis: what was said of it.
        run: where it lies, or as it was read.
        options: what else `trimtab diagnose` was given to read the log, such as `--map`.
        num_points: about how many points its lines may have altogether.
    """
    folder = find_folder(run)
    status = tell_status(evidence)
    marks, num_left_out = list_marks(evidence)
    episodes = find_episodes([mark["step"] for mark in marks if mark["lane"] == "done"], ROOM)[:MOST_EPISODES]
    panels = describe_panels(list_panels(evidence), num_points, episodes)
    panels += describe_heatmaps(evidence, folder)
    panels += describe_spectra(evidence)
    panels.sort(key=lambda panel: SECTIONS.index(panel["section"]))
    steps = [int(series.steps[0]) for series in evidence.metrics.values() if len(series)]
    document = {
        "version": VERSION,
        "name": _name_run(run),
        "status": status,
        "verdict": diagnosis.verdict,
        "glance": glance(evidence, diagnosis, status),
        "facts": [list(each) for each in _list_facts(evidence, diagnosis, status)],
        "results": summarize_results(evidence),
        "steps": [min(steps, default=0), evidence.last_step],
        "undone": [list(span) for span in list_undone(evidence)],
        "panels": panels,
        "marks": marks,
        "num_left_out": num_left_out,
        "diagnosis": {name: each for name, each in diagnosis.to_dict().items() if name != "findings"},
        "timeline": describe_timeline(evidence),
        "rows": None if folder is None else describe_rows(folder),
        "tables": list(_list_tables(evidence, diagnosis, run, options)),
        "settings": flatten(evidence.manifest),
    }
    told: Document = to_json(document)
    return told


def find_folder(run: Run) -> Path | None:
    """The run folder of a run; None for another tool's log."""
    folder = Path(run) if isinstance(run, (str, Path)) else getattr(run, "folder", None)
    return folder if folder is not None and (folder / MANIFEST).is_file() else None


def tell_status(evidence: Evidence) -> str:
    """How a run ended; `NOT_ENDED` where nothing says."""
    events = [event for event in evidence.events if event.get("event") in ("end", "resumed")]
    return str(events[-1].get("status")) if events and events[-1].get("event") == "end" else NOT_ENDED


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Settings as one table: the names of those within others joined by dots, every value as text."""
    flat: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else f"{value}"
    return flat


def tell_moment(moment: str) -> str:
    """A moment as ISO has it, such as `2026-01-01T00:00:00+00:00`, for people; what is none stays as it is."""
    try:
        return f"{datetime.fromisoformat(moment):%Y-%m-%d %H:%M %Z}".strip()
    except ValueError:
        return moment


def _name_run(run: Run) -> str:
    path = Path(run) if isinstance(run, (str, Path)) else Path(run.folder if isinstance(run, RunLog) else run.source)
    return path.resolve().name or str(path)


def _list_facts(evidence: Evidence, diagnosis: Diagnosis, status: str) -> Iterator[tuple[str, str]]:
    manifest = evidence.manifest
    yield "status", status
    yield "steps", f"{diagnosis.num_steps:,} recorded, up to step {diagnosis.last_step:,}"
    if manifest.get("started"):
        yield "started", tell_moment(str(manifest["started"]))
    if manifest.get("versions"):
        yield "versions", ", ".join(f"{name} {number}" for name, number in manifest["versions"].items())
    if evidence.regime:
        yield "precision", evidence.regime
    if evidence.groups:
        yield "parameter groups", f"{len(evidence.groups)}"
    if manifest.get("command_line"):
        yield "command", " ".join(manifest["command_line"])
    for note in diagnosis.notes:
        yield "note", note


def _list_tables(
    evidence: Evidence, diagnosis: Diagnosis, run: Run, options: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """What a post-mortem tells in tables; those without a row are left out."""
    ruled_out = [(name, each.name, why) for each in diagnosis.causes for name, why in _split(each.ruled_out)]
    tables = (
        ("Summary", ("what",), [(fact,) for fact in tell_facts(diagnosis, evidence)]),
        ("Timeline", TIMELINE_HEAD, [(f"{step:,}", told) for step, told in list_timeline(diagnosis, evidence)]),
        ("Root cause", ("cause", "first seen at step", "what it is"), list_roots(diagnosis)),
        ("What was ruled out", ("cause", "in place of", "what speaks against it"), ruled_out),
        (
            f"Actions and their effect: losses are medians of {NEAR} records",
            EFFECTS_HEAD,
            list_effects(evidence),
        ),
        ("Not measured, and so not judged", ("what", "how to measure it"), _split(diagnosis.not_measured)),
        ("Reproduce", ("command",), [(f"`{each}`",) for each in list_commands(run, evidence, options)]),
    )
    for title, head, body in tables:
        if body:
            yield {"title": title, "head": list(head), "body": [list(row) for row in body]}


def _split(lines: Sequence[str]) -> list[tuple[str, str]]:
    """Lines such as `name: text` in two columns."""
    parts = (line.partition(": ") for line in lines)
    return [(name, text) for name, _, text in parts]
