"""The same laws on many ranks as in everyone's loop: DistributedDataParallel on two and four, `fully_shard` on two."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.forks import require_done, run_module
from tests.integrations.runs import FAULTS, Setting, Told, run
from tests.integrations.runs_ranks import KINDS, LAST_COMPARED, SECONDS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All runs on all ranks, launched once."""
    folder = tmp_path_factory.mktemp("ranks")
    require_done(run_module("tests.integrations.runs_ranks", [folder], 2 * SECONDS), folder)
    return folder


def read_results(folder: Path, kind: str, fault: str, who: str = "seen", data: str = "own") -> list[dict[str, Any]]:
    """What became of a run on each rank."""
    num = KINDS[kind]
    names = [f"{num}/{kind}-{fault}-{who}-{data}-{rank}.pickle" for rank in range(num)]
    return [pickle.loads((folder / name).read_bytes()) for name in names]


def cut_notes(decisions: list[Told]) -> list[tuple[int, str, str, str]]:
    """Decisions by step, clock, verdict and the detector that is named first, without any number."""
    return [(step, clock, verdict, reason.split(":")[0]) for step, clock, verdict, reason in decisions]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", FAULTS)
def test_faulted_run_ends_as_its_healthy_twin(folder: Path, kind: str, fault: str) -> None:
    """After a NaN, a spike or a weight overwritten on one rank the final loss is that of the healthy twin."""
    for faulted, twin in zip(read_results(folder, kind, fault), read_results(folder, kind, "none"), strict=True):
        assert faulted["decisions"]
        assert faulted["num_steps"] == twin["num_steps"] == 120
        assert faulted["loss"] == pytest.approx(twin["loss"], rel=0.02)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", FAULTS)
def test_decisions_are_those_of_one_process(folder: Path, kind: str, fault: str, tmp_path: Path) -> None:
    """The same fault at the same step, with the same model, data and clipping, is decided the same, word for word."""
    found = run("plain", Setting(FAULTS[fault]), tmp_path).decisions
    assert any(FAULTS[fault].found in reason and verdict != "proceed" for _, _, verdict, reason in found)
    found = [each for each in found if each[0] <= LAST_COMPARED]
    for result in read_results(folder, kind, fault, data="all"):
        assert result["decisions"] == found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", FAULTS)
def test_ranks_with_data_of_their_own_decide_as_one_process(
    folder: Path, kind: str, fault: str, tmp_path: Path
) -> None:
    """Where each rank has a part of the batch, the same is decided at the same step; all ranks say the same."""
    found = run("plain", Setting(FAULTS[fault], clip_norm=1e6), tmp_path).decisions
    first, *others = read_results(folder, kind, fault)
    acted = [[each for each in cut_notes(told) if each[2] != "proceed"] for told in (first["decisions"], found)]
    assert acted[0] == acted[1]
    assert all(repr(other["decisions"]) == repr(first["decisions"]) for other in others)


@pytest.mark.parametrize("kind", KINDS)
def test_healthy_run_is_not_changed_by_a_bit(folder: Path, kind: str) -> None:
    """A supervisor that finds nothing leaves parameters and buffers of all ranks bit-equal to a run without it."""
    pairs = zip(read_results(folder, kind, "none"), read_results(folder, kind, "none", "alone"), strict=True)
    for seen, alone in pairs:
        assert not any(verdict != "proceed" for _, _, verdict, _ in seen["decisions"])
        assert all(torch.equal(seen["bits"][name], alone["bits"][name]) for name in alone["bits"])
