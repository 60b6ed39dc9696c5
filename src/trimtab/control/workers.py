"""Workers: the processes that load data, watched so that none is left behind and none eats the memory.

Only processes that a loader of this run has started are ever ended. They are known by their process id together with
the moment they were started, which the system gives to no other process.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trimtab.journal import write_aside

WORKERS = "workers.json"
"""The file of a run folder that names the workers, so that a later process can end them if this one is killed."""

PROC = Path("/proc")

INSPECT_EVERY_SECONDS = 10.0
"""How often the memory of the workers is looked at, at most."""

LEAK_BYTES = 2**30
"""A worker that has grown by so much, and has doubled, is said to leak. Caches of a data set fill up once; a list of
Python objects that is read by forked workers grows to the size of a copy of it, which is what is found here."""

MOST_OTHERS = 16
"""Child processes beside the expected workers that are not remarked on: user code may have a pool of its own."""

GRACE_SECONDS = 5.0
"""How long a worker that is to end has for it before it is killed, the time PyTorch gives them too."""

logger = logging.getLogger("trimtab")


@dataclass(frozen=True, slots=True)
class Process:
    """A process that can be told from every other one, also from a later one with the same id."""

    pid: int
    """Its id."""

    started: int
    """When it was started, in ticks of the system's clock since it came up."""

    system: str
    """The system that runs it: the id of its boot, and of its space of process ids."""

    @property
    def is_alive(self) -> bool:
        """True if it still runs, on this system; a process that is not collected by its parent yet does not."""
        return find_process(self.pid) == self

    def count_bytes(self) -> int:
        """The memory it holds for itself, in bytes; 0 if it has ended."""
        try:
            _, resident, shared, *_ = (PROC / str(self.pid) / "statm").read_text().split()
        except (OSError, ValueError):
            return 0
        return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")

    def end(self) -> None:
        """Ask it to end, and kill it if it has not after `GRACE_SECONDS`."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not self.is_alive:
                return
            try:
                os.kill(self.pid, number)
            except OSError:
                return
            deadline = time.monotonic() + GRACE_SECONDS
            while self.is_alive and time.monotonic() < deadline:
                time.sleep(0.01)


def find_process(pid: int) -> Process | None:
    """The process with an id; None if there is none, or the system does not tell when it was started."""
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        system = f"{(PROC / 'sys/kernel/random/boot_id').read_text().strip()} {(PROC / 'self/ns/pid').readlink()}"
    except OSError:
        return None
    return None if fields[0] in "ZX" else Process(pid, int(fields[19]), system)


def end_orphans(run: Path) -> int:
    """End the workers that a killed process of a run has left behind; the caller holds the run's lock.

    Args:
        run: the run folder.

    Returns:
        How many were ended.
    """
    try:
        held = json.loads((run / WORKERS).read_text(encoding="utf-8"))
        parent, workers = Process(**held["parent"]), [Process(**each) for each in held["workers"]]
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    orphans = [] if parent.is_alive else [each for each in workers if each.is_alive]
    for each in orphans:
        each.end()
    (run / WORKERS).unlink(missing_ok=True)
    if orphans:
        logger.warning("ended %d data-loader workers that a killed process of this run had left behind", len(orphans))
    return len(orphans)


class Workers:
    """The workers of a run's loaders.

    Args:
        run: the run folder, where they are noted; None for none.
    """

    def __init__(self, run: Path | None = None) -> None:
        self._run = run
        self._at_work: dict[int, list[Process]] = {}
        self._first_bytes: dict[Process, int] = {}
        self._told: set[Process] = set()
        self._most_others = MOST_OTHERS + len(multiprocessing.active_children())
        self._due = 0.0

    def track(self, batches: Iterable[Any]) -> None:
        """Take note of the workers of a loader's iterator, which is about to be used."""
        found = [find_process(each.pid) for each in getattr(batches, "_workers", ())]
        workers = [each for each in found if each is not None]
        if workers:
            self._at_work[id(batches)] = workers
            self._note()

    def release(self, batches: Iterable[Any]) -> None:
        """Take note that an iterator is used up; its workers end, unless its loader keeps them for the next one.

        The caller lets go of it right after.
        """
        workers = self._at_work.pop(id(batches), [])
        if not workers or getattr(batches, "_persistent_workers", False):
            return
        shut_down = getattr(batches, "_shutdown_workers", None)
        if shut_down is not None:
            shut_down()
        leaked = [each for each in workers if each.is_alive]
        for each in leaked:
            each.end()
        if leaked:
            logger.warning("ended %d data-loader workers that were still there after their epoch", len(leaked))
        self._note()

    def inspect(self) -> list[str]:
        """Look at the memory of the workers, now and then: what is wrong, in sentences, each of them once."""
        if not self._at_work or time.monotonic() < self._due:
            return []
        self._due = time.monotonic() + INSPECT_EVERY_SECONDS
        expected = [each for workers in self._at_work.values() for each in workers]
        return [told for told in (self._count(len(expected)), *map(self._inspect, expected)) if told]

    def close(self) -> None:
        """Forget all workers: what their loaders keep of them is the business of this process alone."""
        self._at_work = {}
        if self._run is not None:
            (self._run / WORKERS).unlink(missing_ok=True)

    def _count(self, num_expected: int) -> str:
        num_children = len(multiprocessing.active_children())
        if num_children - num_expected <= self._most_others:
            return ""
        self._most_others = 2 * (num_children - num_expected)
        return (
            f"there are {num_children} child processes, and {num_expected} of them are the workers expected; something "
            "starts processes and does not end them, such as a loader made anew in every step"
        )

    def _inspect(self, worker: Process) -> str:
        num_bytes = worker.count_bytes()
        first = self._first_bytes.setdefault(worker, num_bytes)
        if worker in self._told or num_bytes < 2 * first or num_bytes - first < LEAK_BYTES:
            return ""
        self._told.add(worker)
        return (
            f"data-loader worker {worker.pid} has grown from {first / 2**30:.1f} to {num_bytes / 2**30:.1f} GiB: it "
            "leaks, or copies the data set's Python objects; keep the data in arrays or tensors, or use fewer workers"
        )

    def _note(self) -> None:
        """Write down who is at work, for whoever goes on if this process is killed."""
        parent = find_process(os.getpid())
        if self._run is None or parent is None:
            return
        workers = [asdict(each) for several in self._at_work.values() for each in several]
        held: Mapping[str, Any] = {"parent": asdict(parent), "workers": workers}
        try:
            write_aside(self._run / WORKERS, json.dumps(held) + "\n")
        except OSError:
            logger.debug("the workers of the run in %r cannot be noted", str(self._run))
