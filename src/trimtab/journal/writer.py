"""Writing a run folder from a thread of its own, off the hot path."""

from __future__ import annotations

import atexit
import json
import logging
import math
import os
import threading
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.errors import InputError, RunExistsError
from trimtab.journal.format import (
    EVENTS,
    JOURNAL,
    MANIFEST,
    TABLES,
    format_event,
    format_measurement,
    row_dtypes,
    to_json,
)
from trimtab.journal.reader import count_rows, read_manifest
from trimtab.types import Measurement, Record

FLUSH_SECONDS = 0.5
"""The writer wakes this often, so that a kill loses less than the last second."""

CHUNK = 1000
"""Records formatted at a time; a disk that took none is tried with one."""

MAX_WAITING = 20_000
"""Records kept in memory while the disk takes none; beyond, the oldest are lost and counted."""

logger = logging.getLogger("trimtab")


class Journal:
    """Writes a run folder from a thread of its own.

    Args:
        folder: the run folder; made if it is not there.
        manifest: what the run is started with; `groups` names its parameter groups, `group_metrics` and
            `sampled_metrics` the metrics with one number per group.
        resume: go on writing to a run that is there already.

    Raises:
        RunExistsError: if the folder holds a run and `resume` is not set.
        RunFormatError: if the run that is there already is of another format.
        InputError: if the folder cannot be written.
    """

    def __init__(self, folder: str | Path, manifest: Mapping[str, Any], *, resume: bool = False) -> None:
        self.folder = Path(folder)
        self._groups: Sequence[str] = manifest["groups"]
        self._metrics: dict[str, Sequence[str]] = {name: manifest[listed] for name, listed in TABLES.items()}
        self._waiting: deque[Record | Mapping[str, Any]] = deque()
        self._num_lines = 0
        self._num_lost = 0
        self._failure = ""
        self._writing = threading.Lock()
        self._closing = threading.Event()
        try:
            self._files = self._open(manifest, resume)
        except OSError as error:
            raise InputError(f"run: the folder {str(folder)!r} cannot be written: {_name_cause(error)}") from error
        threading.Thread(target=_keep_flushing, args=(weakref.ref(self), self._closing), daemon=True).start()
        atexit.register(_close_at_exit, weakref.ref(self))

    def write(self, record: Record) -> None:
        """Take one record; it is formatted and written in the background."""
        self._waiting.append(record)

    def write_event(self, event: str, **fields: Any) -> None:
        """Take one event that is no record of a step, by its name and what JSON can hold."""
        self._waiting.append({"event": event, **fields})

    def flush(self) -> None:
        """Write everything taken so far. A disk that takes none is warned about once; nothing is raised."""
        with self._writing:
            while self._waiting:
                most = 1 if self._failure else CHUNK
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), most))]
                try:
                    self._write_batch(batch)
                except OSError as error:
                    self._keep_for_later(batch, error)
                    return

    def close(self) -> None:
        """Write everything and close the files; the journal takes nothing more."""
        if self._closing.is_set():
            return
        self._closing.set()
        self.flush()
        with self._writing:
            for file in self._files.values():
                file.close()
        if self._waiting:
            logger.warning("the journal in %r lost its last %d records", str(self.folder), len(self._waiting))

    def __del__(self) -> None:
        """A journal that is forgotten writes what it took."""
        if hasattr(self, "_files"):
            self.close()

    def _open(self, manifest: Mapping[str, Any], resume: bool) -> dict[str, _AppendedFile]:
        self.folder.mkdir(parents=True, exist_ok=True)
        exists = (self.folder / MANIFEST).exists()
        if exists and not resume:
            raise RunExistsError(
                f"run: {str(self.folder)!r} already holds a run, which is never overwritten; "
                "choose a new name, or pass resume=True to go on with it"
            )
        if exists:
            kept = read_manifest(self.folder)
            if any(kept[name] != list(manifest[name]) for name in ("groups", *TABLES.values())):
                raise InputError(f"run: {str(self.folder)!r} has other parameter groups; choose a new name")
            if any(kept.get(name) != to_json(manifest.get(name)) for name in ("policy", "clip_norm")):
                raise InputError(
                    f"run: {str(self.folder)!r} was started with another policy or clip_norm; "
                    "pass the same, or choose a new name"
                )
        files = {name: _AppendedFile(self.folder / name) for name in (JOURNAL, *TABLES, EVENTS)}
        if not exists:
            write_aside(self.folder / MANIFEST, json.dumps(to_json(manifest), indent=1) + "\n")
        contents = {name: (self.folder / name).read_bytes() for name in (JOURNAL, EVENTS)}
        for name, content in contents.items():
            files[name].cut_to(content.rfind(b"\n") + 1)
        self._num_lines = contents[JOURNAL].count(b"\n")
        for name, dtype in row_dtypes(manifest).items():
            num_rows = count_rows(self.folder / name, dtype.itemsize, self._num_lines)
            files[name].cut_to(num_rows * dtype.itemsize)
        return files

    def _write_batch(self, batch: Sequence[Record | Mapping[str, Any]]) -> None:
        if self._failure:
            gap = {"event": "gap", "num_lost": self._num_lost, "reason": self._failure}
            batch = [gap, *batch]
        measured = [each.measurement for each in batch if isinstance(each, Record)]
        numbered = list(enumerate(measured, self._num_lines))
        chunks = {
            **{name: b"".join(self._pack_row(name, line, each) for line, each in numbered) for name in TABLES},
            JOURNAL: "".join(map(format_measurement, measured)).encode(),
            EVENTS: "".join(format_event(each) for each in batch).encode(),
        }
        ends = {name: self._files[name].end for name in chunks}
        try:
            for name, chunk in chunks.items():
                self._files[name].append(chunk)
        except OSError:
            for name, end in ends.items():
                self._files[name].cut_to(end)
            raise
        self._num_lines += len(measured)
        self._failure, self._num_lost = "", 0

    def _keep_for_later(self, batch: Sequence[Record | Mapping[str, Any]], error: OSError) -> None:
        if not self._failure:
            self._failure = _name_cause(error)
            logger.warning(
                "the journal in %r cannot be written (%s); the run goes on, and the journal will name the gap",
                str(self.folder),
                self._failure,
            )
        self._waiting.extendleft(reversed(batch))
        while len(self._waiting) > MAX_WAITING:
            self._waiting.popleft()
            self._num_lost += 1

    def _pack_row(self, name: str, line: int, measurement: Measurement) -> bytes:
        """The row of a table that belongs to a line of the journal; empty where nothing of it was measured."""
        values, metrics = measurement.values, self._metrics[name]
        present = sum(1 << index for index, metric in enumerate(metrics) if metric in values)
        if measurement.clock != "step" or not present:
            return b""
        absent = (math.nan,) * len(self._groups)
        numbers = [values.get(metric, absent) for metric in metrics]
        head = np.array([line, measurement.step, present], dtype="<u4")
        return head.tobytes() + np.asarray(numbers, dtype="<f4").tobytes()


class _AppendedFile:
    """A file that is appended to, whose every write is whole or taken back."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.end = os.fstat(self._descriptor).st_size

    def append(self, chunk: bytes) -> None:
        left = memoryview(chunk)
        while left:
            num_written = os.write(self._descriptor, left)
            left = left[num_written:]
            self.end += num_written

    def cut_to(self, end: int) -> None:
        if end != self.end:
            os.ftruncate(self._descriptor, end)
            self.end = end

    def close(self) -> None:
        os.close(self._descriptor)


def _keep_flushing(journal: weakref.ref[Journal], closing: threading.Event) -> None:
    """The writer's thread; it holds no journal between two flushes, so that a forgotten one can end."""
    while not closing.wait(FLUSH_SECONDS):
        alive = journal()
        if alive is None:
            return
        alive.flush()
        del alive


def _close_at_exit(journal: weakref.ref[Journal]) -> None:
    alive = journal()
    if alive is not None:
        alive.close()


def _name_cause(error: OSError) -> str:
    return error.strerror or type(error).__name__


def write_aside(path: Path, text: str) -> None:
    """Write a file such that it is there whole or not at all: beside it first, then renamed."""
    aside = path.with_name(f"{path.name}.new")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
