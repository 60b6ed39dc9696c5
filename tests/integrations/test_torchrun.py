"""The examples for several ranks run as they are, under torchrun: a rank is killed, and the number of ranks changes."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

TIMEOUT = 120


def launch(num_ranks: int, example: str, *arguments: str, max_restarts: int = 0) -> str:
    """What an example prints."""
    options = ["--standalone", f"--nproc_per_node={num_ranks}", f"--max-restarts={max_restarts}"]
    command = [sys.executable, "-m", "torch.distributed.run", *options, f"examples/{example}.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_killed_rank_costs_a_restart_and_no_bit(tmp_path: Path) -> None:
    """A rank killed with signal 9 at any step is started again with all others; the weights are those of a run never
    killed, and the run folder is one."""
    whole = launch(2, "ddp", "--folder", str(tmp_path / "whole"))
    step = random.randint(2, 120)
    killed = launch(2, "ddp", "--folder", str(tmp_path / "killed"), "--kill-at", str(step), max_restarts=3)
    assert re.fullmatch(r"120 steps, weights \w{16}\n", whole)
    assert killed == whole, f"killed at step {step}"
    assert "resumed" in (tmp_path / "killed" / "events.jsonl").read_text() or step <= 22  # no checkpoint is proven yet


def test_sharded_run_goes_on_with_one_rank_and_with_four(tmp_path: Path) -> None:
    """What two ranks have saved, one takes over and saves, and four take over from that, each time the same weights."""
    folder = str(tmp_path / "run")
    told = launch(2, "fsdp", "--folder", folder, "--until", "40")
    told += launch(1, "fsdp", "--folder", folder, "--until", "70")
    told += launch(4, "fsdp", "--folder", folder, "--until", "100")
    found = re.findall(r"(\d) ranks (begin|end) at step (\d+) with weights (\w+)", told)
    assert [(ranks, step) for ranks, _, step, _ in found] == [
        *(("2", "0"), ("2", "40"), ("1", "40"), ("1", "70"), ("4", "70"), ("4", "100"))
    ]
    assert found[1][3] == found[2][3]
    assert found[3][3] == found[4][3]
