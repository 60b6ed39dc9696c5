"""Workers of data loaders: those of this run are ended when they are left behind, and nobody else's ever."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from trimtab.control.workers import WORKERS, Process, Workers, end_orphans, find_process

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are known by /proc")


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that would go on for a minute."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        yield process
        process.kill()


def make_loader(**options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.zeros(8, 2)), 2, num_workers=2, **options)


def know(pid: int) -> Process:
    process = find_process(pid)
    assert process is not None
    return process


def leave(folder: Path, parent: Process, *workers: Process) -> None:
    """What a killed process leaves in its run folder."""
    held = {"parent": asdict(parent), "workers": [asdict(each) for each in workers]}
    (folder / WORKERS).write_text(json.dumps(held))


def test_a_process_is_known() -> None:
    """This process is alive, is the same each time, and holds memory."""
    process = know(os.getpid())
    assert process == know(os.getpid())
    assert process.is_alive
    assert process.count_bytes() > 2**20


def test_orphans_of_a_killed_run_are_ended(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    """Workers whose parent is gone are ended when the run goes on."""
    gone = replace(know(os.getpid()), started=1)
    leave(tmp_path, gone, know(sleeper.pid))
    assert end_orphans(tmp_path) == 1
    assert sleeper.wait(10) != 0
    assert not (tmp_path / WORKERS).exists()


@pytest.mark.parametrize("case", ["parent-is-alive", "id-was-given-away", "another-system"])
def test_nobody_elses_process_is_ended(tmp_path: Path, sleeper: subprocess.Popen[bytes], case: str) -> None:
    """A process that is not certainly a worker of a dead process of this run is left alone."""
    parent, worker = replace(know(os.getpid()), started=1), know(sleeper.pid)
    if case == "parent-is-alive":
        parent = know(os.getpid())
    if case == "id-was-given-away":
        worker = replace(worker, started=worker.started - 1)
    if case == "another-system":
        worker = replace(worker, system="another")
    leave(tmp_path, parent, worker)
    assert end_orphans(tmp_path) == 0
    time.sleep(0.05)
    assert sleeper.poll() is None


@pytest.mark.parametrize("text", [None, "", "{}", "no json", '{"parent": 1}'])
def test_a_note_that_cannot_be_read_ends_nothing(tmp_path: Path, text: str | None) -> None:
    """Without a note, or with a damaged one, there are no orphans."""
    if text is not None:
        (tmp_path / WORKERS).write_text(text)
    assert end_orphans(tmp_path) == 0


def test_workers_are_noted_while_they_work(tmp_path: Path) -> None:
    """The run folder names the workers from the beginning of an epoch to its end."""
    workers, batches = Workers(tmp_path), iter(make_loader())
    workers.track(batches)
    held = json.loads((tmp_path / WORKERS).read_text())
    processes = [Process(**each) for each in held["workers"]]
    assert (held["parent"]["pid"], len(processes)) == (os.getpid(), 2)
    assert all(each.is_alive for each in processes)
    assert workers.inspect() == []
    workers.release(batches)
    assert not any(each.is_alive for each in processes)
    assert json.loads((tmp_path / WORKERS).read_text())["workers"] == []
    workers.close()
    assert not (tmp_path / WORKERS).exists()


def test_workers_that_are_to_stay_stay() -> None:
    """A loader that keeps its workers from epoch to epoch keeps them."""
    loader = make_loader(persistent_workers=True)
    workers, batches = Workers(), iter(loader)
    workers.track(batches)
    pids = [each.pid for each in batches._workers]  # type: ignore[attr-defined]
    workers.release(batches)
    assert all(know(pid).is_alive for pid in pids)
    batches._shutdown_workers()  # type: ignore[attr-defined]


def test_a_loader_without_workers_is_no_concern(tmp_path: Path) -> None:
    """A list, or a loader that loads in this process, has no workers to note."""
    workers = Workers(tmp_path)
    for batches in (iter([1, 2]), iter(DataLoader(TensorDataset(torch.zeros(8, 2)), 2))):
        workers.track(batches)
        workers.release(batches)
    assert workers.inspect() == []
    assert not (tmp_path / WORKERS).exists()


class Hoard(Dataset[int]):
    """Data whose workers keep what they load."""

    def __init__(self) -> None:
        self.kept: list[torch.Tensor] = []

    def __len__(self) -> int:
        return 400

    def __getitem__(self, index: int) -> int:
        self.kept.append(torch.ones(2**20))
        return index


def test_a_worker_that_grows_is_told_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that doubles and grows beyond what a cache would take is a leak, in one sentence, once."""
    monkeypatch.setattr("trimtab.control.workers.INSPECT_EVERY_SECONDS", 0.0)
    monkeypatch.setattr("trimtab.control.workers.LEAK_BYTES", 2**20)
    workers = Workers()
    batches = iter(DataLoader(Hoard(), 1, num_workers=1))
    workers.track(batches)
    told = workers.inspect()
    for _ in batches:
        told += workers.inspect()
    workers.release(batches)
    assert len(told) == 1
    assert "has grown from" in told[0]
    assert "it leaks" in told[0]
