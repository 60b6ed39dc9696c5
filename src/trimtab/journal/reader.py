"""Reading a run folder, one that is still written to or was cut short included."""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import RunFormatError
from trimtab.journal.format import (
    EVENTS,
    FORMAT_VERSION,
    GROUPS,
    JOURNAL,
    MANIFEST,
    parse_action,
    parse_decision,
    row_dtype,
)
from trimtab.types import Action, Clock, Decision, Measurement, Value


@dataclass(frozen=True, slots=True)
class RunLog:
    """A run folder that was read."""

    folder: Path
    """Where it lies."""

    manifest: Mapping[str, Any]
    """What the run was started with."""

    measurements: Sequence[Measurement]
    """Every step and review, in the order they were recorded; per-group metrics joined in."""

    events: Sequence[Mapping[str, Any]]
    """Every event, in order."""

    @property
    def decided(self) -> list[tuple[Decision, Action]]:
        """The decisions that had findings, with their actions, in the order they were made."""
        events = [event for event in self.events if event["event"] == "decision"]
        return [(parse_decision(event["decision"]), parse_action(event["action"])) for event in events]

    @property
    def records(self) -> Mapping[tuple[int, Clock], tuple[Decision, Action]]:
        """The same by step and clock; of a step that was taken again after a resume, the later."""
        return {(decision.step, decision.clock): (decision, action) for decision, action in self.decided}


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of a run folder.

    Raises:
        RunFormatError: if there is none, or it is of a newer format.
    """
    path = Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFormatError(f"run: {str(folder)!r} is no run folder: it has no readable {MANIFEST}") from error
    if version > FORMAT_VERSION:
        raise RunFormatError(f"run: {str(folder)!r} has format {version}; this version reads up to {FORMAT_VERSION}")
    return dict(manifest)


def read_run(folder: str | Path) -> RunLog:
    """Read a run folder, one that is still being written to or was cut short included.

    Raises:
        RunFormatError: if it is no run folder, or of a newer format.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    rows = read_groups(folder, manifest)
    rows_of: dict[int, deque[Any]] = defaultdict(deque)
    for row in rows:
        rows_of[int(row["step"])].append(row)
    metrics = manifest["group_metrics"]
    measurements = []
    for line in read_lines(folder / JOURNAL):
        step, clock = line.pop("step"), line.pop("clock", "step")
        values: dict[str, Value] = {name: float(value) for name, value in line.items()}
        if clock == "step" and rows_of[step]:
            row = rows_of[step].popleft()
            found = {metric: row[metric] for bit, metric in enumerate(metrics) if row["present"] >> bit & 1}
            values.update({metric: tuple(numbers.tolist()) for metric, numbers in found.items()})
        measurements.append(Measurement(step, values, clock))
    return RunLog(folder, manifest, measurements, list(read_lines(folder / EVENTS)))


def read_groups(folder: Path, manifest: Mapping[str, Any]) -> NDArray[Any]:
    """The whole rows of `groups.f32`, as a structured array with one field per metric."""
    dtype = row_dtype(manifest["groups"], manifest["group_metrics"])
    path = folder / GROUPS
    content = path.read_bytes() if path.exists() else b""
    return np.frombuffer(content[: len(content) // dtype.itemsize * dtype.itemsize], dtype=dtype)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a JSON-lines file; one that is not ended by a newline was cut short and is left out."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.endswith("\n"):
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise RunFormatError(f"run: {str(path)!r} is damaged: a line of it is no JSON") from error
