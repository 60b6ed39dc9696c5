"""Processes that take part in a distributed run: forked by one launcher, so that torch is imported once for all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from torch import distributed

ROOT = Path(__file__).parents[1]

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""A process with threads must not be forked, and each rank has one core at best."""


def join_group(store: Path, rank: int, num_ranks: int, seconds: float) -> None:
    """Join the ranks that meet at a file, if there are several."""
    if num_ranks > 1:
        timeout = timedelta(seconds=seconds)
        distributed.init_process_group("gloo", f"file://{store}", timeout, world_size=num_ranks, rank=rank)


def fork_ranks(num_ranks: int, act: Callable[[int], None], logs: Path) -> list[int]:
    """Let so many processes act, each with its rank; returns their exit codes when all have ended.

    Args:
        num_ranks: how many.
        act: what each does. It ends when all have done it, since a rank that is gone would be missed by the others.
        logs: the folder that each writes its output and the end of its act into.
    """
    children = []
    for rank in range(num_ranks):
        child = os.fork()
        if child == 0:
            _be_rank(rank, num_ranks, act, logs)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def _be_rank(rank: int, num_ranks: int, act: Callable[[int], None], logs: Path) -> None:
    """Act, and end without what Python does at its end: with a process group open it aborts now and then."""
    log = os.open(logs / f"rank-{rank}.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    code = 1
    try:
        act(rank)
        mark_done(logs, rank)
        while not all((logs / f"rank-{each}.done").exists() for each in range(num_ranks)):
            time.sleep(0.01)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def mark_done(logs: Path, rank: int) -> None:
    """Let the other ranks know that this one has done its act."""
    (logs / f"rank-{rank}.done").touch()


def run_module(module: str, arguments: Iterable[object], seconds: float) -> subprocess.CompletedProcess[bytes]:
    """Run a launcher with warnings as errors; it and all that it has forked end with this, whatever happens."""
    command = [sys.executable, "-W", "error", "-W", "ignore:This process:DeprecationWarning", "-m", module]
    launcher = subprocess.Popen(
        [*command, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **ONE_THREAD},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = launcher.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        output = f"{module} was not done after {seconds} seconds".encode()
    finally:
        kill_group(launcher.pid)
        launcher.wait()
    return subprocess.CompletedProcess(command, launcher.returncode, output)


def kill_group(leader: int) -> None:
    """End a process and all that it has forked, as far as they are there."""
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def read_logs(folder: Path) -> str:
    """What all ranks have written."""
    return "\n".join(f"{path.name}:\n{path.read_text()}" for path in sorted(folder.rglob("rank-*.log")))


def require_done(done: subprocess.CompletedProcess[bytes], folder: Path) -> None:
    """See that a launcher and all its ranks ended well; tells what they wrote otherwise."""
    assert done.returncode == 0, f"{done.stdout.decode()}\n{read_logs(folder)}"


def end(codes: Sequence[int]) -> None:
    """End a launcher with the worst of its ranks' exit codes."""
    sys.exit(max(map(abs, codes)))
