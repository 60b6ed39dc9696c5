"""Thin doors to the library: every command imports what it needs inside."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from trimtab.journal import to_json

app = typer.Typer(
    help="Keep the training of neural networks stable, and see why it was not.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

console = Console()

PROGRESS_COLUMNS = (
    TextColumn("{task.description:22}"),
    BarColumn(),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
    TimeRemainingColumn(),
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs in place of text.")]


@contextmanager
def _say_errors() -> Iterator[None]:
    """Turn what Trimtab raises on purpose, and what the system refuses, into one sentence and exit status 2."""
    from trimtab.errors import TrimtabError

    try:
        yield
    except (TrimtabError, OSError) as error:
        Console(stderr=True, soft_wrap=True).print(str(error), style="red", markup=False, highlight=False)
        raise typer.Exit(2) from error


@app.callback(invoke_without_command=True)
def show_version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
) -> None:
    """Keep the training of neural networks stable, and see why it was not."""
    if version:
        from trimtab import __version__

        print(__version__)
        raise typer.Exit


@app.command()
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
    with _say_errors(), Progress(*PROGRESS_COLUMNS, console=Console(stderr=True)) as progress:
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


@app.command()
def explain(
    detector: Annotated[
        str | None, typer.Argument(help="The detector to explain; all of them in a list if left out.")
    ] = None,
) -> None:
    """Print the manual page of a detector, or the list of all detectors."""
    from trimtab.detectors import detectors
    from trimtab.errors import InputError
    from trimtab.policy import DEFAULT_LADDERS

    with _say_errors():
        if detector is None:
            for name, each in sorted(detectors.items()):
                ladder = " → ".join(DEFAULT_LADDERS.get(name, ())) or "advisory"
                console.print(f"[bold]{name}[/bold] ({each.severity}; {ladder})", highlight=False)
                console.print(Padding(each.manual.split("\n")[0], (0, 0, 0, 4)), markup=False, highlight=False)
            return
        if detector not in detectors:
            raise InputError(f"explain: there is no detector {detector!r}; there are {', '.join(sorted(detectors))}")
        chosen = detectors[detector]
        defaults = "".join(f"\n    {name} = {value}" for name, value in chosen.settings.items())
        ladder = ", ".join(DEFAULT_LADDERS.get(detector, ())) or "none: advisory"
        console.print(f"[bold]{detector}[/bold] ({chosen.severity})")
        for heading, text in _split_manual(chosen.manual):
            console.print(f"\n[bold]{heading}[/bold]" if heading else "")
            console.print(Padding(text, (0, 0, 0, 4 if heading else 0)), markup=False, highlight=False)
        console.print(f"\n[bold]Defaults[/bold]{defaults}\n    ladder: {ladder}")


def _split_manual(manual: str) -> list[tuple[str, str]]:
    """A manual page as headings and their paragraphs, the lines of each joined; a `name:` begins a line of its own."""
    parts: list[tuple[str, str]] = [("", "")]
    for line in map(str.rstrip, manual.split("\n")):
        if line.endswith(":") and not line.startswith(" "):
            parts.append((line[:-1], ""))
            continue
        heading, text = parts[-1]
        starts_entry = re.match(r"    \w+: ", line) is not None
        parts[-1] = (heading, f"{text}\n{line.strip()}".strip() if starts_entry else f"{text} {line.strip()}".strip())
    return parts


@app.command()
def replay(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    policy: Annotated[
        Path | None, typer.Option(help="The policy to judge by, a TOML file; the run's own if left out.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a policy would have found and decided in a recorded run, beside what was decided."""
    from trimtab.journal import read_run, to_fields
    from trimtab.policy import Policy
    from trimtab.replay import replay_run

    with _say_errors():
        log = read_run(run)
        compared = replay_run(log, None if policy is None else Policy.from_toml(policy))
    num_differing = sum(not each.decides_same for each in compared)
    if as_json:
        rows = [{**to_fields(each), "is_same": each.is_same} for each in compared]
        print(json.dumps(to_json({"num_steps": len(log.measurements), "compared": rows})))
        return
    table = Table("step", "recorded", "replayed", "found", box=None, pad_edge=False)
    for each in compared:
        shown = each.replayed or each.recorded
        assert shown is not None
        verdicts = [
            decision.verdict if decision is not None else "nothing found" for decision in (each.recorded, each.replayed)
        ]
        table.add_row(
            str(each.step), *verdicts, "; ".join(dict.fromkeys(finding.message for finding in shown.findings))
        )
    if compared:
        console.print(table)
    console.print(
        f"{len(log.measurements)} steps and reviews replayed, {len(compared)} with findings, "
        f"{num_differing} decided otherwise"
    )


@app.command()
def signal(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    name: Annotated[str, typer.Argument(help="abort, pause, finish, no-stop, restart or publish.")],
) -> None:
    """Control a running job: it acts on the signal before its next batch."""
    from trimtab.signals import SIGNALS, send_signal

    with _say_errors():
        send_signal(run, name)
    console.print(f"{name}: {run} is to {SIGNALS[name]}", soft_wrap=True, markup=False, highlight=False)


@app.command()
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
    with _say_errors(), Progress(*PROGRESS_COLUMNS, console=Console(stderr=True)) as progress:
        if suite not in SUITES:
            raise InputError(f"bench: there is no suite {suite!r}; there are {', '.join(SUITES)}")
        chosen = range(first_seed, first_seed + seeds)
        task = progress.add_task(suite, total=None)
        if suite in MEASURING:
            tables = run_measures(
                suite,
                path,
                lambda name, done, total: progress.update(task, description=name, completed=done, total=total),
            )
        else:
            progress.update(task, total=len(set(list_cases(suite, chosen, names))))
            traces = run_suite(
                suite, path, seeds=chosen, names=names, num_jobs=jobs, on_done=lambda _: progress.advance(task)
            )
            write_suite_page(page, read_suite(path)[0], traces)
            tables = list_rows(traces)
    for rows in tables:
        console.print(build_table(rows), "")
    if suite in MEASURING:
        return
    console.print(LEGEND, style="dim", highlight=False)
    console.print(f"Look at it: {page}", soft_wrap=True, highlight=False)
