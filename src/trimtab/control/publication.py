"""Publication: a model's weights and a card that says how they came to be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import nn

from trimtab.control.weights import write_weights
from trimtab.errors import RunFormatError
from trimtab.journal import parse_decision
from trimtab.journal.format import EVENTS, parse_action
from trimtab.journal.manifest import redact
from trimtab.journal.reader import read_lines, read_manifest
from trimtab.journal.recorder import tell_story
from trimtab.journal.writer import write_aside

FOLDER = "export"
"""The folder in a run folder that holds the export."""

WEIGHTS, CARD = "model.safetensors", "README.md"
"""The names under which model hubs look for weights and card."""

MOST_LISTED = 20
"""Rows a table of the card has at most: of reviews the newest, of interventions the newest."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a card says of a run beside what the run folder holds."""

    status: str
    """How the run stands, such as `finished`."""

    num_steps: int
    """Optimizer steps."""

    num_epochs: int
    """Epochs completed."""

    data: str
    """The training data in words."""

    held: str
    """Which weights these are, in words."""

    reviews: Sequence[Mapping[str, Any]]
    """The reviews, with epoch, step and every metric."""


def publish(model: nn.Module, run: Path, facts: Facts) -> Path:
    """Export a model: its weights as `model.safetensors`, and a card of its run in Markdown.

    Args:
        model: the model as it is to be published.
        run: the run folder, into whose folder `export` both are written.
        facts: what else is known of the run.

    Returns:
        The folder of the export.
    """
    folder = run / FOLDER
    folder.mkdir(exist_ok=True)
    write_weights(model, folder / WEIGHTS)
    write_aside(folder / CARD, write_card(model, run, facts))
    return folder


def write_card(model: nn.Module, run: Path, facts: Facts) -> str:
    """The card of a run: how it was trained, on what, how good it became, and what had to be done on the way."""
    try:
        manifest = read_manifest(run)
    except RunFormatError:
        manifest = {}
    num_parameters = sum(each.numel() for each in model.parameters())
    parts = [
        "---\nlibrary_name: pytorch\ntags:\n- trimtab\n---",
        f"# {run.resolve().name}",
        f"A `{type(model).__name__}` with {num_parameters:,} parameters, trained with `trimtab.fit`. The weights are "
        f"{facts.held}.",
        "## Data",
        facts.data,
        "## Training",
        _tabulate(("what", "value"), _describe(manifest, facts)),
        "## Metrics",
        _list_reviews(facts.reviews),
        "## Interventions",
        _list_interventions(run),
    ]
    return "\n\n".join(parts) + "\n"


def _describe(manifest: Mapping[str, Any], facts: Facts) -> list[tuple[str, Any]]:
    versions = ", ".join(f"{name} {version}" for name, version in manifest.get("versions", {}).items())
    rows = [
        ("status", facts.status),
        ("steps", facts.num_steps),
        ("epochs", facts.num_epochs),
        ("started", manifest.get("started")),
        ("exported", datetime.now(UTC).isoformat(timespec="seconds")),
        ("dtypes", ", ".join(manifest.get("dtypes", ()))),
        ("gradient norm clipped to", manifest.get("clip_norm")),
        ("versions", versions),
        ("command line", " ".join(redact(manifest.get("command_line", ())))),
    ]
    return [(name, value) for name, value in rows if value not in (None, "")]


def _list_reviews(reviews: Sequence[Mapping[str, Any]]) -> str:
    if not reviews:
        return "The run has had no validation."
    names = list(dict.fromkeys(name for review in reviews for name in review))
    rows = [[_show(review.get(name, "")) for name in names] for review in reviews[-MOST_LISTED:]]
    return _tabulate(names, rows)


def _list_interventions(run: Path) -> str:
    events = [event for event in read_lines(run / EVENTS) if event["event"] == "decision"]
    acted = [(parse_decision(event["decision"]), parse_action(event["action"])) for event in events]
    acted = [(decision, action) for decision, action in acted if decision.responses]
    if not acted:
        return "None: the supervisor had nothing to put right."
    counts = Counter(action.verdict for _, action in acted)
    summary = ", ".join(f"{verdict} {num}" for verdict, num in counts.most_common())
    rows = [(each.step, action.verdict, tell_story(each, action)) for each, action in acted[-MOST_LISTED:]]
    newest = f" The newest {MOST_LISTED}:" if len(acted) > MOST_LISTED else ""
    return f"{len(acted)} in all: {summary}.{newest}\n\n{_tabulate(('step', 'what was done', 'why'), rows)}"


def _tabulate(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(_escape(each) for each in line) + " |" for line in lines)


def _escape(value: Any) -> str:
    return " ".join(str(value).replace("|", "\\|").split())


def _show(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
