"""Runs are made: their processes are started, watched, and started again, and none of them is left behind."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TypeAlias

import torch

from trimtab.bench.processes.cases import ProcessCase
from trimtab.bench.processes.outcomes import ProcessOutcome, find_told
from trimtab.bench.processes.parts import DATA, STEPS, Task, name_end
from trimtab.bench.workloads.images import cut_held_out, read_digits

NUM_STARTS = 3
"""How often a run is started at most."""

MOST_SECONDS = 240.0
"""How long one start may take before it is ended."""


End: TypeAlias = tuple[float, tuple[str, ...]]
"""The loss of the worst of a run's ranks, and the digest of each one's weights."""


def run_process_case(case: ProcessCase, folder: Path) -> ProcessOutcome:
    """Make a run and say what became of it, against its twin where there is something to compare.

    Args:
        case: the run.
        folder: where all files are written; runs made in the same folder share their twins, so one at a time.

    Raises:
        InputError: if the digits are not there.
        RuntimeError: if the twin fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / DATA).exists():
        write_data(folder / DATA)
    here = folder / case.name
    _empty(here)
    begun = time.monotonic()
    num_starts, is_finished = 0, False
    while not is_finished and num_starts < NUM_STARTS:
        num_starts += 1
        is_finished = run_start(case, here, case.list_faults(num_starts))
    seconds = time.monotonic() - begun
    loss, digests = _read_end(here, case.num_ranks) if is_finished else (math.inf, ())
    twin_loss, twin_digests = _find_twin(case, folder) if math.isfinite(loss) else (1.0, ("",))
    made = _read_steps(here)
    return ProcessOutcome(
        case,
        is_finished,
        loss,
        (loss - twin_loss) / twin_loss,
        digests == twin_digests,
        num_starts,
        len(made) - len(set(made)),
        find_told(case, here),
        seconds,
    )


def _find_twin(case: ProcessCase, folder: Path) -> End:
    """The end of the uninterrupted run, which is made if it is not there yet."""
    twin = folder / case.twin_name
    if not _has_ended(twin, case.num_ranks):
        _empty(twin)
        if not run_start(case, twin, []):
            raise RuntimeError(f"the uninterrupted run in {str(twin)!r} failed, and its log says why")
    return _read_end(twin, case.num_ranks)


def _empty(folder: Path) -> None:
    """Make a folder that is empty."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()


def write_data(path: Path) -> None:
    """Write the digits for the processes: those to train on, and those held out under noise that is always the same.

    Raises:
        InputError: if scikit-learn, which they come with, is not installed.
    """
    training, _ = read_digits()
    data = {
        name: (each[0].flatten(1), each[1]) for name, each in (("training", training), ("held_out", cut_held_out()))
    }
    torch.save(data, path)


def run_start(case: ProcessCase, folder: Path, happening: Sequence[tuple[str, int]]) -> bool:
    """Start the processes of a run and wait until they have ended; none of them, nor of their children, is left.

    Args:
        case: the run.
        folder: the folder of this run alone.
        happening: the faults that happen in this start.

    Returns:
        False if one of them did not come to its end.
    """
    (folder / "store").unlink(missing_ok=True)
    saves = case.contestant == "nothing" and case.fault == "corrupted-checkpoint"
    with ExitStack() as stack:
        processes = []
        for rank in range(case.num_ranks):
            task = Task(folder, case.contestant, case.seed, case.num_epochs, happening, saves, rank, case.num_ranks)
            log = stack.enter_context((folder / f"log-{rank}.txt").open("a"))
            processes.append(_start(task, log))
            stack.callback(_end, processes[-1])
        deadline = time.monotonic() + MOST_SECONDS
        while time.monotonic() < deadline:
            statuses = [_look(each) for each in processes]
            if all(status == 0 for status in statuses):
                return True
            if any(statuses):
                return False
            time.sleep(0.02)
    return False


def _start(task: Task, log: Any) -> subprocess.Popen[bytes]:
    """A process in a group of its own, which its children belong to; it ends when its standard input does."""
    return subprocess.Popen(
        [sys.executable, "-m", "trimtab.bench.processes", task.to_json()],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def _look(process: subprocess.Popen[bytes]) -> int | None:
    """How a process ended: 0 if well; None if it has not. It is not collected, so that its id stays its own."""
    found = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    return None if found is None else found.si_status


def _end(process: subprocess.Popen[bytes]) -> None:
    """End all of a process's group, and collect it."""
    with suppress(ProcessLookupError, PermissionError):  # where all of it has ended already
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stdin is not None
    process.stdin.close()


def _has_ended(folder: Path, num_ranks: int) -> bool:
    """True if all ranks of a run have come to its end."""
    return all((folder / name_end(rank)).exists() for rank in range(num_ranks))


def _read_end(folder: Path, num_ranks: int) -> End:
    ends = [json.loads((folder / name_end(rank)).read_text()) for rank in range(num_ranks)]
    return max(each["loss"] for each in ends), tuple(each["digest"] for each in ends)


def _read_steps(folder: Path) -> list[int]:
    """Every optimizer step that was made, in order."""
    path = folder / STEPS
    return [int(line) for line in path.read_text().splitlines()] if path.exists() else []
