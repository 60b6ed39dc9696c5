"""What a destabilizing update costs: no supervisor, clipping, Algorithm 1 of arXiv 2601.17483, the default policy.

    python benchmarks/recovery.py [--seeds 20] [--only WORKLOAD] [--contestant NAME ...] [--json FILE] [--tune]

The protocol is in `trimtab.bench.recovery`; each table is a workload and a variant of it, each row a contestant with
the median over the seeds and the worst. Losses are of held-out samples and are measured from outside, by the same code
for all. Below each table stands whether the default policy met its goals there.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

from trimtab.bench.contestants.clipping import CLIP_NORM
from trimtab.bench.recovery import (
    ALPHAS,
    CONTESTANTS,
    EPSILONS,
    TITLES,
    TUNED,
    WINDOWS,
    WORKLOADS,
    Case,
    Outcome,
    Trace,
    Tuning,
    Verdict,
    format_number,
    judge_default,
    judge_run,
    list_cases,
    summarize,
    train,
)
from trimtab.journal import to_json

TUNING_SEEDS = range(100, 105)
CLIP_NORMS = (None, CLIP_NORM)

Table = dict[str, list[Outcome]]


def prepare_worker() -> None:
    """One thread, and nothing on the terminal but the tables."""
    torch.set_num_threads(1)
    logging.getLogger("trimtab").setLevel(logging.CRITICAL)


def tune(case: Case, tuning: Tuning) -> float:
    """The final loss of Algorithm 1 with two numbers."""
    return train(case, tuning).final_loss


def print_tuning(pool: ProcessPoolExecutor, workload: str) -> None:
    """Print the median final loss of Algorithm 1 for each pair of its numbers, and the best pair."""
    cases = [Case(workload, "algorithm-1", window, None, seed) for window in WINDOWS for seed in TUNING_SEEDS]
    pairs = [Tuning(epsilon, alpha) for epsilon in EPSILONS for alpha in ALPHAS]
    futures = {pair: [pool.submit(tune, case, pair) for case in cases] for pair in pairs}
    losses = {pair: median(future.result() for future in each) for pair, each in futures.items()}
    print(f"\n{workload}: median final loss of Algorithm 1\n{'epsilon':>8}" + "".join(f"  α={a:<5g}" for a in ALPHAS))
    for epsilon in EPSILONS:
        print(f"{epsilon:8g}" + "".join(f"{losses[Tuning(epsilon, alpha)]:9.4f}" for alpha in ALPHAS))
    print(f"best: {min(losses, key=lambda pair: losses[pair])}")


def run_cases(pool: ProcessPoolExecutor, cases: Sequence[Case]) -> dict[Case, Trace]:
    """Train all cases, saying now and then how far it is."""
    began, traces = perf_counter(), {}
    for num, trace in enumerate(pool.map(train, cases), 1):
        traces[cases[num - 1]] = trace
        if num % 20 == 0 or num == len(cases):
            print(f"\r{num} of {len(cases)} runs, {perf_counter() - began:.0f} s", end="", flush=True)
    print()
    return traces


def build_tables(traces: dict[Case, Trace], contestants: Iterable[str]) -> Iterator[tuple[str, Table]]:
    """The tables, each with its title: of runs without a fault, and of each variant."""
    variants = [(None, None), *((window, clip_norm) for window in WINDOWS for clip_norm in CLIP_NORMS)]
    for workload in dict.fromkeys(case.workload for case in traces):
        seeds = sorted({case.seed for case in traces})
        for window, clip_norm in variants:
            cases = {name: [Case(workload, name, window, clip_norm, seed) for seed in seeds] for name in contestants}
            table = {name: [judge_case(case, traces) for case in each] for name, each in cases.items()}
            fault = "no fault" if window is None else f"{window} window"
            clipping = "no routine clipping" if clip_norm is None else f"routine clipping at {clip_norm:g}"
            yield f"{workload}, {fault}, {clipping}", table


def judge_case(case: Case, traces: dict[Case, Trace]) -> Outcome:
    """The outcome of a case; without a supervisor it is the same with and without routine clipping."""
    found = case if case in traces else replace(case, clip_norm=None)
    return judge_run(traces[found], traces[case.twin])


def judge_table(title: str, table: Table) -> list[Verdict]:
    """The verdicts on the default policy, where there is a fault and someone to hold it against."""
    if "default" not in table or len(table) == 1 or "no fault" in title:
        return []
    return list(judge_default(table, clips="no routine clipping" not in title))


def print_table(title: str, table: Table) -> None:
    """Print one table, medians and worst, and the verdicts on the default policy."""
    print(f"\n{title}\n{'':12}" + "".join(f"{head:>11} {'worst':>9}" for head in TITLES.values()))
    for name, outcomes in table.items():
        found = summarize(outcomes)
        cells = (
            f"{format_number(each, mid):>11} {format_number(each, worst):>9}" for each, (mid, worst) in found.items()
        )
        print(f"{name:12}" + "".join(cells))
    for verdict in judge_table(title, table):
        print(f"  {'PASS  ' if verdict.is_met else 'MISSED'} {verdict.goal}: {verdict.figures}")


def write_json(path: Path, traces: dict[Case, Trace], tables: Sequence[tuple[str, Table]]) -> None:
    """Write every run and every table; numbers that are not finite as text, since JSON has none."""
    runs: list[dict[str, Any]] = [
        {**asdict(case), "fault_step": case.fault_step, **asdict(trace)} for case, trace in traces.items()
    ]
    found = [
        {
            "title": title,
            "outcomes": {name: [asdict(each) for each in outcomes] for name, outcomes in table.items()},
            "verdicts": [asdict(each) for each in judge_table(title, table)],
        }
        for title, table in tables
    ]
    tuned = {name: asdict(each) for name, each in TUNED.items()}
    path.write_text(json.dumps(to_json({"algorithm_1": tuned, "tables": found, "runs": runs})))


def main() -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=20, help="runs of each kind")
    parser.add_argument("--only", choices=[*WORKLOADS], help="one workload alone")
    parser.add_argument("--contestant", choices=[*CONTESTANTS], action="append", help="may be given several times")
    parser.add_argument("--json", type=Path, help="where to write every run and table")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--tune", action="store_true", help="look for the numbers of Algorithm 1 instead")
    options = parser.parse_args()
    workloads = [options.only] if options.only else [*WORKLOADS]
    contestants = [name for name in CONTESTANTS if name in (options.contestant or CONTESTANTS)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, context, prepare_worker) as pool:
        if options.tune:
            for workload in workloads:
                print_tuning(pool, workload)
            return
        traces = run_cases(pool, list(list_cases(workloads, contestants, range(options.seeds), CLIP_NORMS)))
    tables = list(build_tables(traces, contestants))
    print("medians over the seeds and worst; final: held-out loss above that of the clean run; acts: interventions")
    for name in workloads if "algorithm-1" in contestants else []:
        print(f"algorithm-1 on {name}: epsilon {TUNED[name].epsilon:g}, alpha {TUNED[name].alpha:g} (see --tune)")
    for title, table in tables:
        print_table(title, table)
    if options.json:
        write_json(options.json, traces, tables)


if __name__ == "__main__":
    main()
