"""The same laws in everyone's loop: it recovers, it is not disturbed, and it is decided as in a plain one."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch

from tests.conftest import require
from tests.integrations.runs import FAULTS, HEALTHY, Run, Setting, run

pytestmark = [
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
]

OTHERS = ("lightning", "transformers", "accelerate")
LOOPS = ("plain", *OTHERS)

SETTINGS = {
    "clipped": {},
    "unclipped": {"clip_norm": 1e6},
    "accumulated": {"num_micro_batches": 3},
    "bfloat16": {"precision": "bfloat16"},
}


@cache
def remember(loop: str, fault: str, setting: str, is_supervised: bool) -> Run:
    """A run, made once."""
    with TemporaryDirectory() as folder:
        how = Setting(fault=FAULTS.get(fault, HEALTHY), is_supervised=is_supervised, **SETTINGS[setting])  # type: ignore[arg-type]
        return run(loop, how, Path(folder))


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("fault", FAULTS)
def test_faulted_run_ends_as_its_healthy_twin(loop: str, fault: str) -> None:
    """After a NaN, a spike or an overwritten weight the final loss is that of the healthy twin, within 2 %."""
    faulted, twin = (remember(loop, each, "unclipped", True) for each in (fault, "none"))
    assert faulted.decisions
    assert faulted.num_steps == twin.num_steps == 120
    assert faulted.loss == pytest.approx(twin.loss, rel=0.02)


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_does_harm_without_a_supervisor(fault: str) -> None:
    """The faults of these tests are faults: nobody looks, and the run ends worse than its twin."""
    faulted, twin = (remember("plain", each, "unclipped", False) for each in (fault, "none"))
    assert not faulted.loss <= 1.02 * twin.loss


@pytest.mark.parametrize("loop", OTHERS)
@pytest.mark.parametrize(
    ("setting", "fault"),
    [
        *(pytest.param(setting, fault) for setting in ("clipped", "unclipped") for fault in FAULTS),
        pytest.param("accumulated", "nan-batch"),
        pytest.param("bfloat16", "overwritten-weight"),
    ],
)
def test_decisions_are_those_of_a_plain_loop(loop: str, fault: str, setting: str) -> None:
    """The same fault at the same step, with the same model, data and clipping, is decided the same, word for word."""
    found = remember("plain", fault, setting, True).decisions
    assert any(FAULTS[fault].found in reason and verdict != "proceed" for _, _, verdict, reason in found)
    assert remember(loop, fault, setting, True).decisions == found


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_healthy_run_is_not_changed_by_a_bit(loop: str, setting: str) -> None:
    """A supervisor that finds nothing leaves parameters and buffers bit-equal to a run without it."""
    seen, alone = (remember(loop, "none", setting, each) for each in (True, False))
    assert not any(verdict != "proceed" for _, _, verdict, _ in seen.decisions)
    assert all(torch.equal(seen.bits[name], alone.bits[name]) for name in alone.bits)


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("true", ModuleNotFoundError)])
def test_missing_package_is_told(monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]) -> None:
    """Where a trainer is not installed its tests are skipped with a line; where `CI=true`, they fail."""
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="no_such_trainer is not installed"):
        require("no_such_trainer")


def test_trainers_are_not_imported_unasked() -> None:
    """`import trimtab`, and its supervisor too, does without the packages of other people's loops."""
    packages = {"lightning", "transformers", "accelerate"}
    code = (
        f"import sys; from trimtab import Supervisor; import trimtab.integrations; print({packages} & {{*sys.modules}})"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"set()\n"
