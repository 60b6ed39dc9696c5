"""The runs of the suites: who runs what, with which fault, and against whom it is held."""

from __future__ import annotations

import pytest

from trimtab.bench.cases import (
    BEGINS_BETWEEN,
    CORE,
    HEALTHY_RECIPES,
    Case,
    list_fault_cases,
    list_healthy_cases,
    list_pairs,
)
from trimtab.bench.contestants import contestants
from trimtab.bench.training import OPTIMIZERS, SCHEDULES
from trimtab.bench.workloads import workloads
from trimtab.faults import faults

LOOPLESS = {"process", "workers", "ranks", "checkpoints"}
"""What a loop alone cannot give a fault."""


@pytest.mark.parametrize("name", sorted(faults))
def test_every_fault_has_its_place(name: str) -> None:
    """Each fault that a loop can be given is on a workload; those of the core are on all that look healthy."""
    placed = {workload for workload, fault in list_pairs() if fault == name}
    soft = {each for each, workload in workloads.items() if workload.kind != "hard"}
    assert placed == soft if name in CORE else len(placed) == (faults[name].needs not in LOOPLESS)


@pytest.mark.parametrize(
    ("contestant", "twin"),
    [("nothing", "nothing"), ("clipping", "clipping"), ("trimtab", "clipping"), ("sigma-rule", "clipping")],
)
def test_twin_has_the_same_clipping(contestant: str, twin: str) -> None:
    """A run is held against the healthy one of the same seed and clipping, and without a guard."""
    case = Case("images", contestant, 3, "nan-loss", optimizer="sgd")
    assert case.twin == Case("images", twin, 3, optimizer="sgd")
    assert case.unguarded == Case("images", twin, 3, "nan-loss", optimizer="sgd")
    assert case.twin.injections == ()


def test_fault_step_is_the_same_for_all_contestants() -> None:
    """It depends on workload, fault and seed, lies in the middle of the run, and is aligned with nothing."""
    steps = {seed: {Case("images", name, seed, "nan-loss").fault_step for name in contestants} for seed in range(60)}
    assert all(len(each) == 1 for each in steps.values())
    drawn = {step for each in steps.values() for step in each}
    first, last = (share * workloads["images"].num_steps for share in BEGINS_BETWEEN)
    assert first <= min(drawn) <= max(drawn) <= last
    assert {step % 8 for step in drawn} == set(range(8))


def test_mistakes_are_there_from_the_first_step_on() -> None:
    """What is wrong in the loop itself is so from the beginning."""
    begun = {name: Case("images", "nothing", 0, name).fault_step for name in faults}
    assert {name for name, step in begun.items() if step == 1} == {
        name for name, each in faults.items() if each.begins == "first"
    }


def test_whoever_is_needed_is_run() -> None:
    """Whoever is chosen, the twins, the unguarded runs and the oracle are there; and no run twice."""
    cases = list(list_fault_cases(["trimtab"], range(2), [("images", "nan-loss"), ("characters", "huge-weight")]))
    assert len(cases) == len(set(cases)) == 2 * (2 * 4 + 2 * 4)
    assert all({case.twin, case.unguarded, case.healthy} <= {*cases} for case in cases)
    assert {case.contestant for case in cases} == {"nothing", "clipping", "oracle", "trimtab"}


def test_healthy_runs_are_many_and_various() -> None:
    """At least 50 runs of 100,000 steps together by the default, in every optimizer, schedule and precision."""
    runs = [case for case in list_healthy_cases(["trimtab"], 0) if case.contestant == "trimtab"]
    assert len(runs) >= 50
    assert sum(case.num_steps or workloads[case.workload].num_steps for case in runs) >= 100_000
    for name, values in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
        assert {each[name] for each in HEALTHY_RECIPES} == {*values}


def test_key_tells_cases_apart() -> None:
    """No two cases have one key."""
    cases = [*list_fault_cases([*contestants], range(2)), *list_healthy_cases([*contestants], 0)]
    assert len({case.key for case in cases}) == len({*cases})
