"""The lock of a run: one process at a time writes it."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from filelock import FileLock, Timeout

from trimtab.errors import InputError, RunLockedError
from trimtab.journal import write_aside

LOCK, HOLDER = "lock", "lock.holder"
"""The file that is locked, never read or removed; and beside it the one that says who holds it."""


class RunLock:
    """Lets one process write a run; used in a `with` block, or by `acquire` and `release`.

    The system itself holds the lock for the process (`flock`, or its like on Windows), so a process that dies, however
    it dies, holds none, and neither do the workers it forked.

    Args:
        folder: the run folder; made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._lock = FileLock(self.folder / LOCK, timeout=0, thread_local=False)

    @property
    def is_held(self) -> bool:
        """True if this object holds the lock."""
        return self._lock.is_locked

    def acquire(self) -> None:
        """Take the lock at once.

        Raises:
            RunLockedError: if it is held already; the message names the process that holds it.
            InputError: if the folder cannot be written.
        """
        if self._lock.is_locked:
            raise self._refuse()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            write_aside(self.folder / HOLDER, f"{os.getpid()} on {platform.node()}\n")
        except Timeout:
            raise self._refuse() from None
        except OSError as error:
            self._lock.release()
            cause = error.strerror or type(error).__name__
            raise InputError(f"run: the folder {str(self.folder)!r} cannot be written: {cause}") from error

    def release(self) -> None:
        """Give the lock back; nothing happens if it is not held."""
        if self._lock.is_locked:
            (self.folder / HOLDER).unlink(missing_ok=True)
            self._lock.release()

    def __enter__(self) -> RunLock:
        """Take the lock."""
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        """Give the lock back."""
        self.release()

    def _refuse(self) -> RunLockedError:
        try:
            holder = (self.folder / HOLDER).read_text(encoding="utf-8").strip()
        except OSError:
            holder = "unknown"  # it took the lock this very moment
        return RunLockedError(
            f"run: {str(self.folder)!r} is being written by process {holder}; "
            "wait until it ends, end it, or choose a new name"
        )
