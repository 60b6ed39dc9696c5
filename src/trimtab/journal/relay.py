"""Trackers: who is told of a run beside the run folder, each from a thread of its own."""

from __future__ import annotations

import atexit
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trimtab.types import Record

FLUSH_SECONDS = 0.5
"""Trackers are handed what there is this often."""

CLOSE_SECONDS = 60.0
"""How long the end of a run waits for its trackers, all together; some have much to send."""

MAX_WAITING = 20_000
"""Records kept for a tracker that does not take them; beyond, the oldest are lost and counted."""

logger = logging.getLogger("trimtab")


class Tracker:
    """Is told of a run as it goes; the parent of those for other tools, and of one's own.

    All but `open` are called from one thread that is not the training's, so they may wait for a disk or a network.
    What they raise is recorded once, and the training goes on.
    """

    def open(self, manifest: Mapping[str, Any]) -> None:
        """Begin, or begin again after `close`; called from the thread of the training, so it must not wait.

        Args:
            manifest: what the run is started with, as in its run folder: among others `groups`, the names of the
                parameter groups.
        """

    def write(self, record: Record) -> None:
        """Take one step or review."""

    def write_event(self, event: str, **fields: Any) -> None:
        """Take what is no record of a step, such as `end` with its `status`.

        Args:
            event: its name, as in `events.jsonl`.
            **fields: `step` and whatever it has.
        """

    def flush(self) -> None:
        """Send what was taken; called when all there was is handed over."""

    def close(self) -> None:
        """End."""


class Relay:
    """Hands a run on to one tracker, from a thread of its own.

    Args:
        tracker: the tracker.
        manifest: what the run is started with.
    """

    def __init__(self, tracker: Tracker, manifest: Mapping[str, Any]) -> None:
        self._line = _Line(tracker)
        self._line.attempt(lambda: tracker.open(manifest))
        self._thread = threading.Thread(target=self._line.run, name="trimtab-tracker", daemon=True)
        self._thread.start()
        weakref.finalize(self, self._line.closing.set).atexit = False  # one that is forgotten hands on what it has
        atexit.register(_close_at_exit, weakref.ref(self))

    def write(self, record: Record) -> None:
        """Take one record."""
        self._line.take(record)

    def write_event(self, event: str, **fields: Any) -> None:
        """Take one event."""
        self._line.take({"event": event, **fields})

    def take_failure(self) -> str | None:
        """What failed first, in a sentence, once; None if nothing did."""
        failure, self._line.failure = self._line.failure, None
        return failure

    def end(self) -> None:
        """Let the tracker have what is left, and close it; it takes nothing more."""
        self._line.closing.set()

    def join(self, seconds: float) -> None:
        """Wait for the end of it, no longer than some seconds."""
        self._thread.join(max(seconds, 0.0))
        if self._thread.is_alive():
            logger.warning("%s has not taken the end of the run yet, and is not waited for", self._line.name)
        elif self._line.num_lost:
            logger.warning("%s lost %d records or events", self._line.name, self._line.num_lost)


class _Line:
    """What a relay's thread holds: no more than it needs, so that a relay that is forgotten can go."""

    def __init__(self, tracker: Tracker) -> None:
        self.name = type(tracker).__name__
        self.waiting: deque[Record | dict[str, Any]] = deque(maxlen=MAX_WAITING)
        self.closing = threading.Event()
        self.failure: str | None = None
        self.num_lost = 0
        self._tracker = tracker
        self._has_failed = False

    def take(self, told: Record | dict[str, Any]) -> None:
        self.num_lost += len(self.waiting) == MAX_WAITING
        self.waiting.append(told)

    def run(self) -> None:
        while not self.closing.wait(FLUSH_SECONDS):
            self._drain()
        self._drain()
        self.attempt(self._tracker.close)

    def _drain(self) -> None:
        has_new = bool(self.waiting)
        while self.waiting:
            self._hand_on(self.waiting.popleft())
        if has_new:
            self.attempt(self._tracker.flush)

    def _hand_on(self, told: Record | dict[str, Any]) -> None:
        tracker = self._tracker
        is_taken = self.attempt(
            lambda: tracker.write(told) if isinstance(told, Record) else tracker.write_event(**told)
        )
        self.num_lost += not is_taken

    def attempt(self, act: Callable[[], None]) -> bool:
        """Do something that may fail; returns False if it did, and notes the first failure."""
        try:
            act()
        except Exception as error:
            if not self._has_failed:
                self._has_failed = True
                self.failure = f"{self.name} failed: {type(error).__name__}: {error}; the training goes on"
            return False
        return True


def close_all(relays: Sequence[Relay]) -> None:
    """End all relays, and wait for them together for `CLOSE_SECONDS` at most."""
    for each in relays:
        each.end()
    deadline = time.monotonic() + CLOSE_SECONDS
    for each in relays:
        each.join(deadline - time.monotonic())


def _close_at_exit(relay: weakref.ref[Relay]) -> None:
    alive = relay()
    if alive is not None:
        close_all([alive])
