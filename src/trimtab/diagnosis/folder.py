"""A run folder as evidence: read a chunk at a time into columns, so that a million steps fit and do not take long."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.diagnosis.evidence import Evidence, Series
from trimtab.diagnosis.gather import Columns, Rows, find_kept
from trimtab.journal import (
    EVENTS,
    GROUPS,
    JOURNAL,
    TABLES,
    parse_action,
    parse_decision,
    read_lines,
    read_manifest,
    row_dtypes,
)
from trimtab.types import Action, Decision

MOST_ROWS = 8192
"""Rows of a metric with one number per group that are looked at; of longer runs evenly spaced ones."""

CHUNK_BYTES = 1 << 22
"""What is read of a file at a time."""

DENSE = 0.25
"""The share of the steps from which a metric with one number per group is looked at in evenly spaced rows alone."""

MOST_DECISIONS = 20_000
"""Decisions that are read in full; of the later ones only those that kept an update from being made count."""

DECISION = '{"event": "decision", '
"""How the line of a decision begins."""

REJECTED = re.compile(r'"action": \{[^{}]*?"verdict": "(\w+)"')
"""What a decision's action was, where it was not to go ahead."""

STEP = re.compile(r'"step": (\d+)')


def gather_run(folder: str | Path) -> Evidence:
    """The evidence of a run folder.

    Raises:
        RunFormatError: if it is no run folder, or of another format.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    of_steps, of_reviews = Columns(), Columns()
    for lines in _read_chunks(folder / JOURNAL):
        steps = [line for line in lines if "clock" not in line]
        of_steps.extend(steps)
        if len(steps) < len(lines):
            of_reviews.extend([line for line in lines if "clock" in line])
    metrics, repairs = of_steps.build()
    reviews, _ = of_reviews.build()
    decided, others = read_events(folder / EVENTS)
    return Evidence(
        metrics | read_group_metrics(folder, manifest),
        reviews,
        tuple(manifest["groups"]),
        tuple(finding for decision, _ in decided for finding in decision.findings),
        tuple(decided),
        others,
        manifest,
        repairs=repairs,
    )


def _read_chunks(path: Path) -> Iterator[list[dict[str, Any]]]:
    """The whole lines of a JSON-lines file, many at a time."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        while lines := file.readlines(CHUNK_BYTES):
            if not lines[-1].endswith("\n"):
                lines.pop()
            try:
                yield json.loads(f"[{','.join(lines)}]")
            except ValueError:
                yield list(read_lines(path))  # which says what is wrong
                return


def read_events(path: Path) -> tuple[list[tuple[Decision, Action]], list[Mapping[str, Any]]]:
    """The decisions that had findings, and the other events but those of health."""
    decided: list[tuple[Decision, Action]] = []
    others: list[Mapping[str, Any]] = []
    if not path.exists():
        return decided, others
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if len(decided) >= MOST_DECISIONS and line.startswith(DECISION):
                verdict, step = REJECTED.search(line), STEP.search(line)
                if verdict is not None and step is not None:
                    action = Action(int(step[1]), verdict[1])
                    decided.append((Decision(action.step, action.verdict), action))
            elif line.endswith("\n") and not line.startswith('{"event": "health"'):
                event = json.loads(line)
                if event["event"] == "decision":
                    decided.append((parse_decision(event["decision"]), parse_action(event["action"])))
                else:
                    others.append(event)
    return decided, others


def read_group_metrics(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Series]:
    """The metrics with one number per group; of long runs those of every step at evenly spaced rows, and if not finite.

    Those of sampled steps are read at all of them.
    """
    return {metric: each for table in TABLES for metric, each in _read_table(folder, manifest, table).items()}


def _read_table(folder: Path, manifest: Mapping[str, Any], table: str) -> dict[str, Series]:
    names, dtype, path = manifest[TABLES[table]], row_dtypes(manifest)[table], folder / table
    num_rows = path.stat().st_size // dtype.itemsize if path.exists() else 0
    if not num_rows or not manifest["groups"]:
        return {}
    stride = -(-num_rows // MOST_ROWS) if table == GROUPS else 1
    parts: dict[str, list[tuple[Rows, NDArray[np.float32]]]] = {name: [] for name in names}
    per_chunk = max(CHUNK_BYTES // dtype.itemsize, 1)
    with path.open("rb") as file:
        for first in range(0, num_rows, per_chunk):
            rows = np.fromfile(file, dtype=dtype, count=min(per_chunk, num_rows - first))
            is_spaced = (np.arange(first, first + len(rows)) % stride) == 0
            for bit, name in enumerate(names):
                there = (rows["present"] >> bit & 1).astype(bool)
                if there.mean() > DENSE:
                    there &= is_spaced | ~np.isfinite(rows[name].sum(axis=1))
                parts[name].append((rows["step"][there].astype(np.int64), rows[name][there]))
    series = {}
    for name, found in parts.items():
        steps = np.concatenate([each for each, _ in found])
        if len(steps):
            values = np.concatenate([each for _, each in found]).astype(np.float64)
            kept = find_kept(steps) & np.append(steps[1:] != steps[:-1], True)
            series[name] = Series(steps[kept], values[kept])
    return series
