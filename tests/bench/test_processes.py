"""Faults that end processes, damage files or hit one rank: Trimtab ends where the run without them ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trimtab.bench.processes.cases import FAULTS, ProcessCase, list_process_cases
from trimtab.bench.processes.outcomes import HEAD, to_rows
from trimtab.bench.processes.parts import STEPS_AN_EPOCH, Task
from trimtab.bench.processes.running import run_process_case, write_data
from trimtab.control.workers import find_process

NUM_EPOCHS = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs, which share their twins."""
    return tmp_path_factory.mktemp("processes")


@pytest.mark.parametrize(
    ("fault", "num_starts", "is_same", "told"),
    [
        pytest.param("killed-process", 2, True, "resumed", id="goes on from its newest checkpoint"),
        pytest.param("corrupted-checkpoint", 2, True, "is damaged", id="passes the damaged checkpoint over"),
        pytest.param("out-of-memory", 1, False, "memory ran out", id="computes the step in smaller parts"),
        pytest.param("leaking-worker", 1, True, "", id="is not disturbed"),
        pytest.param("rank-nan", 1, False, "nonfinite", id="all ranks skip the step"),
    ],
)
def test_trimtab_ends_as_its_twin(folder: Path, fault: str, num_starts: int, is_same: bool, told: str) -> None:
    """Within 2 % of the uninterrupted run, and bit for bit where nothing is computed otherwise."""
    outcome = run_process_case(ProcessCase(fault, "trimtab", seed=0, num_epochs=NUM_EPOCHS), folder)
    assert outcome.is_recovered
    assert (outcome.num_starts, outcome.is_same) == (num_starts, is_same)
    assert told in outcome.told
    assert outcome.num_twice < (STEPS_AN_EPOCH if num_starts > 1 else 1)


def test_plain_ranks_are_lost(folder: Path) -> None:
    """A NaN on one rank breaks the model of a plain loop for good: clipping lets it pass, and averaging spreads it."""
    outcome = run_process_case(ProcessCase("rank-nan", "nothing", seed=0, num_epochs=NUM_EPOCHS), folder)
    assert outcome.is_finished
    assert not outcome.is_recovered
    assert to_rows([outcome]).body[0][HEAD.index("above twin")] == "broken"


def test_process_ends_with_its_parent(tmp_path: Path) -> None:
    """A process whose parent is killed ends by itself, so that none is left behind."""
    write_data(tmp_path / "digits.pt")
    (tmp_path / "run").mkdir()
    task = Task(tmp_path / "run", "nothing", seed=0, num_epochs=10**6)
    start = (
        "import subprocess, sys; print(subprocess.Popen([sys.executable, '-m', 'trimtab.bench.processes', sys.argv[1]],"
        " stdin=subprocess.PIPE).pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", start, task.to_json()], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = find_process(int(parent.stdout.readline()))
        assert child is not None
        parent.kill()
    deadline = time.monotonic() + 30
    while child.is_alive and time.monotonic() < deadline:
        time.sleep(0.02)
    has_ended = not child.is_alive
    if not has_ended:
        os.kill(child.pid, signal.SIGKILL)
    assert has_ended


def test_cases_are_every_fault_for_every_contestant() -> None:
    """No fault is left out, none is named twice, and a fault's step is that of all contestants, inside the run."""
    cases = list_process_cases([0, 1])
    assert len(set(cases)) == len(cases) == 2 * 2 * len(FAULTS)
    assert {"killed-process", "rank-nan"} < set(FAULTS)
    steps = {(case.fault, case.seed): case.fault_step for case in cases}
    assert all(case.fault_step == steps[case.fault, case.seed] for case in cases)
    assert all(1 < case.fault_step < case.num_epochs * STEPS_AN_EPOCH for case in cases)
    assert len(set(steps.values())) > len(FAULTS)
