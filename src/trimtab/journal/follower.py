"""Following a run folder while it is written: each look reads only what is new."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import RunFormatError
from trimtab.journal.format import EVENTS, JOURNAL, MANIFEST, TABLES, row_dtypes
from trimtab.journal.reader import read_manifest
from trimtab.types import Clock, Measurement, Value

CHUNK_BYTES = 1 << 21
"""What a look reads of a file at most, unless a single line is longer: a long run is told in parts."""

NO_METRICS = ("step", "clock")
"""What a line of the journal has beside metrics."""


@dataclass(frozen=True, slots=True)
class News:
    """What a run folder has that was not there at the last look."""

    is_anew: bool = False
    """True if the run was begun anew, or its last lines were taken back: what was told before does not count, and all
    of it is told again."""

    measurements: Sequence[Measurement] = ()
    """The new steps and reviews, in the order they were recorded; per-group metrics joined in."""

    events: Sequence[Mapping[str, Any]] = ()
    """The new events, in order."""


class LineFollower:
    """The whole lines that were appended to a JSON-lines file since the last look.

    A line that is not ended yet waits for the next look; a file that is not there has none.

    Args:
        path: the file.

    Attributes:
        end: bytes that were read.
        num_lines: lines that were read.
        is_behind: True if there was more to read at the last look.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.end = 0
        self.num_lines = 0
        self.is_behind = False

    @property
    def num_left(self) -> int:
        """Bytes of the file that were not read; negative if it is shorter than what was."""
        try:
            return self.path.stat().st_size - self.end
        except OSError:
            return -self.end

    def read(self) -> list[dict[str, Any]]:
        """The new lines, about a chunk of them at most.

        Raises:
            RunFormatError: if one is no JSON object.
        """
        content = self._read_lines()
        lines = parse_lines(content, self.path)
        self.end += len(content)
        self.num_lines += len(lines)
        return lines

    def _read_lines(self) -> bytes:
        size = CHUNK_BYTES
        while True:
            content = _read_bytes(self.path, self.end, size)
            end = content.rfind(b"\n") + 1
            self.is_behind = len(content) == size
            if end or not self.is_behind:
                return content[:end]
            size *= 2


class Follower:
    """Reads what is appended to a run folder, from its beginning on; one that is not begun yet is waited for.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest: Mapping[str, Any] | None = None
        self._grew_at: float | None = None
        self._dtypes: Mapping[str, np.dtype[Any]] = {}
        self._stamp: tuple[int, ...] | None = None
        self._journal, self._events = LineFollower(self.folder / JOURNAL), LineFollower(self.folder / EVENTS)
        self._ends = dict.fromkeys(TABLES, 0)

    @property
    def is_behind(self) -> bool:
        """True if there was more to read at the last look."""
        return self._journal.is_behind or self._events.is_behind

    @property
    def share_read(self) -> float:
        """The share of the run that was read, from 0 to 1."""
        whole = self._journal.end + max(self._journal.num_left, 0)
        return self._journal.end / whole if whole else 1.0

    def measure_silence(self) -> float:
        """Seconds for which nothing was written.

        They are those since something was seen to be written; where nothing was yet, since the files say so.
        """
        if self._grew_at is not None:
            return time.monotonic() - self._grew_at
        return measure_age(self.folder)

    def look(self) -> News:
        """What is new, at most about a chunk of each file.

        Raises:
            RunFormatError: if it is a run of another format, or damaged.
        """
        stamp = _read_stamp(self.folder / MANIFEST)
        told_before = self._stamp is not None
        is_anew = told_before and (stamp != self._stamp or self._is_shorter())
        if stamp is None or is_anew:
            self._begin()
        if stamp is None:
            return News(is_anew)
        if self.manifest is None:
            self.manifest = read_manifest(self.folder)
            self._dtypes = _read_dtypes(self.manifest, self.folder)
            self._stamp = stamp
        was_level = told_before and not is_anew and not self.is_behind
        first = self._journal.num_lines
        lines = self._journal.read()
        measurements = list(self._join(lines, first))
        events = self._events.read()
        if was_level and (lines or events):
            self._grew_at = time.monotonic()
        return News(is_anew, measurements, events)

    def _begin(self) -> None:
        self.manifest = None
        self._stamp = None
        self._journal, self._events = LineFollower(self.folder / JOURNAL), LineFollower(self.folder / EVENTS)
        self._ends = dict.fromkeys(TABLES, 0)

    def _is_shorter(self) -> bool:
        return self._journal.num_left < 0 or self._events.num_left < 0

    def _join(self, lines: Sequence[dict[str, Any]], first: int) -> Iterator[Measurement]:
        """The measurements of lines of the journal, counted from `first`, with their rows of the tables."""
        rows = [self._read_rows(name, first, first + len(lines)) for name in TABLES]
        for number, line in enumerate(lines, first):
            by_group = {metric: value for each in rows for metric, value in each.get(number, {}).items()}
            yield parse_measurement(line, self._journal.path, by_group)

    def _read_rows(self, name: str, first: int, last: int) -> dict[int, dict[str, Value]]:
        """The rows of a table that belong to lines from `first` to before `last`; those of later lines are left.

        A line and its rows are written together, the rows first.
        """
        assert self.manifest is not None
        dtype, metrics = self._dtypes[name], self.manifest[TABLES[name]]
        found: dict[int, dict[str, Value]] = {}
        while first < last:
            content = _read_bytes(self.folder / name, self._ends[name], max(CHUNK_BYTES, dtype.itemsize))
            rows = np.frombuffer(content[: len(content) // dtype.itemsize * dtype.itemsize], dtype=dtype)
            taken = rows[: int(np.searchsorted(rows["line"], last))]
            self._ends[name] += len(taken) * dtype.itemsize
            found.update(_split_rows(taken[taken["line"] >= first], metrics))
            if not len(taken) or len(taken) < len(rows):
                break
        return found


def parse_lines(content: bytes, path: Path) -> list[dict[str, Any]]:
    """Whole lines of a JSON-lines file.

    Raises:
        RunFormatError: if one is no JSON object.
    """
    lines = content.decode("utf-8", errors="replace").split("\n")[:-1]
    try:
        parsed = json.loads(f"[{','.join(lines)}]")
    except (ValueError, RecursionError) as error:
        raise RunFormatError(f"run: {str(path)!r} is damaged: a line of it is no JSON") from error
    if len(parsed) != len(lines) or not all(isinstance(each, dict) for each in parsed):
        raise RunFormatError(f"run: {str(path)!r} is damaged: a line of it is no JSON object")
    return list(parsed)


def parse_measurement(line: Mapping[str, Any], path: Path, by_group: Mapping[str, Value] | None = None) -> Measurement:
    """One line of `journal.jsonl` as a measurement.

    Args:
        line: the line.
        path: the file that it is from.
        by_group: what the tables have of it.

    Raises:
        RunFormatError: if it is none.
    """
    try:
        step = int(line["step"])
        clock: Clock = "review" if line.get("clock") == "review" else "step"
        values: dict[str, Value] = {name: float(each) for name, each in line.items() if name not in NO_METRICS}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise RunFormatError(f"run: {str(path)!r} is damaged: a line of it is no measurement") from error
    return Measurement(step, values | dict(by_group or {}), clock)


def measure_age(folder: Path) -> float:
    """Seconds since a run folder was last written to, by the times of its files; 0 if it is empty."""
    times = [stamp[0] for name in (MANIFEST, JOURNAL, EVENTS) if (stamp := _read_stamp(folder / name)) is not None]
    return max(time.time() - max(times) / 1e9, 0.0) if times else 0.0


def _read_dtypes(manifest: Mapping[str, Any], folder: Path) -> dict[str, np.dtype[Any]]:
    try:
        return row_dtypes(manifest)
    except (KeyError, TypeError, ValueError) as error:
        raise RunFormatError(f"run: the {MANIFEST} of {str(folder)!r} does not say what the run measures") from error


def _split_rows(rows: NDArray[Any], metrics: Sequence[str]) -> Iterator[tuple[int, dict[str, Value]]]:
    columns = [(metric, rows[metric]) for metric in metrics]
    for row, (line, present) in enumerate(zip(rows["line"].tolist(), rows["present"].tolist(), strict=True)):
        there = (each for bit, each in enumerate(columns) if present >> bit & 1)
        yield line, {metric: tuple(column[row].tolist()) for metric, column in there}


def _read_stamp(path: Path) -> tuple[int, ...] | None:
    """When a file was written and what tells it from another one of its name; None if it is not there."""
    try:
        told = path.stat()
    except OSError:
        return None
    return told.st_mtime_ns, told.st_size, told.st_ino


def _read_bytes(path: Path, start: int, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(size)
    except FileNotFoundError:
        return b""
