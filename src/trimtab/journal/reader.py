"""Reading a run folder, one that is still written to or was cut short included."""

from __future__ import annotations

import json
from bisect import bisect_left
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
    JOURNAL,
    MANIFEST,
    TABLES,
    parse_action,
    parse_decision,
    row_dtypes,
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
        RunFormatError: if there is none, or it is of another format.
    """
    path = Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFormatError(f"run: {str(folder)!r} is no run folder: it has no readable {MANIFEST}") from error
    if version != FORMAT_VERSION:
        raise RunFormatError(
            f"run: {str(folder)!r} has format {version}; this version of Trimtab reads format {FORMAT_VERSION} alone"
        )
    return dict(manifest)


def read_run(folder: str | Path) -> RunLog:
    """Read a run folder, one that is still being written to or was cut short included.

    Raises:
        RunFormatError: if it is no run folder, or of another format.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    tables = [_Table(read_table(folder, manifest, name), manifest[listed]) for name, listed in TABLES.items()]
    measurements = []
    for number, line in enumerate(read_lines(folder / JOURNAL)):
        step, clock = line.pop("step"), line.pop("clock", "step")
        values: dict[str, Value] = {name: float(value) for name, value in line.items()}
        for table in tables:
            values.update(table.take(number))
        measurements.append(Measurement(step, values, clock))
    return RunLog(folder, manifest, measurements, list(read_lines(folder / EVENTS)))


class _Table:
    """The rows of one file, taken line by line of the journal."""

    def __init__(self, rows: NDArray[Any], metrics: Sequence[str]) -> None:
        self._lines, self._present = rows["line"].tolist(), rows["present"].tolist()
        self._columns = [(metric, rows[metric]) for metric in metrics]
        self._next = 0

    def take(self, line: int) -> dict[str, Value]:
        """What was measured at a line; each line asked for has to be the one after that asked for before."""
        row = self._next
        if row == len(self._lines) or self._lines[row] != line:
            return {}
        self._next += 1
        there = (each for bit, each in enumerate(self._columns) if self._present[row] >> bit & 1)
        return {metric: tuple(column[row].tolist()) for metric, column in there}


def read_table(folder: Path, manifest: Mapping[str, Any], name: str) -> NDArray[Any]:
    """The whole rows of one of `TABLES`, as a structured array with one field per metric."""
    dtype, path = row_dtypes(manifest)[name], folder / name
    content = path.read_bytes() if path.exists() else b""
    return np.frombuffer(content[: len(content) // dtype.itemsize * dtype.itemsize], dtype=dtype)


def count_rows(path: Path, width: int, num_lines: int) -> int:
    """How many whole rows of a table belong to the first lines of a journal; few rows are read for it.

    Args:
        path: the table.
        width: bytes of a row.
        num_lines: how many lines the journal has.
    """
    with path.open("rb") as file:

        def read_line_number(row: int) -> int:
            file.seek(row * width)
            return int.from_bytes(file.read(4), "little")

        return bisect_left(range(path.stat().st_size // width), num_lines, key=read_line_number)


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
