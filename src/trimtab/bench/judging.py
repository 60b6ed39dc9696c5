"""What a suite shows: figures of each run, and the goals they are held against."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from trimtab.bench.cases import Case
from trimtab.bench.contestants import contestants
from trimtab.bench.running import Sighting, Trace
from trimtab.bench.workloads import workloads
from trimtab.detectors import detectors
from trimtab.faults import faults

RECOVERED = 0.02
"""Above the final loss of the healthy twin, as a share of it: within it a run has recovered."""

PEAKED = 3.0
"""Times the level before the fault: an unguarded loss above it makes the fault matter, whatever the end."""

HORIZON = 50
"""Steps after the end of a fault within which a finding counts as one of it."""

NAMED_WITHIN = 20
"""Steps from the first finding of a fault on within which its cause has to be named."""

MOST_GROUPS = 3
"""Groups that may be named together for each to be named."""

HARMED = 0.01
"""Above the unguarded run's final loss, as a share of it: beyond it the guard did harm."""

DETECTED_SHARE, NAMED_SHARE, RECOVERED_SHARE = 0.95, 0.85, 0.95
"""The goals, as shares of the runs that they are counted over."""

HEALTHY_RUNS, HEALTHY_STEPS = 50, 100_000
"""How much the healthy runs have to be together."""

QUIET_STEPS = 10_000
"""Healthy steps that one advisory finding is allowed in."""

SUBJECT = "trimtab"
"""The contestant that the goals are for."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What a run with a fault came to."""

    matters: bool
    """True if without any guard the end is more than 2 % worse, or the peak above three times the level."""

    is_recoverable: bool
    """True if one who knows the fault, and leaves out every update it touches, ends within 2 % of healthy."""

    is_detected: bool
    """True if something was found from its first step until `HORIZON` steps after its end, and not in the healthy run
    of the same guard."""

    delay: float
    """Steps from its first to the first finding; infinite if there is none."""

    is_named: bool
    """True if the cause was named, or the group that was hit."""

    peak: float
    """The highest followed loss from it on, in levels before it."""

    excess: float
    """The final loss above the healthy twin's, as a share of it."""

    harm: float
    """The final loss above that of the same run without the guard, as a share of it; 0 where both are broken."""

    num_acts: int
    """The steps at which the guard intervened."""

    num_lost: int
    """The updates that it lost."""

    @property
    def is_recovered(self) -> bool:
        """True if the final loss is within 2 % of the healthy twin's."""
        return self.excess <= RECOVERED


def judge_fault(case: Case, traces: Mapping[Case, Trace]) -> Figures:
    """The figures of a run with a fault.

    Args:
        case: the run.
        traces: the runs of the suite, with its twins.
    """
    trace, twin = traces[case], traces[case.twin]
    bare = _of(case, "nothing")
    first, last = case.fault_step, case.fault_step + case.injections[0].duration - 1
    usual = {name for each in traces[case.healthy].sightings for name in each.names}
    news = [replace(each, names=tuple(name for name in each.names if name not in usual)) for each in trace.sightings]
    seen = [each for each in news if each.names and first <= each.step <= last + HORIZON]
    return Figures(
        is_worse(traces[bare], traces[bare.twin], has_level=first > 1),
        compare(traces[_of(case, "oracle")], traces[_of(case, "oracle").twin]) <= RECOVERED,
        bool(seen),
        seen[0].step - first if seen else math.inf,
        is_named(case, trace, seen),
        trace.peak / (trace.level if first > 1 else twin.peak),
        compare(trace, twin),
        compare(trace, traces[case.unguarded]),
        len([step for step in trace.acted_steps if step >= first]),
        trace.num_lost,
    )


def _of(case: Case, contestant: str) -> Case:
    return replace(case, contestant=contestant)


def compare(trace: Trace, other: Trace) -> float:
    """By how much a final loss is above another, as a share of the other's size; 0 where both are broken."""
    if math.isinf(trace.final_loss) and math.isinf(other.final_loss):
        return 0.0
    if math.isinf(other.final_loss):
        return -math.inf
    return (trace.final_loss - other.final_loss) / abs(other.final_loss)


def is_worse(trace: Trace, twin: Trace, *, has_level: bool) -> bool:
    """True if a fault did harm: at the end, or by a peak, where there is a level from before it."""
    has_peaked = has_level and not trace.peak <= PEAKED * trace.level
    return has_peaked or not compare(trace, twin) <= RECOVERED


def is_named(case: Case, trace: Trace, seen: Sequence[Sighting]) -> bool:
    """True if soon after the first finding a sign of the fault is named, or the group of what it hit.

    A group counts where at most `MOST_GROUPS` are named together: who names them all has named none.
    """
    if not seen:
        return False
    early = [each for each in seen if each.step <= seen[0].step + NAMED_WITHIN]
    groups = [{*each.names} - {*detectors} for each in early]
    named = {name for each in early for name in each.names if name in detectors}
    named |= {name for each in groups if len(each) <= MOST_GROUPS for name in each}
    told = " ".join(each.told for each in early)
    signs = faults[case.fault].signs
    return bool(named & {*signs, *trace.target_groups}) or any(sign in told for sign in signs)


@dataclass(frozen=True, slots=True)
class Summary:
    """What a contestant made of many runs with faults."""

    num_runs: int
    """The runs."""

    num_matter: int
    """Those whose fault matters."""

    detected: float
    """The share of those that matter that it found; NaN for who says nothing."""

    delay: float
    """The median delay of those it found, in steps; NaN for who says nothing."""

    named: float
    """The share of those it found whose cause it named; NaN for who says nothing."""

    num_recoverable: int
    """The runs that matter and can be recovered."""

    recovered: float
    """The share of those it recovered."""

    harm: float
    """The worst harm in a run, against the same run without its guard."""

    peak: float
    """The median peak of the runs that matter, in levels."""

    num_acts: float
    """The mean number of interventions a run."""

    num_lost: float
    """The mean number of updates lost a run."""


def summarize(figures: Sequence[Figures], *, detects: bool) -> Summary:
    """Sum runs up.

    Args:
        figures: the runs.
        detects: whether the contestant says what it finds.
    """
    mattering = [each for each in figures if each.matters]
    recoverable = [each for each in mattering if each.is_recoverable]
    found = [each for each in mattering if each.is_detected]
    return Summary(
        len(figures),
        len(mattering),
        _share(mattering, lambda each: each.is_detected) if detects else math.nan,
        median(each.delay for each in found) if found and detects else math.nan,
        _share(found, lambda each: each.is_named) if detects else math.nan,
        len(recoverable),
        _share(recoverable, lambda each: each.is_recovered),
        max((each.harm for each in figures), default=0.0),
        median(each.peak for each in mattering) if mattering else math.nan,
        sum(each.num_acts for each in figures) / max(len(figures), 1),
        sum(each.num_lost for each in figures) / max(len(figures), 1),
    )


def _share(figures: Sequence[Figures], has: Callable[[Figures], bool]) -> float:
    return sum(map(has, figures)) / len(figures) if figures else math.nan


def judge_faults(traces: Mapping[Case, Trace]) -> dict[str, dict[Case, Figures]]:
    """Contestant to its runs with faults and their figures, the oracle left out."""
    judged: dict[str, dict[Case, Figures]] = defaultdict(dict)
    for case in traces:
        if case.fault and case.contestant != "oracle":
            judged[case.contestant][case] = judge_fault(case, traces)
    return dict(judged)


def summarize_by(judged: Mapping[str, Mapping[Case, Figures]], workload: str | None = None) -> dict[str, Summary]:
    """Contestant to its summary.

    Args:
        judged: what `judge_faults` gives.
        workload: of this workload alone.
    """
    return {
        name: summarize(
            [each for case, each in figures.items() if workload in (None, case.workload)],
            detects=contestants[name].detects,
        )
        for name, figures in judged.items()
    }


@dataclass(frozen=True, slots=True)
class Alarms:
    """What a contestant did in healthy runs."""

    num_runs: int
    """The runs."""

    num_steps: int
    """Their steps together."""

    num_acts: int
    """Steps at which it intervened: false actions."""

    num_findings: int
    """Steps at which it found something: false alarms."""

    num_acting_runs: int
    """The runs with a false action."""

    harm: float
    """The worst harm in a run, against the same run without its guard."""


def count_alarms(traces: Mapping[Case, Trace], *, is_hard: bool) -> dict[str, Alarms]:
    """Contestant to its alarms in healthy runs.

    Args:
        traces: the runs of the suite; those with a fault are left out.
        is_hard: whether to count those of the workloads that look sick, or of all others.
    """
    runs: dict[str, list[tuple[Case, Trace]]] = defaultdict(list)
    for case, trace in traces.items():
        if not case.fault and (workloads[case.workload].kind == "hard") == is_hard:
            runs[case.contestant].append((case, trace))
    return {
        name: Alarms(
            len(pairs),
            sum(trace.num_steps for _, trace in pairs),
            sum(len(trace.acted_steps) for _, trace in pairs),
            sum(len(trace.found_steps) for _, trace in pairs),
            sum(bool(trace.acted_steps) for _, trace in pairs),
            max(compare(trace, traces[case.unguarded]) for case, trace in pairs),
        )
        for name, pairs in runs.items()
    }


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a goal was met."""

    goal: str
    """The goal."""

    is_met: bool
    """Whether it was met."""

    figures: str
    """What that rests on."""


def judge_goals(traces: Mapping[Case, Trace]) -> Iterator[Verdict]:
    """Hold Trimtab's default against the goals that the runs at hand can tell of."""
    judged = judge_faults(traces)
    if SUBJECT in judged:
        yield from _judge_fault_goals(judged)
    easy, hard = (count_alarms(traces, is_hard=each).get(SUBJECT) for each in (False, True))
    if easy is not None and hard is not None:
        yield from _judge_healthy_goals(easy, hard)
    harms = [each.harm for each in judged.get(SUBJECT, {}).values()]
    harms += [alarms.harm for alarms in (easy, hard) if alarms is not None]
    if harms:
        yield Verdict(
            "no run ends more than 1 % worse than unguarded", max(harms) <= HARMED, f"worst {max(harms):+.2%}"
        )


def _judge_fault_goals(judged: Mapping[str, Mapping[Case, Figures]]) -> Iterator[Verdict]:
    own = summarize_by(judged)[SUBJECT]
    yield Verdict(
        "detected at least 95 % of the faults that matter",
        own.detected >= DETECTED_SHARE,
        f"{own.detected:.1%} of {own.num_matter}",
    )
    yield Verdict("median delay at most 1 step", own.delay <= 1, f"{own.delay:g}")
    yield Verdict("cause named in at least 85 %", own.named >= NAMED_SHARE, f"{own.named:.1%}")
    yield Verdict(
        "recovered at least 95 % of what can be recovered",
        own.recovered >= RECOVERED_SHARE,
        f"{own.recovered:.1%} of {own.num_recoverable}",
    )
    for workload in dict.fromkeys(case.workload for case in judged[SUBJECT]):
        found = summarize_by(judged, workload)
        mine = found.pop(SUBJECT).recovered
        others = {name: each.recovered for name, each in found.items() if not name.startswith(SUBJECT)}
        if math.isnan(mine) or not others:
            continue
        best = max(others, key=lambda name: others[name])
        yield Verdict(
            f"recovers more than every other contestant on {workload}",
            mine > others[best] or mine == others[best] == 1.0,
            f"{mine:.1%} against {others[best]:.1%} of {best}",
        )


def _judge_healthy_goals(easy: Alarms, hard: Alarms) -> Iterator[Verdict]:
    num_runs, num_steps = easy.num_runs + hard.num_runs, easy.num_steps + hard.num_steps
    yield Verdict(
        "at least 50 healthy runs of at least 100,000 steps together",
        num_runs >= HEALTHY_RUNS and num_steps >= HEALTHY_STEPS,
        f"{num_runs} runs, {num_steps:,} steps",
    )
    for name, alarms in (("healthy", easy), ("hard but healthy", hard)):
        yield Verdict(
            f"no false action in {name} runs",
            alarms.num_acts == 0,
            f"{alarms.num_acts} in {alarms.num_acting_runs} of {alarms.num_runs} runs",
        )
        yield Verdict(
            f"at most one finding in 10,000 steps of {name} runs",
            alarms.num_findings <= alarms.num_steps / QUIET_STEPS,
            f"{alarms.num_findings} in {alarms.num_steps:,} steps",
        )


def list_workloads(cases: Iterable[Case]) -> list[str]:
    """The workloads of cases, in the order they first come."""
    return list(dict.fromkeys(case.workload for case in cases))
