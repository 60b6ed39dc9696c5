"""The lock of a run: one process writes it, whoever dies holds nothing, and the refusal names the holder."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from trimtab.errors import InputError, RunLockedError
from trimtab.state.lock import RunLock

HOLD = """
import os, sys, time
from pathlib import Path
from trimtab.state.lock import RunLock
with RunLock(Path(sys.argv[1])):
    forks = sys.argv[2] == "fork"
    if not forks or os.fork() == 0:
        print(os.getpid() if forks else 0, flush=True)
    time.sleep(60)
"""
"""A process that takes the lock, forks a worker if it is told to, and sleeps."""


@contextmanager
def hold(folder: Path, how: str = "alone") -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that holds the lock, and the number of its worker; both are killed at the end."""
    with subprocess.Popen([sys.executable, "-c", HOLD, folder, how], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        try:
            yield process, worker
        finally:
            process.kill()
            if worker:
                os.kill(worker, 9)


def test_second_process_is_refused(tmp_path: Path) -> None:
    """A run that another process writes is refused in one sentence that names the process."""
    with hold(tmp_path) as (process, _), pytest.raises(RunLockedError) as raised:
        RunLock(tmp_path).acquire()
    assert str(raised.value) == (
        f"run: {str(tmp_path)!r} is being written by process {process.pid} on {platform.node()}; "
        "wait until it ends, end it, or choose a new name"
    )


@pytest.mark.parametrize(
    "how",
    [
        pytest.param("alone", id="alone"),
        pytest.param(
            "fork",
            id="its-worker-lives-on",
            marks=pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that forks"),
        ),
    ],
)
def test_killed_holder_holds_nothing(how: str, tmp_path: Path) -> None:
    """After kill -9 the lock is free, even while a worker that the dead process forked is still there."""
    with hold(tmp_path, how) as (process, worker):
        process.kill()
        process.wait()
        if worker:
            os.kill(worker, 0)  # it is alive
        with RunLock(tmp_path):
            assert (tmp_path / "lock.holder").read_text(encoding="utf-8").startswith(f"{os.getpid()} ")


def test_refused_process_leaves_the_holder_be(tmp_path: Path) -> None:
    """Being refused, however often, takes nothing from the holder."""
    with hold(tmp_path) as (process, _):
        for _ in range(3):
            with pytest.raises(RunLockedError, match=f"process {process.pid} "), RunLock(tmp_path):
                pass


def test_lock_is_given_back_and_taken_again(tmp_path: Path) -> None:
    """Within one process too there is one holder at a time; releasing twice does nothing."""
    first, second = RunLock(tmp_path / "new"), RunLock(tmp_path / "new")
    first.acquire()
    for lock in (first, second):
        with pytest.raises(RunLockedError, match=f"process {os.getpid()} "):
            lock.acquire()
    second.release()
    with pytest.raises(RunLockedError):
        second.acquire()
    first.release()
    first.release()
    second.acquire()
    second.release()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["lock"]


def test_lock_is_given_back_when_the_block_fails(tmp_path: Path) -> None:
    """An exception in the block frees the lock."""
    with pytest.raises(KeyError), RunLock(tmp_path):
        raise KeyError
    with RunLock(tmp_path):
        pass


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """A folder that cannot be made is one sentence, at once."""
    (tmp_path / "file").touch()
    begin = time.perf_counter()
    with pytest.raises(InputError, match=r"^run: the folder '.*file/run' cannot be written: Not a directory$"):
        RunLock(tmp_path / "file" / "run").acquire()
    assert time.perf_counter() - begin < 1
