"""The commands that train something: the demo and the benchmark; and the one that signals to what is training."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from trimtab.cli.doors import PROGRESS_COLUMNS, AsJson, console, say_errors
from trimtab.journal import to_json


def demo(
    out: Annotated[Path | None, typer.Option(help="Where to write; a new folder under demo/ if left out.")] = None,
    seed: Annotated[int, typer.Option(help="The seed of weights, batches and faults.")] = 0,
    fault: Annotated[str | None, typer.Option(help="One fault alone; all five if left out.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train a small language model three times: healthy, with faults and the usual guard, and supervised."""
    from trimtab.bench.demo import DEMO_FAULTS, NUM_STEPS, RUNS, run_demo
    from trimtab.bench.showing import TITLES, build_tables, write_demo_page

    folder = _find_free("demo", f"seed-{seed}") if out is None else out
    names = DEMO_FAULTS if fault is None else (fault,)
    with say_errors(), Progress(*PROGRESS_COLUMNS, console=Console(stderr=True)) as progress:
        tasks = {name: progress.add_task(TITLES[name], total=NUM_STEPS) for name in RUNS}
        result = run_demo(folder, seed, names, on_step=lambda name, step: progress.update(tasks[name], completed=step))
        page = write_demo_page(result)
    if as_json:
        print(json.dumps(to_json(result.to_dict())))
        return
    for table in build_tables(result):
        console.print(table, "")
    console.print(f"The supervisor took {result.supervisor_share:.1%} of the time of its run. {result.halted}")
    console.print(f"Look at it: {page}", soft_wrap=True, highlight=False)


def _find_free(parent: str, name: str) -> Path:
    """A folder that is not there yet: `parent/name`, or with a number behind it."""
    numbered = (Path(parent) / (name if number == 1 else f"{name}-{number}") for number in itertools.count(1))
    return next(path for path in numbered if not path.exists())


def signal(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    name: Annotated[str, typer.Argument(help="abort, pause, finish, no-stop, restart or publish.")],
) -> None:
    """Control a running job: it acts on the signal before its next batch."""
    from trimtab.signals import SIGNALS, send_signal

    with say_errors():
        send_signal(run, name)
    console.print(f"{name}: {run} is to {SIGNALS[name]}", soft_wrap=True, markup=False, highlight=False)


def bench(
    suite: Annotated[str, typer.Option(help="smoke, faults, healthy, overhead or scale.")] = "smoke",
    jobs: Annotated[int, typer.Option(help="Processes, of one thread each.", min=1)] = 2,
    file: Annotated[Path | None, typer.Option("--json", help="What to write; bench/SUITE.json if left out.")] = None,
    seeds: Annotated[int, typer.Option(help="Seeds of each run, from 0 on; 0 for the suite's own number.", min=0)] = 0,
    first_seed: Annotated[int, typer.Option(help="The first of the seeds.", min=0)] = 0,
    contestant: Annotated[
        list[str] | None, typer.Option(help="A contestant; may be given several times. All if left out.")
    ] = None,
) -> None:
    """Train small models on real data with faults, under Trimtab and other guards, and say what became of it.

    It goes on where it was stopped. Beside the JSON file an HTML page is written.
    """
    from trimtab.bench.page import LEGEND, build_table, list_rows, write_suite_page
    from trimtab.bench.suites import MEASURING, SUITES, list_cases, read_suite, run_measures, run_suite
    from trimtab.errors import InputError

    path = Path("bench") / f"{suite}.json" if file is None else file
    names = contestant or []
    page = path.with_suffix(".html")
    with say_errors(), Progress(*PROGRESS_COLUMNS, console=Console(stderr=True)) as progress:
        if suite not in SUITES:
            raise InputError(f"bench: there is no suite {suite!r}; there are {', '.join(SUITES)}")
        chosen = range(first_seed, first_seed + (seeds or min(first_seed, 1)))
        task = progress.add_task(suite, total=None)
        if suite in MEASURING:
            tables = run_measures(
                suite,
                path,
                lambda name, done, total: progress.update(task, description=name, completed=done, total=total),
            )
        else:
            progress.update(task, total=len(set(list_cases(suite, chosen, names))))
            run_suite(suite, path, seeds=chosen, names=names, num_jobs=jobs, on_done=lambda _: progress.advance(task))
            document, traces, outcomes = read_suite(path)
            write_suite_page(page, document, traces, outcomes)
            tables = list_rows(traces, outcomes)
    for rows in tables:
        console.print(build_table(rows), "")
    if suite in MEASURING:
        return
    console.print(LEGEND, style="dim", highlight=False)
    console.print(f"Look at it: {page}", soft_wrap=True, highlight=False)
