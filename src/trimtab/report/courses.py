"""What was planned for each epoch and what happened, and what a run saw of the rows of its data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.diagnosis.evidence import Evidence
from trimtab.journal.rows import KINDS, read_rows

MOST_ROWS = 20
"""Rows that are listed of each kind."""

ABOUT = {
    "hard": "seen and never right",
    "late": "learned later than nine tenths of those learned",
    "flip-flop": "forgotten at least twice after they were learned",
    "never-seen": "in no batch",
    "seen-twice": "more than once in an epoch",
    "nonfinite-loss": "with a loss that is not finite",
}
"""What each kind of rows is."""

SHOWN = ("row", "mean_loss", "last_loss", "num_epochs", "first_learned", "num_flips", "suspicion")
"""The columns that are listed of a row."""

SAME = 1e-9
"""The share by which two learning rates may differ and are the same."""


def describe_timeline(evidence: Evidence) -> list[dict[str, Any]]:
    """Of each epoch what was planned and what happened; nothing of a run without a plan."""
    planned: dict[int, dict[str, Any]] = {}
    made: dict[int, Mapping[str, Any]] = {}
    changed: dict[int, list[str]] = {}
    for event in evidence.events:
        if event.get("event") == "plan" and "learning_rate" in event:  # a loop of one's own may tell its length alone
            pairs = zip(event["learning_rate"], event["phase"], strict=True)
            for epoch, (rate, phase) in enumerate(pairs, event["first_epoch"]):
                planned[epoch] = {"rate": rate, "phase": phase, "settings": event.get("settings", {})}
        elif event.get("event") == "epoch":
            made[int(event["epoch"])] = event
        elif event.get("event") == "adaptation":
            changed.setdefault(int(event.get("epoch", 0)) + 1, []).append(str(event.get("name")))
    return [
        _describe_epoch(epoch, planned.get(epoch, {}), made.get(epoch), changed) for epoch in sorted(planned | made)
    ]


def _describe_epoch(
    epoch: int, planned: Mapping[str, Any], made: Mapping[str, Any] | None, changed: Mapping[int, list[str]]
) -> dict[str, Any]:
    told = list(changed.get(epoch, ()))
    if made is not None:
        was = planned.get("settings", {})
        settings = made.get("settings", {})
        told += [f"{name} {value:g}" for name, value in settings.items() if was.get(name, value) != value]
        told += ["phase"] * (planned.get("phase", made.get("phase")) != made.get("phase"))
        told += ["learning rate"] * (not _is_same(planned.get("rate"), made.get("learning_rate")))
    return {
        "epoch": epoch,
        "planned_phase": planned.get("phase"),
        "planned_rate": planned.get("rate"),
        "is_made": made is not None,
        "step": None if made is None else made.get("step"),
        "phase": None if made is None else made.get("phase"),
        "rate": None if made is None else made.get("learning_rate"),
        "partition": None if made is None else made.get("partition"),
        "departs": told,
    }


def _is_same(planned: Any, rate: Any) -> bool:
    return planned is None or rate is None or abs(rate - planned) <= SAME * abs(planned)


def describe_rows(folder: Path) -> dict[str, Any] | None:
    """How many rows there are of each kind, and the first of them; None where rows were not followed."""
    read = read_rows(folder)
    if read is None:
        return None
    held, noted = read
    kinds = []
    for name, is_kind in KINDS.items():
        rows = np.flatnonzero(is_kind(held))
        if len(rows):
            ranked = rows[np.argsort(-np.nan_to_num(_rank(name, held)[rows]), kind="stable")]
            listed = [_describe_row(held, int(row)) for row in ranked[:MOST_ROWS]]
            kinds.append({"kind": name, "about": ABOUT[name], "num": len(rows), "rows": listed})
    suspects = np.flatnonzero(np.isfinite(held["suspicion"].astype(np.float64)))
    ranked = suspects[np.argsort(-held["suspicion"][suspects], kind="stable")]
    return {
        "num": len(held["row"]),
        "head": list(SHOWN),
        "kinds": kinds,
        "suspects": [_describe_row(held, int(row)) for row in ranked[:MOST_ROWS]],
        "num_suspects": len(suspects),
        "about_suspects": noted.get("suspects", ""),
    }


def _rank(kind: str, held: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    """By what the rows of a kind are ordered, the highest first."""
    name = {"late": "first_learned", "flip-flop": "num_flips"}.get(kind, "mean_loss")
    return held[name].astype(np.float64)


def _describe_row(held: Mapping[str, NDArray[Any]], row: int) -> list[Any]:
    numbers = [held[name][row].item() for name in SHOWN]
    return [
        float(f"{each:.4g}") if isinstance(each, float) and each == each else None if each != each else each
        for each in numbers
    ]
