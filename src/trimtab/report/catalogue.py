"""The runs of a folder: found, listed and opened by their names alone, and never anything outside of it."""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trimtab.diagnosis import diagnose
from trimtab.errors import InputError, TrimtabError
from trimtab.journal import EVENTS, JOURNAL, MANIFEST, TABLES
from trimtab.report.outline import Outline
from trimtab.report.standing import Standing
from trimtab.report.watcher import Watcher

MOST_DEEP = 4
"""Folders within folders that are searched for runs."""

MOST_RUNS = 2000
"""Runs that are listed, the newest ones."""

MOST_WATCHED = 16
"""Runs that are followed in full at a time; those that nobody has looked at for longest are let go of."""

SEARCH_EVERY_SECONDS = 2.0
"""How often the folder is searched at most."""

MOST_JUDGED_BYTES = 1 << 26
"""A journal longer than this is not diagnosed for the list; the page of the run does it."""

FILES = (MANIFEST, JOURNAL, EVENTS, *TABLES, "rows.parquet")
"""The files of a run that are read."""


@dataclass(slots=True)
class Watched:
    """A run that somebody looks at."""

    watcher: Watcher
    """Who follows it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held by the one thread that asks the watcher."""


class Catalogue:
    """The runs of a folder, safe to be asked from many threads.

    A run is known by the path of its folder within this one, with `/` between its parts. Links are not followed, so
    nothing that lies outside is ever read.

    Args:
        root: the folder.

    Raises:
        InputError: if there is no such folder.
    """

    def __init__(self, root: str | Path) -> None:
        if not Path(root).is_dir():
            raise InputError(f"serve: {str(root)!r} is no folder; name the one that your runs are in")
        self.root = Path(root).resolve()
        self._lock = threading.Lock()
        self._searched_at = -SEARCH_EVERY_SECONDS
        self._outlines: dict[str, Outline] = {}
        self._verdicts: dict[str, tuple[tuple[int, ...], str]] = {}
        self._watched: OrderedDict[str, Watched] = OrderedDict()

    def list_runs(self) -> dict[str, dict[str, Any]]:
        """What is known of every run, by its name; the newest first."""
        with self._lock:
            self._search()
            told = {name: outline.look() for name, outline in self._outlines.items()}
            for name, each in told.items():
                known = self._verdicts.get(name)
                each["verdict"] = known[1] if known and known[0] == self.read_stamp(name) else ""
        order = sorted(told, key=lambda name: (told[name].get("started", ""), name), reverse=True)
        return {name: told[name] for name in order[:MOST_RUNS]}

    def find(self, name: str) -> Path | None:
        """The folder of a run; None if there is none of that name."""
        with self._lock:
            if name not in self._outlines:
                self._search()
            folder = self.root / name if name in self._outlines else None
        return folder if folder is not None and _is_run(folder) else None

    def watch(self, name: str) -> tuple[Standing, int] | None:
        """How a run stands, and a number that rises when something new was seen; None if there is no such run."""
        folder = self.find(name)
        if folder is None:
            return None
        with self._lock:
            watched = self._watched.setdefault(name, Watched(Watcher(folder)))
            self._watched.move_to_end(name)
            while len(self._watched) > MOST_WATCHED:
                self._watched.popitem(last=False)
        with watched.lock:
            return watched.watcher.catch_up(), watched.watcher.version

    def judge_one(self) -> bool:
        """Diagnose one run that has ended and was not diagnosed since; False if there is none."""
        with self._lock:
            waiting = [name for name, outline in self._outlines.items() if outline.is_over]
        for name in waiting:
            stamp, known = self.read_stamp(name), self._verdicts.get(name)
            if known is None or known[0] != stamp:
                self._verdicts[name] = stamp, _judge(self.root / name)
                return True
        return False

    def read_stamp(self, name: str) -> tuple[int, ...]:
        """What changes when a run goes on."""
        paths = [self.root / name / each for each in (MANIFEST, JOURNAL, EVENTS)]
        return tuple(number for path in paths for number in _read_stamp(path))

    def _search(self) -> None:
        if time.monotonic() - self._searched_at < SEARCH_EVERY_SECONDS:
            return
        found = dict.fromkeys(_find_names(self.root))
        self._outlines = {name: self._outlines.get(name) or Outline(self.root / name) for name in found}
        self._searched_at = time.monotonic()


def _read_stamp(path: Path) -> tuple[int, int]:
    try:
        told = path.stat()
    except OSError:
        return 0, 0
    return told.st_size, told.st_mtime_ns


def _find_names(root: Path) -> Iterator[str]:
    """The runs in a folder, by their paths within it; `.` if it is one itself."""
    for folder, inner, files in os.walk(root):
        within = Path(folder).relative_to(root)
        is_run = MANIFEST in files
        if is_run or len(within.parts) >= MOST_DEEP:
            inner.clear()
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        if is_run and _is_run(Path(folder)) and _is_text(within.as_posix()):
            yield within.as_posix()


def _is_run(folder: Path) -> bool:
    """True for a run folder whose files are files: neither links to somewhere else, nor what would never end."""
    there = [folder / name for name in FILES if os.path.lexists(folder / name)]
    return (folder / MANIFEST).is_file() and all(path.is_file() and not path.is_symlink() for path in there)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # a name of bytes that are no text has no address
        return False
    return True


def _judge(folder: Path) -> str:
    try:
        if (folder / JOURNAL).stat().st_size > MOST_JUDGED_BYTES:
            return ""
        return diagnose(folder).verdict
    except (TrimtabError, OSError):
        return ""
