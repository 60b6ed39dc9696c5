"""What a run with a fault came to, counted from traces; and the goals."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import pytest

from trimtab.bench.cases import Case
from trimtab.bench.judging import Figures, count_alarms, judge_fault, judge_goals, summarize
from trimtab.bench.running import Sighting, Trace

FAULT = "huge-weight"
CASE = Case("images", "trimtab", 0, FAULT)
STEP = CASE.fault_step


def make_trace(final_loss: float = 1.0, peak: float = 1.0, **fields: Any) -> Trace:
    """A run at whose end the loss is 1 and in which nothing was seen, but for what is given."""
    trace = Trace(250, 1.0, peak, final_loss, (), (), (), 0, "", "", (), 1.0)
    return dataclasses.replace(trace, **fields)


def make_traces(own: Trace, *, bare: Trace | None = None, oracle: Trace | None = None) -> dict[Case, Trace]:
    """The runs that a run with a fault is judged with: the fault matters, and can be recovered."""
    clipped = Case("images", "clipping", 0, FAULT)
    return {
        CASE: own,
        CASE.twin: make_trace(),
        clipped: make_trace(1.5),
        CASE.healthy: make_trace(**see(9, "usual")),
        Case("images", "nothing", 0): make_trace(),
        Case("images", "nothing", 0, FAULT): bare or make_trace(2.0),
        Case("images", "oracle", 0, FAULT): oracle or make_trace(),
    }


def see(step: int, *names: str, told: str = "") -> dict[str, Any]:
    """The fields of a trace with one sighting."""
    return {"found_steps": (step,), "sightings": (Sighting(step, names, told),)}


@pytest.mark.parametrize(
    ("traces", "expected"),
    [
        pytest.param(make_traces(make_trace(1.019)), {"is_recovered": True, "excess": 0.019}, id="within-2-percent"),
        pytest.param(make_traces(make_trace(1.021)), {"is_recovered": False}, id="beyond-2-percent"),
        pytest.param(make_traces(make_trace(math.inf)), {"is_recovered": False, "harm": math.inf}, id="broken"),
        pytest.param(make_traces(make_trace(1.5)), {"harm": 0.0}, id="no-worse-than-unguarded"),
        pytest.param(make_traces(make_trace(1.8)), {"harm": 0.2}, id="worse-than-unguarded"),
        pytest.param(make_traces(make_trace(), bare=make_trace(1.01, 2.9)), {"matters": False}, id="does-not-matter"),
        pytest.param(make_traces(make_trace(), bare=make_trace(1.0, 3.1)), {"matters": True}, id="matters-by-its-peak"),
        pytest.param(make_traces(make_trace(), oracle=make_trace(1.1)), {"is_recoverable": False}, id="lost-for-all"),
        pytest.param(
            make_traces(make_trace(**see(STEP + 1, "weight-jump"))), {"is_detected": True, "delay": 1}, id="found"
        ),
        pytest.param(
            make_traces(make_trace(**see(STEP - 1, "weight-jump"))), {"is_detected": False}, id="found-before-it"
        ),
        pytest.param(
            make_traces(make_trace(**see(STEP + 51, "weight-jump"))), {"is_detected": False}, id="found-too-late"
        ),
        pytest.param(make_traces(make_trace(**see(STEP, "toy"))), {"is_named": False}, id="named-wrong"),
        pytest.param(
            make_traces(make_trace(**see(STEP, "usual"))), {"is_detected": False}, id="found-when-healthy-too"
        ),
        pytest.param(
            make_traces(make_trace(**see(STEP, "toy", "a", "b", "c", "blocks"), target_groups=("blocks",))),
            {"is_detected": True, "is_named": False},
            id="all-groups-named",
        ),
        pytest.param(
            make_traces(make_trace(**see(STEP, "toy", "blocks.1"), target_groups=("blocks", "blocks.1"))),
            {"is_named": True},
            id="group-named",
        ),
        pytest.param(
            make_traces(make_trace(acted_steps=(STEP - 1, STEP, STEP + 3), num_lost=5)),
            {"num_acts": 2, "num_lost": 5},
            id="acts-from-the-fault-on",
        ),
        pytest.param(make_traces(make_trace(peak=4.0, level=2.0)), {"peak": 2.0}, id="peak-in-levels"),
    ],
)
def test_figures(traces: Mapping[Case, Trace], expected: dict[str, Any]) -> None:
    """Each figure is what its name says."""
    figures = judge_fault(CASE, traces)
    for name, value in expected.items():
        assert getattr(figures, name) == pytest.approx(value), name


def make_figures(**fields: Any) -> Figures:
    return dataclasses.replace(Figures(True, True, True, 1.0, True, 2.0, 0.0, 0.0, 1, 2), **fields)


def test_summary_counts_what_matters() -> None:
    """Detection is counted over the runs that matter, the cause over those found, recovery over the recoverable."""
    figures = [
        make_figures(),
        make_figures(is_detected=False, delay=math.inf, is_named=False, excess=0.5),
        make_figures(is_recoverable=False, is_named=False, delay=3.0, excess=0.5, harm=0.004),
        make_figures(matters=False, is_detected=False, num_acts=5),
    ]
    found = summarize(figures, detects=True)
    assert (found.num_runs, found.num_matter, found.num_recoverable) == (4, 3, 2)
    assert (found.detected, found.named, found.recovered) == (2 / 3, 1 / 2, 1 / 2)
    assert (found.delay, found.harm, found.num_acts) == (2.0, 0.004, 2.0)
    assert math.isnan(summarize(figures, detects=False).detected)


def test_goals_are_missed_where_they_are() -> None:
    """A run that is not found, not recovered and worse than unguarded misses its goals, and says by how much."""
    good = {each.goal: each.is_met for each in judge_goals(make_traces(make_trace(**see(STEP, "weight-jump"))))}
    bad = {each.goal: each.is_met for each in judge_goals(make_traces(make_trace(2.0)))}
    assert all(good.values())
    assert not any(met for goal, met in bad.items())


def test_alarms_are_counted_by_kind_of_workload() -> None:
    """False actions and findings of healthy runs; those of workloads that look sick are apart."""
    traces = {
        Case("images", "trimtab", 0): make_trace(1.02, found_steps=(3, 9), acted_steps=(3,)),
        Case("images", "clipping", 0): make_trace(),
        Case("mislabelled-2", "trimtab", 0): make_trace(found_steps=(1,)),
        Case("mislabelled-2", "clipping", 0): make_trace(),
        CASE: make_trace(found_steps=(1, 2, 3)),
    }
    easy, hard = (count_alarms(traces, is_hard=each)["trimtab"] for each in (False, True))
    assert (easy.num_runs, easy.num_steps, easy.num_acts, easy.num_findings) == (1, 250, 1, 2)
    assert easy.harm == pytest.approx(0.02)
    assert (hard.num_runs, hard.num_acts, hard.num_acting_runs, hard.num_findings) == (1, 0, 0, 1)
