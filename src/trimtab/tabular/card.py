"""The card of a run: what was read, dropped, learned and changed, and how good it is; as JSON and as a page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trimtab.diagnosis.adaptations import tell_adaptation
from trimtab.journal import to_json, write_aside
from trimtab.tabular.inference import ColumnType
from trimtab.tabular.training import Trained

CARD_JSON, CARD_PAGE = "card.json", "card.html"
"""The files of a card."""

FORMAT = 1
"""The version of the JSON."""

SHOWN = (
    "recall_at_1",
    "recall_ceiling",
    "recall_chance",
    "embedding_r",
    "effective_rank",
    "column_diversity",
    "quality_score",
    "quality_possible",
)
"""The numbers of the last review that a card has."""


def describe_card(
    source: str, num_rows: int, trained: Trained, metrics: Mapping[str, float], head: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Everything that a card says, as JSON can hold it.

    Args:
        source: where the table is from.
        num_rows: its rows.
        trained: how the training went.
        metrics: the numbers of the review whose weights the model has.
        head: what a head on the embeddings gave; None without a target.
    """
    result = trained.result
    outcomes = {each.of: each.message for each in result.outcomes}
    return {
        "format": FORMAT,
        "read": {"source": source, "rows": num_rows, "notes": list(trained.notes)},
        "columns": [each.to_dict() for each in trained.types.values()],
        "learned": {
            "status": result.status,
            "reason": result.reason,
            "steps": result.num_steps,
            "epochs": result.num_epochs,
            "weights_of_epoch": None if result.restored is None else result.restored.epoch,
            "rows_trained_on": trained.num_trained_on,
            "rows_held_out": trained.num_held_out,
            "parameters": sum(each.numel() for each in trained.model.parameters()),
            "settings": trained.settings.to_dict(),
        },
        "changed": [tell_adaptation(each.to_event(), outcomes.get(each.name, "")) for each in result.adaptations],
        "found": list_findings(trained),
        "quality": {name: metrics[name] for name in SHOWN if name in metrics},
        "target": None if head is None else dict(head),
    }


def list_findings(trained: Trained) -> list[str]:
    """The detectors that found something at reviews, and how often."""
    counts: dict[str, int] = {}
    for review in trained.result.reviews:
        for name in review.findings:
            counts[name] = counts.get(name, 0) + 1
    return [f"{name} at {num} review{'s' if num > 1 else ''}" for name, num in counts.items()]


def write_card(folder: Path, card: Mapping[str, Any], run: Path | None) -> None:
    """Write a card as JSON, and with a run folder as a page that has all of the run too.

    Args:
        folder: where to write.
        card: what `describe_card` said.
        run: the run folder.
    """
    write_aside(folder / CARD_JSON, json.dumps(to_json(dict(card)), indent=1, ensure_ascii=False) + "\n")
    if run is None:
        return
    from trimtab.report.document import describe_run
    from trimtab.report.page import write_report

    document = describe_run(run)
    document["tables"] = [*list_tables(card), *document.get("tables", [])]
    write_report(folder / CARD_PAGE, document)


def list_tables(card: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tables of a card's page."""
    learned = {**card["learned"], **{f"quality: {name}": value for name, value in card["quality"].items()}}
    learned.pop("settings")
    tables: list[tuple[str, Sequence[str], list[list[str]]]] = [
        (
            "What was read",
            ("", ""),
            [
                ["source", card["read"]["source"]],
                ["rows", f"{card['read']['rows']:,}"],
                *([f"note {number}", note] for number, note in enumerate(card["read"]["notes"], start=1)),
            ],
        ),
        (
            "What each column was taken for",
            ("column", "kind", "why", "missing", "distinct"),
            [
                [each["name"], each["kind"], each["reason"], f"{each['num_missing']:,}", f"{each['num_distinct']:,}"]
                for each in card["columns"]
            ],
        ),
        ("What was learned", ("", ""), [[name.replace("_", " "), _show(value)] for name, value in learned.items()]),
        ("What was changed", ("change",), [[each] for each in card["changed"]]),
        ("What was found", ("finding",), [[each] for each in card["found"]]),
        (
            "What the embedding says of the target",
            ("", ""),
            [[name.replace("_", " "), _show(value)] for name, value in (card["target"] or {}).items()],
        ),
    ]
    return [{"title": title, "head": list(head), "body": body} for title, head, body in tables if body]


def tell_columns(types: Mapping[str, ColumnType]) -> str:
    """How many columns there are of each kind, in a few words."""
    counts: dict[str, int] = {}
    for each in types.values():
        counts[each.kind] = counts.get(each.kind, 0) + 1
    return ", ".join(f"{num} {kind}" for kind, num in counts.items())


def _show(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
