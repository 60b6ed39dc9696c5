"""Readers: logs that other tools have written, as measurements; one file per format, an open set."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from trimtab.errors import InputError
from trimtab.registry import Registry
from trimtab.types import Measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """A log that was read."""

    source: str
    """The file or folder it was read from."""

    format: str
    """The name of the reader that read it."""

    measurements: Sequence[Measurement]
    """Every step and review by rising step, each of them once; at the same step the review comes second."""

    notes: tuple[str, ...] = ()
    """What was odd in the log itself and what was made of it, a sentence each."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Their name of what was used to our metric; what was left out is in no value."""

    info: Mapping[str, Any] = field(default_factory=dict)
    """What is known of the run: `tool`; `dtype` and `learning_rate` (the largest) where the log tells; and of the
    reading `num_entries` that were read, `num_skipped` that could not be, `num_duplicates` that hold a step again, and
    `num_restarts`, the times that the run went back."""


Recognize: TypeAlias = Callable[[Path], bool]
"""True if a file or folder looks like the format; it reads the name and the first bytes at most."""

Read: TypeAlias = Callable[[Path, Mapping[str, str]], Log]
"""A reader's function: `read(path, names)`, where names are the caller's "their name" → "our name"."""


@dataclass(frozen=True, slots=True)
class Reader:
    """A registered reader."""

    name: str
    """The name of its format, kebab-case."""

    recognizes: Recognize
    """Its look at a file or folder."""

    read: Read
    """Its function."""

    turn: int
    """When it is asked: 0 for one tool's own format, 1 for what any tool writes, 2 for what is left."""

    @property
    def manual(self) -> str:
        """What it reads: the docstring of its function."""
        return inspect.getdoc(self.read) or ""


readers: Registry[Reader] = Registry("reader")


def reader(name: str, *, recognizes: Recognize, turn: int = 0) -> Callable[[Read], Read]:
    """Register a function as the reader of a format; its docstring says what it reads.

    Args:
        name: kebab-case name, free in the registry.
        recognizes: tells from the name and the first bytes whether a file or folder is of the format.
        turn: 0 for one tool's own format, 1 for what any tool writes, 2 for what is left.
    """

    def register(read: Read) -> Read:
        readers.add(name, Reader(name, recognizes, read, turn))
        return read

    return register


def read_log(path: str | Path, mapping: Mapping[str, str] | None = None, format: str | None = None) -> Log:
    """Read a training log of any known format.

    A folder that is of no format itself stands for the one log in it.

    Args:
        path: a file, compressed with gzip or not, or a folder.
        mapping: their column's name to our metric, or to `"step"`; for columns that are not known by name.
        format: the name of a reader; None to recognize it.

    Raises:
        InputError: if it is not there, of no known format, empty, or damaged beyond reading.
        RunFormatError: if it is a run folder that cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"log: {str(path)!r} is not there; name a log file or a run's folder")
    if format is not None and format not in readers:
        raise InputError(f"log: there is no format {format!r}; there are {', '.join(sorted(readers))}")
    try:
        chosen = readers[format] if format is not None else _recognize(path)
        if chosen is not None:
            return chosen.read(path, mapping or {})
        file = _find_only_log(path)
        log = read_log(file, mapping)
        return replace(log, notes=(f"read from {file.name}", *log.notes))
    except OSError as error:
        raise InputError(f"log: {str(path)!r} cannot be read: {error}") from error


def _recognize(path: Path) -> Reader | None:
    """The first reader that recognizes it; None where none does."""
    ordered = sorted(readers.values(), key=lambda each: (each.turn, each.name))
    return next((each for each in ordered if each.recognizes(path)), None)


def _find_only_log(path: Path) -> Path:
    """The one log in a folder that is of no format itself."""
    if path.is_file():
        if path.stat().st_size == 0:
            raise InputError(f"log: {str(path)!r} is empty")
        raise InputError(
            f"log: {str(path)!r} is of no known format ({', '.join(sorted(readers))}); convert it to a CSV file with a "
            "header, or name its format"
        )
    children = [each for each in sorted(path.iterdir()) if not each.name.startswith(".")]
    found = [(found_by.turn, each) for each in children if (found_by := _recognize(each))]
    kept = [each for turn, each in found if turn == min(found)[0]]
    if len(kept) == 1:
        return kept[0]
    if kept:
        names = ", ".join(each.name for each in kept[:8])
        raise InputError(f"log: {str(path)!r} holds several logs; name one of {names}")
    raise InputError(f"log: {str(path)!r} is a folder without a log of a known format ({', '.join(sorted(readers))})")


readers.load(__name__, __path__)
