"""Law 5: all ranks of a distributed run decide the same, whatever only one of them has seen."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from tests.forks import require_done, run_module
from tests.laws.ranks import BAD_STEP, NUM_RANKS, NUM_STEPS, SCENARIOS, SECONDS
from tests.laws.training import list_differences
from trimtab.journal import read_run

Result: TypeAlias = dict[str, Any]


def launch(folder: Path, *names: str, module: str = "tests.laws.ranks") -> None:
    """Run scenarios on all ranks, each a process of its own."""
    require_done(run_module(module, [folder, *names], 3 * SECONDS), folder)


def read_results(folder: Path, name: str) -> list[Result]:
    """What became of a scenario on each rank."""
    return [pickle.loads((folder / f"{name}-{rank}.pickle").read_bytes()) for rank in range(NUM_RANKS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of all scenarios, launched once."""
    folder = tmp_path_factory.mktemp("ranks")
    launch(folder, *SCENARIOS)
    return folder


def assert_agreed(results: list[Result]) -> None:
    """Every rank has made the same decisions, with the same findings, and ended with the same weights."""
    first, *others = results
    for other in others:
        assert repr(other["decisions"]) == repr(first["decisions"])  # as text, in which NaN equals NaN
        assert list_differences(other["state"], first["state"]) == []


def list_verdicts(result: Result) -> list[str]:
    return [decision["verdict"] for decision in result["decisions"]]


@pytest.mark.parametrize("name", ["nan", "nan-loss", "spike"])
def test_bad_batch_on_one_rank_is_skipped_by_all(folder: Path, name: str) -> None:
    """A batch that is bad on one rank is skipped by all, and the run equals one in which that step was left out."""
    results = read_results(folder, name)
    assert_agreed(results)
    assert [step for step, verdict in enumerate(list_verdicts(results[0]), 1) if verdict != "proceed"] == [BAD_STEP]
    assert results[0]["decisions"][BAD_STEP - 1]["verdict"] == "skip"
    assert list_differences(results[0]["state"], read_results(folder, "left-out")[0]["state"]) == []


def test_ruined_rank_is_rolled_back_with_all_others(folder: Path) -> None:
    """Weights ruined on one rank roll all ranks back, and the run equals one never faulted."""
    results = read_results(folder, "ruined")
    assert_agreed(results)
    assert list_verdicts(results[0]).count("rollback") == 1
    assert list_differences(results[0]["state"], read_results(folder, "healthy")[0]["state"]) == []


@pytest.mark.parametrize("name", ["watched", "faulty-probe"])
def test_clipping_on_all_ranks_is_that_of_pytorch(folder: Path, name: str) -> None:
    """Ranks clip as PyTorch does, bit for bit, even where a probe fails on one of them at every step."""
    results = read_results(folder, name)
    assert_agreed(results)
    assert list_verdicts(results[0]) == ["proceed"] * NUM_STEPS
    assert list_differences(results[0]["state"], read_results(folder, "clipped")[0]["state"]) == []


def test_probe_that_fails_on_another_rank_is_recorded(folder: Path) -> None:
    """The one rank that writes a run folder records the failure of another's probe, once."""
    faults = [event for event in read_run(folder / "faulty_probe").events if event["event"] == "failure"]
    assert len(faults) == 1
    assert "Trimtab failed on 1 other rank" in faults[0]["trace"]


@pytest.mark.parametrize(
    ("name", "step", "verdict"),
    [
        pytest.param("faulty-snapshot", BAD_STEP + 1, "rollback", id="snapshot-not-completed"),
        pytest.param("faulty-schedule", BAD_STEP + 1, "rollback", id="snapshot-not-taken"),
        pytest.param("faulty-start", 5, "rollback", id="first-snapshot-not-taken"),
        pytest.param("faulty-restore", BAD_STEP + 1, "rollback", id="partner-not-restored"),
        pytest.param("faulty-rerun", BAD_STEP, "skip", id="batch-not-rerun"),
        pytest.param("faulty-detector", NUM_STEPS - 1, "rollback", id="step-not-judged"),
    ],
)
def test_fault_of_ours_on_one_rank_does_not_part_them(folder: Path, name: str, step: int, verdict: str) -> None:
    """Where Trimtab itself fails on one rank, the ranks neither hang nor disagree, then and ever after."""
    results = read_results(folder, name)
    assert_agreed(results)
    assert list_verdicts(results[0])[step - 1] == verdict


@pytest.mark.parametrize(
    ("name", "saved"),
    [
        pytest.param("faulty-copy", [20], id="not-copied"),
        pytest.param("faulty-proof", [20, 12], id="not-judged"),
        pytest.param("faulty-tidying", [], id="not-tidied"),
    ],
)
def test_checkpoint_that_fails_on_one_rank_holds_no_other(folder: Path, name: str, saved: list[int]) -> None:
    """What one rank cannot copy, prove or make room for, no rank writes; none waits, and the training is untouched."""
    results = read_results(folder, name)
    assert_agreed(results)
    assert [result["told"]["saved"] for result in results] == [saved] * NUM_RANKS
    assert list_differences(results[0]["state"], read_results(folder, "healthy")[0]["state"]) == []


def test_signals_that_cannot_be_read_do_not_part_the_ranks(folder: Path) -> None:
    """Where one rank cannot read its signals, it still measures as much as all others."""
    results = read_results(folder, "faulty-signals")
    assert_agreed(results)
    assert list_differences(results[0]["state"], read_results(folder, "clipped")[0]["state"]) == []


@pytest.mark.parametrize("name", ["lossless", "lossless-nan"])
def test_loss_of_some_ranks_alone_is_that_of_all(folder: Path, name: str) -> None:
    """A rank without a loss decides by that of the others, and no zero of its own is averaged in."""
    results = read_results(folder, name)
    assert_agreed(results)
    assert [step for step, verdict in enumerate(list_verdicts(results[0]), 1) if verdict != "proceed"] == [BAD_STEP]
    assert list_differences(results[0]["state"], read_results(folder, "left-out")[0]["state"]) == []


def test_loss_is_the_mean_over_the_ranks_that_have_one(folder: Path) -> None:
    """What is measured is the first rank's own loss, on all ranks, and the record says that it is that rank's alone."""
    first, *others = read_results(folder, "lossless")
    assert all(other["told"] == first["told"] for other in others)
    assert first["told"]["losses"] == first["told"]["own"]
    assert "the loss is that of rank 0 alone" in first["told"]["note"]


def test_probe_of_another_size_than_it_says_does_not_part_the_ranks(folder: Path) -> None:
    """A probe that yields fewer numbers than its size is a fault on every rank, not a collective that does not fit."""
    assert_agreed(read_results(folder, "unsized-probe"))


def test_rank_with_other_weights_is_found_and_named(folder: Path) -> None:
    """One number of one weight that is not the same on all ranks is found at the first sampled step."""
    results = read_results(folder, "diverged")
    found = [[each["detector"] for each in decision["findings"]] for decision in results[0]["decisions"]]
    assert found[:3] == [[], ["replica-divergence"], []]
    assert repr(results[1]["decisions"]) == repr(results[0]["decisions"])
    events = read_run(folder / "diverged").events
    assert "the weights of rank 1 differ" in str([each for each in events if each.get("step") == 2])


def test_replicas_of_a_healthy_run_are_the_same(folder: Path) -> None:
    """Ranks with data of their own have the same weights, and nothing is found."""
    values = read_run(folder / "watched").measurements
    sampled = [each.values["replica_divergence"] for each in values if "replica_divergence" in each.values]
    assert sampled
    assert all(isinstance(sample, tuple) and not any(sample) for sample in sampled)


def test_signals_reach_all_ranks_at_the_same_step(folder: Path) -> None:
    """What is sent to the run folder, and what the system sends to one rank, come in on all ranks at one step."""
    first, *others = [result["told"]["came_in"] for result in read_results(folder, "signalled")]
    assert [names for _, names in sorted(first.items())] == [("finish",), ("pause",)]
    assert all(other == first for other in others)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        pytest.param("other-clipping", "InputError: check: the ranks differ in clip_norm, and", id="other-clipping"),
        pytest.param("other-groups", "InputError: check: the ranks differ in groups, and", id="other-groups"),
        pytest.param("other-parts", "InputError: check: the ranks differ in the parts of the loss", id="other-parts"),
        pytest.param("out-of-step", "the ranks are at different steps", id="asynchronous"),
    ],
)
def test_ranks_that_cannot_agree_are_told_so(folder: Path, name: str, sentence: str) -> None:
    """Ranks that are set up in other ways, or at other steps, end with one sentence, on all of them."""
    for result in read_results(folder, name):
        assert sentence in result["told"]["error"]


def test_rank_that_is_gone_is_an_error_and_no_wait(folder: Path) -> None:
    """Where another rank has ended, the check says so at once."""
    result = pickle.loads((folder / "dead-0.pickle").read_bytes())
    assert "since one is gone or too slow" in result["told"]["error"]
