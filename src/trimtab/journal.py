"""The run folder: manifest, journal and events; written off the hot path, readable half-written.

    manifest.json    versions, groups, policy: what the run was started with
    journal.jsonl    dense: one line per step or review, the metrics that are one number
    groups.f32       dense: one row per step, the metrics with one number per group
    events.jsonl     sparse: findings, decisions and actions; faults, gaps, the end

A row of `groups.f32` is little-endian: the step as a uint32; a uint32 whose bit i says whether metric i was measured
at this step; then for each metric the manifest names, in its order, one float32 per group. Non-finite numbers are
text in the JSON files: `"NaN"`, `"Infinity"`, `"-Infinity"`. The last line or row may be cut short by a crash;
reading stops before it.
"""

from __future__ import annotations

import atexit
import json
import logging
import math
import os
import platform
import re
import sys
import threading
import weakref
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import InputError, RunExistsError, RunFormatError
from trimtab.types import (
    Action,
    Adjustment,
    Change,
    Clock,
    Decision,
    Finding,
    Measurement,
    Record,
    Response,
    Value,
)

FORMAT_VERSION = 1
"""The version of the run folder's format; a reader refuses a newer one."""

FLUSH_SECONDS = 0.5
"""The writer wakes this often, so that a kill loses less than the last second."""

CHUNK = 1000
"""Records formatted at a time; a disk that took none is tried with one."""

MAX_WAITING = 20_000
"""Records kept in memory while the disk takes none; beyond, the oldest are lost and counted."""

MANIFEST, JOURNAL, GROUPS, EVENTS = "manifest.json", "journal.jsonl", "groups.f32", "events.jsonl"

logger = logging.getLogger("trimtab")


class Journal:
    """Writes a run folder from a thread of its own.

    Args:
        folder: the run folder; made if it is not there.
        manifest: what the run is started with; `groups` names its parameter groups, `group_metrics` the metrics with
            one number per group.
        resume: go on writing to a run that is there already.

    Raises:
        RunExistsError: if the folder holds a run and `resume` is not set.
        InputError: if the folder cannot be written.
    """

    def __init__(self, folder: str | Path, manifest: Mapping[str, Any], *, resume: bool = False) -> None:
        self.folder = Path(folder)
        self._groups: Sequence[str] = manifest["groups"]
        self._group_metrics: Sequence[str] = manifest["group_metrics"]
        self._waiting: deque[Record | Mapping[str, Any]] = deque()
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
            if kept["groups"] != list(self._groups) or kept["group_metrics"] != list(self._group_metrics):
                raise InputError(f"run: {str(self.folder)!r} has other parameter groups; choose a new name")
            if any(kept.get(name) != to_json(manifest.get(name)) for name in ("policy", "clip_norm")):
                raise InputError(
                    f"run: {str(self.folder)!r} was started with another policy or clip_norm; "
                    "pass the same, or choose a new name"
                )
        files = {name: _AppendedFile(self.folder / name) for name in (JOURNAL, GROUPS, EVENTS)}
        if not exists:
            write_aside(self.folder / MANIFEST, json.dumps(to_json(manifest), indent=1) + "\n")
        for name in (JOURNAL, EVENTS):
            files[name].cut_to((self.folder / name).read_bytes().rfind(b"\n") + 1)
        num_steps = sum("clock" not in line for line in read_lines(self.folder / JOURNAL))
        width = row_dtype(self._groups, self._group_metrics).itemsize
        files[GROUPS].cut_to(min(files[GROUPS].end // width, num_steps) * width)
        return files

    def _write_batch(self, batch: Sequence[Record | Mapping[str, Any]]) -> None:
        if self._failure:
            gap = {"event": "gap", "num_lost": self._num_lost, "reason": self._failure}
            batch = [gap, *batch]
        records = [each for each in batch if isinstance(each, Record)]
        chunks = {
            GROUPS: b"".join(self._pack_groups(record.measurement) for record in records),
            JOURNAL: "".join(format_measurement(record.measurement) for record in records).encode(),
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

    def _pack_groups(self, measurement: Measurement) -> bytes:
        if measurement.clock != "step":
            return b""
        values, absent = measurement.values, (math.nan,) * len(self._groups)
        present = sum(1 << index for index, metric in enumerate(self._group_metrics) if metric in values)
        rows = [values.get(metric, absent) for metric in self._group_metrics]
        return np.array([measurement.step, present], dtype="<u4").tobytes() + np.asarray(rows, dtype="<f4").tobytes()


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


SECRET = re.compile(r"(^|[^a-z])(token|secret|password|passwd|(api)?key|auth|credentials?)$", re.IGNORECASE)
"""What the name of a command-line option with a secret looks like."""


LOGIN = re.compile(r"(?<=://)[^/@\s]+(?=@)")
"""Where an address holds a user's name and password."""


def describe_run(
    groups: Sequence[str], group_metrics: Sequence[str], dtypes: Sequence[str], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The manifest of a run that starts now: versions, command line with secrets redacted, groups and settings.

    Args:
        groups: the names of the parameter groups.
        group_metrics: the metrics with one number per group.
        dtypes: the dtypes of the parameters.
        settings: what the run was configured with, such as the policy.
    """
    return {
        "format": FORMAT_VERSION,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in ("trimtab", "torch")}},
        "command_line": redact(sys.argv),
        "dtypes": list(dtypes),
        "groups": list(groups),
        "group_metrics": list(group_metrics),
        **settings,
    }


def redact(arguments: Sequence[str]) -> list[str]:
    """A command line without the values of options whose names speak of a secret."""
    shown: list[str] = []
    for argument, before in zip(arguments, ["", *arguments], strict=False):
        name, equals, _ = argument.partition("=")
        if equals and SECRET.search(name):
            shown.append(f"{name}=***")
        elif before.startswith("-") and "=" not in before and SECRET.search(before):
            shown.append("***")
        else:
            shown.append(LOGIN.sub("***", argument))
    return shown


def row_dtype(groups: Sequence[str], group_metrics: Sequence[str]) -> np.dtype[Any]:
    """The layout of one row of `groups.f32`: step, bits of the metrics measured, each metric's numbers by group."""
    return np.dtype(
        [("step", "<u4"), ("present", "<u4"), *((metric, "<f4", (len(groups),)) for metric in group_metrics)]
    )


def to_json(value: Any) -> Any:
    """A value as JSON can hold it: non-finite numbers as text, tuples as lists, keys as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): to_json(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(each) for each in value]
    return value


def format_measurement(measurement: Measurement) -> str:
    """One line of `journal.jsonl`: the step, the clock if it is a review, and every metric that is one number."""
    line: dict[str, Any] = {"step": measurement.step}
    if measurement.clock != "step":
        line["clock"] = measurement.clock
    line.update((name, value) for name, value in measurement.values.items() if not isinstance(value, tuple))
    try:
        return json.dumps(line, allow_nan=False) + "\n"
    except ValueError:
        return json.dumps(to_json(line)) + "\n"


def format_event(event: Record | Mapping[str, Any]) -> str:
    """One line of `events.jsonl`; empty for a record without findings."""
    if not isinstance(event, Record):
        return json.dumps(to_json(event)) + "\n"
    if not event.decision.findings:
        return ""
    fields = {"decision": to_fields(event.decision), "action": to_fields(event.action)}
    return json.dumps(to_json({"event": "decision", "step": event.decision.step, **fields})) + "\n"


def to_fields(value: Any) -> Any:
    """A value of `trimtab.types` as a mapping of the fields that differ from their defaults."""
    if not is_dataclass(value):
        return [to_fields(each) for each in value] if isinstance(value, tuple) else value
    pairs = ((each, getattr(value, each.name)) for each in fields(value))
    return {each.name: to_fields(held) for each, held in pairs if held != each.default}


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


def parse_decision(held: Mapping[str, Any]) -> Decision:
    """A decision from an event's fields."""
    responses = tuple(Response(**_parse_fields(each)) for each in held.get("responses", ()))
    findings = tuple(Finding(**_parse_fields(each)) for each in held.get("findings", ()))
    return Decision(**{**held, "responses": responses, "findings": findings})


def parse_action(held: Mapping[str, Any]) -> Action:
    """An action from an event's fields."""
    changes = tuple(Change(**_parse_fields(each)) for each in held.get("changes", ()))
    return Action(**{**held, "changes": changes})


def parse_adjustment(held: Mapping[str, Any]) -> Adjustment:
    """An adjustment from the fields of a state."""
    return Adjustment(**_parse_fields(held))


NUMBERS = {"value", "limit", "expected", "factor", "before", "after"}
"""The fields that are a number, and so may be text in JSON where it is not finite."""


def _parse_fields(held: Mapping[str, Any]) -> dict[str, Any]:
    """Fields as they were: lists were tuples, and what is a number may be text."""
    return {
        name: tuple(value) if isinstance(value, list) else float(value) if name in NUMBERS else value
        for name, value in held.items()
    }
