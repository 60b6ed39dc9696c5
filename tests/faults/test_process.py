"""Faults of processes and files: workers, checkpoints, time, ranks, and a process that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.faults.runs import STEP, make_parts
from trimtab.control.workers import find_process
from trimtab.errors import InputError
from trimtab.faults import inject

KILLED = """
import sys
from tests.faults.runs import STEP, make_parts
from trimtab.faults import inject
injector = make_parts().make_injector([inject("killed-process", STEP, strength=float(sys.argv[1]))])
for step in (1, 2, 3, 4):
    injector.gradients(step)
    print(step, flush=True)
"""

RANK = """
import sys
import torch
from torch import distributed, nn
from trimtab.faults import Injector, inject
rank, path = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
optimizer = torch.optim.SGD(model.parameters(), 0.1)
for strength in (0, 1, 3):
    optimizer.zero_grad()
    model(torch.ones(1, 2)).sum().backward()
    injector = Injector([inject("rank-nan", 1, strength=strength)], model, optimizer)
    injector.gradients(1)
    print(injector.hits[0].target, sum(bool(each.grad.isnan().all()) for each in model.parameters()))
distributed.barrier()
distributed.destroy_process_group()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_process_is_killed(number: int) -> None:
    """The process ends by the signal at the step of the fault, after the steps before it."""
    command = [sys.executable, "-c", KILLED, str(int(number))]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (-number, "1\n2\n"), result.stderr


def test_one_rank_is_hit(tmp_path: Path) -> None:
    """One gradient of the rank that the strength names becomes NaN; all ranks say which it is."""
    commands = [[sys.executable, "-c", RANK, str(rank), str(tmp_path / "store")] for rank in (0, 1)]
    ranks = [subprocess.Popen(each, stdout=subprocess.PIPE, text=True) for each in commands]
    one, other = (each.communicate(timeout=60)[0].split() for each in ranks)
    assert one[::2] == other[::2]
    assert (one[1::2], other[1::2]) == (["1", "0", "0"], ["0", "1", "1"])


def test_worker_grows_and_is_killed() -> None:
    """The worker holds more memory after each step, lives between steps, and is gone after the last."""
    injector = make_parts().make_injector([inject("leaking-worker", STEP, duration=3, strength=32.0)])
    injector.start(STEP)
    (planned,) = injector._planned
    worker = find_process(planned.memory["worker"].pid)
    assert worker is not None
    for num_steps in (1, 2, 3):
        deadline = time.monotonic() + 20
        while worker.count_bytes() < 32 * 2**20 * num_steps and time.monotonic() < deadline:
            time.sleep(0.01)
        assert 32 * num_steps <= worker.count_bytes() / 2**20 < 32 * num_steps + 30
        injector.end(STEP + num_steps - 1)
        assert worker.is_alive
        injector.start(STEP + num_steps)
    assert not worker.is_alive


def test_steps_are_slow() -> None:
    """Each step of the duration takes longer by the strength, and no other."""
    injector = make_parts().make_injector([inject("slow-steps", STEP, duration=2, strength=0.2)])
    slow = []
    for step in range(STEP - 1, STEP + 3):
        began = time.monotonic()
        injector.start(step)
        slow.append(time.monotonic() - began >= 0.2)
    assert slow == [False, True, True, False]


@pytest.mark.parametrize(("strength", "least", "most"), [(0.0, 1, 1), (0.001, 1, 10), (0.5, 2000, 5000)])
def test_newest_checkpoint_is_damaged(strength: float, least: int, most: int, tmp_path: Path) -> None:
    """The largest file of the newest checkpoint differs in the share of its bytes; nothing else does."""
    content = bytes(range(250)) * 40
    for number in (10, 20):
        folder = tmp_path / f"step-{number}"
        (folder / "inner").mkdir(parents=True)
        (folder / "stamp.json").write_bytes(b"{}")
        (folder / "inner" / "weights").write_bytes(content)
    (tmp_path / ".step-30.partial").write_bytes(content)
    torch.save({}, tmp_path / "step-15.pt")
    for order, name in enumerate(("step-10", "step-15.pt", "step-20", ".step-30.partial")):
        set_time(tmp_path / name, order)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    injector = make_parts().make_injector([inject("corrupted-checkpoint", STEP, strength=strength)], tmp_path)
    injector.end(STEP)
    (changed,) = (path for path, before in files.items() if path.read_bytes() != before)
    assert injector.hits[0].target == str(changed.relative_to(tmp_path)) == "step-20/inner/weights"
    after = changed.read_bytes()
    assert len(after) == len(content)
    assert least <= sum(one != other for one, other in zip(content, after, strict=True)) <= most


def set_time(path: Path, seconds: int) -> None:
    """Set when a file or folder was changed."""
    os.utime(path, (seconds, seconds))


def test_checkpoint_has_to_be_there(tmp_path: Path) -> None:
    """An empty folder, or one that nothing has been written to, is an error that names it."""
    (tmp_path / "step-1").mkdir()
    injector = make_parts().make_injector([inject("corrupted-checkpoint", STEP)], tmp_path)
    with pytest.raises(InputError, match=f"found no checkpoint in {tmp_path} at step 3; let the loop write one before"):
        injector.end(STEP)
