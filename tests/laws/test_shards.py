"""All laws hold for a sharded model, of which each rank has its part of weights, gradients and moments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.laws.ranks import BAD_STEP, LAST_RANK, NUM_RANKS, NUM_STEPS
from tests.laws.shards import SCENARIOS
from tests.laws.test_agreement import launch, list_verdicts, read_results
from tests.laws.training import list_differences
from trimtab.journal import read_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of all scenarios, launched once."""
    folder = tmp_path_factory.mktemp("shards")
    launch(folder, *SCENARIOS, module="tests.laws.shards")
    return folder


def assert_same(folder: Path, name: str, other: str) -> None:
    """On every rank both runs ended with the same bits, and all ranks decided alike."""
    results = read_results(folder, name)
    for result, expected in zip(results, read_results(folder, other), strict=True):
        assert list_differences(result["state"], expected["state"]) == []
        assert repr(result["decisions"]) == repr(results[0]["decisions"])


def read_told(folder: Path, name: str) -> list[Any]:
    return [result["told"] for result in read_results(folder, name)]


def test_supervisor_that_finds_nothing_changes_nothing(folder: Path) -> None:
    """Observer: no bit of weights and optimizer state differs from a run that nobody looks at."""
    assert_same(folder, "watched", "healthy")
    assert list_verdicts(read_results(folder, "watched")[0]) == ["proceed"] * NUM_STEPS


@pytest.mark.parametrize("name", ["nan", "nan-loss"])
def test_what_is_bad_on_one_rank_is_skipped_by_all(folder: Path, name: str) -> None:
    """Skip: a NaN that one rank alone has skips the step on all, and the record says which rank that was."""
    assert_same(folder, name, "left-out")
    verdicts = list_verdicts(read_results(folder, name)[0])
    assert [step for step, verdict in enumerate(verdicts, 1) if verdict != "proceed"] == [BAD_STEP]
    told = [event for event in read_run(folder / name).events if event.get("step") == BAD_STEP]
    assert f"not finite on rank {LAST_RANK}" in str(told)


@pytest.mark.parametrize("name", ["ruined", "reset", "offloaded"])
def test_part_that_is_ruined_is_rolled_back_with_all_others(folder: Path, name: str) -> None:
    """Rollback: weights ruined on one rank roll all parts back, and the run equals one never faulted."""
    assert_same(folder, name, "healthy")
    assert list_verdicts(read_results(folder, name)[0]).count("rollback") == 1


def test_part_that_is_not_finite_is_mended(folder: Path) -> None:
    """Numbers that are not finite are replaced by those of the rank's own snapshot."""
    assert [told["is_mended"] for told in read_told(folder, "repaired")] == [True] * NUM_RANKS


def test_frozen_group_keeps_every_bit(folder: Path) -> None:
    """Freeze: neither the parts of a frozen group's weights nor of its moments change, and all others do."""
    for told in read_told(folder, "frozen"):
        assert told["changed"]
        assert not [name for name in told["changed"] if "inner" in name]


@pytest.mark.parametrize("name", ["measured", "measured-mixed"])
def test_norms_are_those_of_the_whole(folder: Path, name: str) -> None:
    """Norms in total and by group are those of the whole tensors, also where a group has some that are not cut."""
    for told in read_told(folder, name):
        assert told["worst"] < 1e-6


@pytest.mark.parametrize("name", ["supervised-clipped", "faulty-reading"])
def test_parts_are_clipped_by_the_norm_of_the_whole(folder: Path, name: str) -> None:
    """Clipping is that of PyTorch, up to the order in which squares are added, also where we fail on one rank."""
    pairs = zip(read_results(folder, name), read_results(folder, "clipped"), strict=True)
    for ours, theirs in pairs:
        for name in (each for each in ours["state"] if each.startswith("weights")):
            mine, other = (np.frombuffer(state["state"][name][-1], np.float32) for state in (ours, theirs))
            np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        pytest.param("flat", "use torch.distributed.fsdp.fully_shard, its successor", id="older-sharding"),
        pytest.param("zero", "so that no rollback can restore it", id="sharded-moments"),
        pytest.param("local", "there is no common step to judge", id="local-sgd"),
        pytest.param("probe", "the ranks of a sharded model wait for one another", id="probe"),
        pytest.param("self-updating", "keep what updates itself in buffers", id="self-updating"),
    ],
)
def test_what_cannot_be_supervised_is_refused(folder: Path, name: str, sentence: str) -> None:
    """What would be judged wrongly is refused when the supervisor is made, on every rank."""
    for told in read_told(folder, "refused"):
        assert sentence in told[name]
