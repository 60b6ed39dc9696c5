"""Signals: what a person or a cluster asks of a running job, as files in its run folder and as signals of the system.

`trimtab signal RUN pause` leaves the file `RUN/signals/pause`; the run takes it away when it acts on it. So a signal
that was sent to a job still in the queue is not lost, every signal is acted on once, and any tool that can write a file
can send one.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from trimtab.errors import InputError

SIGNALS: Mapping[str, str] = {
    "abort": "stop at once, save nothing, and mark the run as failed",
    "pause": "save a checkpoint and stop; the run goes on when it is started again",
    "finish": "complete the epoch, save and end",
    "no-stop": "turn early stopping off",
    "restart": "note in the run's events that it was restarted",
    "publish": "export the model, with a card that describes the run",
}
"""Every signal, and what a run does on it."""

FOLDER = "signals"
"""The folder in a run folder that holds the signals, one empty file each, by their names."""

MANIFEST = "manifest.json"
"""The file by which a run folder is known, as the journal writes it."""

READ_EVERY_SECONDS = 1.0
"""The folder is looked into this often at most: between two looks, reading costs one glance at the clock."""

PAUSING = ("SIGTERM", "SIGUSR1")
"""The signals of the system that act as `pause`: clusters send them before they take a machine away."""


def send_signal(run: str | Path, name: str) -> Path:
    """Send a signal to a run, which acts on it before its next batch, or when it is started again.

    Args:
        run: the run folder.
        name: one of `SIGNALS`.

    Returns:
        The file that was written.

    Raises:
        InputError: if there is no such signal or no such run folder, or it cannot be written.
    """
    if name not in SIGNALS:
        raise InputError(f"signal: there is no signal {name!r}; there are {', '.join(SIGNALS)}")
    if not (Path(run) / MANIFEST).is_file():
        raise InputError(f"signal: {str(run)!r} is no run folder: it has no {MANIFEST}")
    path = Path(run) / FOLDER / name
    try:
        path.parent.mkdir(exist_ok=True)
        path.write_text(datetime.now(UTC).isoformat(timespec="seconds") + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"signal: {str(path)!r} cannot be written: {error.strerror}") from error
    return path


class Inbox:
    """The signals that have come in for a run. Each is read once.

    Args:
        run: the run folder; None for none, so that only the system's signals are read.
        every_seconds: how often the folder is looked into at most.
    """

    def __init__(self, run: str | Path | None = None, *, every_seconds: float = READ_EVERY_SECONDS) -> None:
        self._folder = None if run is None else Path(run) / FOLDER
        self._every_seconds = every_seconds
        self._look_at = 0.0
        self._undeletable: set[str] = set()
        self._caught: list[str] = []
        self._num_interrupts = 0
        self._process = os.getpid()

    def read(self) -> tuple[str, ...]:
        """The signals that came in since the last call, in the order of `SIGNALS`; cheap enough for every step."""
        if not self._caught and time.monotonic() < self._look_at:
            return ()
        found = {*self._take_caught(), *self._take_files()}
        return tuple(name for name in SIGNALS if name in found)

    @property
    def is_interrupted(self) -> bool:
        """True once Ctrl-C was pressed twice."""
        return self._num_interrupts > 1

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Take the system's signals as ours within a `with` block; outside of the main thread, none.

        SIGTERM and SIGUSR1 are read as `pause`, and the handler that was there before is called too. So is the first
        Ctrl-C; the second raises `KeyboardInterrupt`. What the process ignores stays ignored, and a handler that
        is not Python's stays. Processes that are forked meanwhile end on SIGTERM and SIGUSR1 as they would have, and
        leave Ctrl-C to this one.
        """
        formers: dict[int, Any] = {}
        try:
            if threading.current_thread() is threading.main_thread():
                self._install(formers)
            yield
        finally:
            for number, former in formers.items():
                signal.signal(number, former)

    def _install(self, formers: dict[int, Any]) -> None:
        for name in (*PAUSING, "SIGINT"):
            number = getattr(signal, name, None)
            if number is None or signal.getsignal(number) in (signal.SIG_IGN, None):
                continue
            handle = self._interrupt if name == "SIGINT" else self._pause
            formers[number] = signal.getsignal(number)
            signal.signal(number, self._forward_to(formers[number], handle))

    def _forward_to(self, former: Any, handle: Any) -> Any:
        """A handler that does our part, then what was to be done before; in a forked process only the latter."""

        def receive(number: int, frame: FrameType | None) -> None:
            is_ours = os.getpid() == self._process
            if is_ours:
                handle()
            if callable(former) and former is not signal.default_int_handler:
                former(number, frame)
            elif not is_ours and number != signal.SIGINT:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)

        return receive

    def _pause(self) -> None:
        self._caught.append("pause")

    def _interrupt(self) -> None:
        self._num_interrupts += 1
        if self._num_interrupts > 1:
            raise KeyboardInterrupt
        self._caught.append("pause")

    def _take_caught(self) -> list[str]:
        num = len(self._caught)  # a handler may add to it at any time
        taken = self._caught[:num]
        del self._caught[:num]
        return taken

    def _take_files(self) -> list[str]:
        """The names of the files in the folder, which are removed; whoever removes one has read it."""
        if self._folder is None:
            return []
        self._look_at = time.monotonic() + self._every_seconds
        try:
            names = {path.name for path in self._folder.iterdir()} & SIGNALS.keys() - self._undeletable
        except OSError:
            return []
        return [name for name in names if self._remove(self._folder / name)]

    def _remove(self, path: Path) -> bool:
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        except OSError:
            self._undeletable.add(path.name)
        return True
