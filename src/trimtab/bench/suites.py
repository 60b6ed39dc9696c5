"""The suites of `trimtab bench`: what each runs, and the file of its result."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

import trimtab
from trimtab.bench.cases import Case, list_fault_cases, list_healthy_cases
from trimtab.bench.contestants import contestants
from trimtab.bench.judging import count_alarms, judge_faults, judge_goals, summarize_by
from trimtab.bench.overhead import measure_overhead
from trimtab.bench.page import list_growth_rows, list_overhead_rows
from trimtab.bench.processes.cases import list_process_cases
from trimtab.bench.processes.outcomes import ProcessOutcome, parse_outcome
from trimtab.bench.processes.running import run_process_case
from trimtab.bench.running import Results, Trace, parse_case, parse_trace, run_cases
from trimtab.bench.scale import measure_scale
from trimtab.bench.workloads import workloads
from trimtab.errors import InputError, RunFormatError
from trimtab.journal import to_json, write_aside
from trimtab.report.page import Rows

SUITES = ("smoke", "faults", "healthy", "overhead", "scale")
"""The suites: the first three are made of runs, the others measure what Trimtab costs."""

MEASURING = ("overhead", "scale")
"""The suites that are not made of runs."""

REPORTED_SEEDS = (0, 1)
"""The seeds that are reported on; defaults were set by what is seen on those from 100 on."""

SMOKE_PAIRS = tuple(
    (workload, fault)
    for workload in ("images", "characters")
    for fault in ("nan-loss", "scaled-gradient", "learning-rate-spike", "huge-weight")
)
"""Workload and fault of the quick suite."""

SMOKE_CONTESTANTS = ("nothing", "clipping", "skip-nonfinite", "sigma-rule", "trimtab")
"""The contestants of the quick suite."""

FORMAT = 1
"""The version of the file's format."""


def list_cases(suite: str, seeds: Sequence[int] = (), names: Sequence[str] = ()) -> list[Case]:
    """The runs of a suite.

    Args:
        suite: smoke, faults or healthy.
        seeds: the seeds; those that are reported on if empty.
        names: the contestants; all that are installed if empty.

    Raises:
        InputError: if there is no such suite of runs, or no such contestant.
    """
    for name in names:
        if name not in contestants:
            raise InputError(f"bench: there is no contestant {name!r}; there are {', '.join(sorted(contestants))}")
    installed = [each.name for each in contestants.values() if each.is_installed() and each.name != "oracle"]
    chosen = list(names) or installed
    if suite == "smoke":
        return list(list_fault_cases(names or SMOKE_CONTESTANTS, seeds or REPORTED_SEEDS[:1], SMOKE_PAIRS))
    if suite == "faults":
        return list(list_fault_cases(chosen, seeds or REPORTED_SEEDS))
    if suite == "healthy":
        return [case for seed in seeds or REPORTED_SEEDS[:1] for case in list_healthy_cases(chosen, seed)]
    raise InputError(f"bench: {suite!r} is no suite of runs; it has to be smoke, faults or healthy")


def run_suite(
    suite: str,
    path: Path,
    *,
    seeds: Sequence[int] = (),
    names: Sequence[str] = (),
    num_jobs: int = 2,
    on_done: Callable[[Case], None] | None = None,
) -> dict[Case, Trace]:
    """Make the runs of a suite, write its file, and give the traces.

    What is done is kept beside the file, in one that ends with `.runs`, so that a suite that was stopped goes on.

    Args:
        suite: smoke, faults or healthy.
        path: the JSON file to write.
        seeds: the seeds; those that are reported on if empty.
        names: the contestants; all that are installed if empty.
        num_jobs: the processes, of one thread each.
        on_done: called with each run that is done.

    Raises:
        InputError: if there is no such suite of runs, or no such contestant.
    """
    cases = list_cases(suite, seeds, names)
    results = Results(path.with_suffix(".runs"))
    run_cases(cases, results, num_jobs, on_done)
    traces = {case: results.traces[case] for case in dict.fromkeys(cases)}
    outcomes = run_processes(seeds or REPORTED_SEEDS[:1]) if suite == "faults" and not names else []
    write_aside(path, json.dumps(to_json(describe(suite, traces, outcomes)), indent=1) + "\n")
    return traces


def run_processes(seeds: Sequence[int]) -> list[ProcessOutcome]:
    """Make the runs whose faults need more than a loop, one after the other; a minute and a half a seed.

    Args:
        seeds: the seeds.
    """
    with TemporaryDirectory() as folder:
        return [run_process_case(case, Path(folder)) for case in list_process_cases(seeds)]


def run_measures(suite: str, path: Path, on_progress: Callable[[str, int, int], None]) -> list[Rows]:
    """Measure what the overhead or the scale suite measures, write its file, and give its table.

    Args:
        suite: overhead or scale.
        path: the JSON file to write.
        on_progress: called before each part, with its name, the number of parts done, and of all.
    """
    if suite == "overhead":
        overheads = measure_overhead(on_progress=on_progress)
        rows, figures = list_overhead_rows(overheads), [asdict(each) for each in overheads]
    else:
        growths = measure_scale(on_progress=on_progress)
        rows, figures = list_growth_rows(growths), [asdict(each) for each in growths]
    document = {"format": FORMAT, "suite": suite, "machine": describe_machine(), "figures": figures}
    write_aside(path, json.dumps(to_json(document), indent=1) + "\n")
    return rows


def describe(suite: str, traces: dict[Case, Trace], outcomes: Sequence[ProcessOutcome] = ()) -> dict[str, Any]:
    """All that is known of a suite: the machine, what it came to, and every run.

    Args:
        suite: its name.
        traces: its runs.
        outcomes: those that needed processes of their own.
    """
    judged = judge_faults(traces)
    return {
        "format": FORMAT,
        "suite": suite,
        "machine": describe_machine(),
        "goals": [asdict(each) for each in judge_goals(traces)],
        "contestants": {name: asdict(each) for name, each in summarize_by(judged).items()},
        "healthy": {name: asdict(each) for name, each in count_alarms(traces, is_hard=False).items()},
        "hard_but_healthy": {name: asdict(each) for name, each in count_alarms(traces, is_hard=True).items()},
        "processes": [asdict(each) for each in outcomes],
        "runs": [
            {
                "case": case.to_dict(),
                "fault_step": case.fault_step,
                "kind": workloads[case.workload].kind,
                "trace": asdict(trace),
                **(
                    {"figures": asdict(judged[case.contestant][case])}
                    if case in judged.get(case.contestant, {})
                    else {}
                ),
            }
            for case, trace in traces.items()
        ],
    }


def describe_machine() -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "num_cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "trimtab": trimtab.__version__,
    }


def read_suite(path: Path) -> tuple[dict[str, Any], dict[Case, Trace], list[ProcessOutcome]]:
    """Read the file of a suite.

    Returns:
        What it says of the suite, its runs, and those that needed processes of their own.

    Raises:
        RunFormatError: if it is none.
    """
    try:
        document = json.loads(path.read_text())
        if document["format"] != FORMAT:
            raise RunFormatError(f"{str(path)!r} has format {document['format']!r}; this version reads {FORMAT}")
        traces = {parse_case(run["case"]): parse_trace(run["trace"]) for run in document["runs"]}
        return document, traces, [parse_outcome(each) for each in document["processes"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFormatError(f"{str(path)!r} is no file of `trimtab bench`: {error}") from error
