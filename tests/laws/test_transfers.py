"""One host transfer a step: what a device would make the host wait for, counted on a device that is not there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TypeAlias

import pytest

ROOT = Path(__file__).parents[2]

BAD_STEP = 20

Counts: TypeAlias = dict[str, list[dict[str, int]]]

ONE = {"_to_copy": 1}
"""The one transfer: all numbers of a step together."""


@pytest.fixture(scope="module")
def counts() -> Counts:
    """What was counted, in a process of its own, since the device is there for all of a process."""
    command = [sys.executable, "-m", "tests.laws.far"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:2000]
    counted: Counts = json.loads(done.stdout)
    return counted


def test_waiting_is_counted(counts: Counts) -> None:
    """Each line that makes the host wait is seen, and what stays on the device is not taken for one."""
    names = ["_local_scalar_dense", "_local_scalar_dense", "_to_copy", "equal", "nonzero", "copy_"]
    assert counts["known"] == [*({name: 1} for name in names), {}, {}]


@pytest.mark.parametrize("run", ["healthy", "clipped"])
def test_one_transfer_a_step(counts: Counts, run: str) -> None:
    """Usual steps, sampled ones, those with a snapshot and clipped ones ask the device once.

    During the first three steps a buffer that does not change is compared besides, to see that it does not.
    """
    assert counts[run][3:] == [ONE] * len(counts[run][3:])
    assert counts[run][:3] == [ONE | {"equal": 1}] * 3


def test_only_the_bad_step_asks_more(counts: Counts) -> None:
    """Where something is found, the host looks closer at that step, and at no other."""
    others = [count for step, count in enumerate(counts["bad"], 1) if step > 3 and step != BAD_STEP]
    assert others == [ONE] * len(others)
    assert counts["bad"][BAD_STEP - 1]["_to_copy"] == 1
