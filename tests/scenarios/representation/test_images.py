"""Representations of small real images: what kills them is found and mended, and healthy runs are left alone."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.conftest import require
from tests.scenarios.representation.checks import check_scenario
from tests.scenarios.representation.data import Striped
from tests.scenarios.representation.runs import SCENARIOS, Run, Scenario, contrast, train_spoilt
from trimtab.diagnosis import diagnose

require("sklearn")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Thirty reviews of a collapsed run say so thirty times."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name != "dead-columns"])
def test_found_answered_and_mended(name: str) -> None:
    """Within two epochs, and to nine tenths of the healthy run's recall, which it does not reach without the guard."""
    check_scenario("images", name)


def test_dead_columns_are_found_answered_and_mended() -> None:
    """The same of images cut into strips, three of whose encoders die; they and no others are initialized anew."""
    check_scenario("strips", "dead-columns")
    run = train_spoilt("strips", "dead-columns", guarded=True)
    assert run.guard is not None
    assert sorted(each.what for each in run.guard.made if each.kind == "renewal") == sorted(Striped.dead)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dimensions", [32, 128, 512])
def test_healthy_runs_are_left_alone(dimensions: int, seed: int) -> None:
    """A contrastive run that learns has no finding and no intervention, whatever its dimension and seed."""
    run = Run("images", Scenario(contrast, epochs=8), guarded=True, dimensions=dimensions, seed=seed).train()
    assert run.guard is not None
    assert (run.found, run.guard.made, run.guard.outcomes) == ([], [], [])
    assert run.metrics[-1]["recall_at_1"] > 1.5 * run.metrics[0]["recall_at_1"]
    assert run.metrics[-1]["embedding_r"] > 0.88  # where the published table says random


def test_a_guard_that_finds_nothing_changes_nothing() -> None:
    """With and without a guard, a healthy run has the same weights bit for bit."""
    with_guard, without = (
        Run("images", Scenario(contrast, epochs=3), guarded=guarded).train().model.state_dict()
        for guarded in (True, False)
    )
    assert all(torch.equal(each, without[name]) for name, each in with_guard.items())


def test_spreading_alone_does_not_bring_recall_back() -> None:
    """Two epochs after a collapse the weights spread the rows again and recall stays away; going back brings it."""
    run = train_spoilt("images", "late-rescue", guarded=True)
    assert run.guard is not None
    (restoration,) = [each for each in run.guard.made if each.kind == "restoration"]
    (recovery,) = [each for each in run.guard.made if each.kind == "recovery"]
    assert recovery.num_reviews > restoration.num_reviews
    before = run.metrics[SCENARIOS["late-rescue"].onset]["recall_at_1"]
    assert run.metrics[restoration.num_reviews - 1]["recall_at_1"] < 0.9 * before
    assert run.metrics[recovery.num_reviews - 1]["recall_at_1"] >= 0.9 * before


def test_all_of_it_is_in_the_run_folder(tmp_path: Path) -> None:
    """Every change of a weight is an event with what, from, to and why, and so is the measured effect of each."""
    run = Run("images", SCENARIOS["collapse"], guarded=True, folder=tmp_path / "run").train()
    assert run.guard is not None
    lines = (tmp_path / "run" / "events.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    adaptations = [each for each in events if each["event"] == "adaptation"]
    assert [each["name"] for each in adaptations] == [each.name for each in run.guard.made]
    assert {"what", "from", "to", "trigger", "why", "expected"} <= adaptations[0].keys()
    outcomes = {each["of"]: each["verdict"] for each in events if each["event"] == "outcome"}
    assert {each["name"] for each in adaptations if each["kind"] == "nudge"} <= outcomes.keys()
    assert set(outcomes.values()) <= {"helped", "no effect", "harmed"}
    diagnosis = diagnose(tmp_path / "run")
    assert diagnosis.causes[0].name == "collapse"
    assert {each.name for each in diagnosis.causes} <= {"collapse", "one-sided", "few-directions"}
    assert {each.state for each in diagnosis.causes} == {"mended"}
