"""Thin doors to the library: every command imports what it needs inside."""

from __future__ import annotations

import difflib
import itertools
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from typer.core import TyperCommand

from trimtab.journal import to_json

if TYPE_CHECKING:
    from trimtab.diagnosis import Diagnosis
    from trimtab.readers import Log

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

SWEEP_LEGEND = (
    "found: steps with findings of this detector; false: those where the diagnosis sees no trouble; missed: stretches "
    "of trouble in which no detector found anything. After the first decision that differs the rest is a guess."
)
"""What the columns of a sweep are."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs in place of text.")]


UNREADABLE = 3
"""The exit status of `diagnose` where there is nothing to diagnose; 0 to 2 are its verdicts."""


WRONG_CALL = 2
"""The exit status of a call with arguments that no command has."""


class DiagnoseCommand(TyperCommand):
    """A command whose wrong calls are told from its verdicts by their exit status."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; a wrong one ends with the status of what cannot be read."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            if getattr(error, "exit_code", 0) == WRONG_CALL:
                vars(error)["exit_code"] = UNREADABLE
            raise


@contextmanager
def _say_errors(status: int = 2) -> Iterator[None]:
    """Turn what Trimtab raises on purpose, and what the system refuses, into one sentence and an exit status."""
    from trimtab.errors import TrimtabError

    try:
        yield
    except (TrimtabError, OSError) as error:
        Console(stderr=True, soft_wrap=True).print(str(error), style="red", markup=False, highlight=False)
        raise typer.Exit(status) from error


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
    name: Annotated[
        str | None, typer.Argument(help="The detector or the cause to explain; all of them in a list if left out.")
    ] = None,
) -> None:
    """Print the manual page of a detector, or of a cause that a diagnosis names; or the list of all of them."""
    from trimtab.detectors import detectors
    from trimtab.diagnosis import known_causes
    from trimtab.errors import InputError

    with _say_errors():
        if name is None:
            _list_manuals()
            return
        if name not in detectors and name not in known_causes:
            near = difflib.get_close_matches(name, sorted({*detectors, *known_causes}), 3)
            meant = f"; did you mean {' or '.join(near)}" if near else ""
            raise InputError(
                f"explain: there is no detector or cause {name!r}{meant}; `trimtab explain` lists them all"
            )
        if name in detectors:
            _explain_detector(name)
        if name in known_causes:
            _explain_cause(name, is_second=name in detectors)


def _list_manuals() -> None:
    """Print the first sentence of every detector's manual page, and of every cause's."""
    from trimtab.detectors import detectors
    from trimtab.diagnosis import QUESTIONS, known_causes
    from trimtab.policy import DEFAULT_LADDERS

    console.print("Detectors: what is looked for at every step and review", highlight=False)
    for name, each in sorted(detectors.items()):
        ladder = " → ".join(DEFAULT_LADDERS.get(name, ())) or "advisory"
        console.print(f"[bold]{name}[/bold] ({each.severity}; {ladder})", highlight=False)
        console.print(Padding(each.manual.split("\n")[0], (0, 0, 0, 4)), markup=False, highlight=False)
    console.print("\nCauses: what `trimtab diagnose` names, by the question that it answers", highlight=False)
    for question, text in QUESTIONS.items():
        console.print(f"\n{text}", highlight=False)
        for name, kind in sorted(known_causes.items()):
            if kind.question == question:
                console.print(f"[bold]{name}[/bold]", highlight=False)
                console.print(Padding(kind.manual.split("\n")[0], (0, 0, 0, 4)), markup=False, highlight=False)


def _explain_detector(name: str) -> None:
    from trimtab.detectors import detectors
    from trimtab.policy import DEFAULT_LADDERS

    chosen = detectors[name]
    defaults = "".join(f"\n    {setting} = {value}" for setting, value in chosen.settings.items())
    ladder = ", ".join(DEFAULT_LADDERS.get(name, ())) or "none: advisory"
    console.print(f"[bold]{name}[/bold] ({chosen.severity})")
    _print_manual(chosen.manual)
    console.print(f"\n[bold]Defaults[/bold]{defaults}\n    ladder: {ladder}")


def _explain_cause(name: str, *, is_second: bool) -> None:
    from trimtab.diagnosis import QUESTIONS, known_causes

    kind = known_causes[name]
    between = "\n" if is_second else ""
    console.print(f"{between}[bold]{name}[/bold] (a cause that `trimtab diagnose` names)", highlight=False)
    _print_manual(kind.manual)
    console.print("\n[bold]Question[/bold]")
    console.print(Padding(QUESTIONS[kind.question], (0, 0, 0, 4)), markup=False, highlight=False)


def _print_manual(manual: str) -> None:
    for heading, text in _split_manual(manual):
        console.print(f"\n[bold]{heading}[/bold]" if heading else "")
        console.print(Padding(text, (0, 0, 0, 4 if heading else 0)), markup=False, highlight=False)


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


@app.command(cls=DiagnoseCommand)
def diagnose(
    run: Annotated[Path, typer.Argument(metavar="RUN_OR_LOG", help="A run folder, or another tool's log.")],
    as_json: AsJson = False,
    mapping: Annotated[
        list[str] | None,
        typer.Option(
            "--map", metavar="THEIRS=OURS", help="A column's name and our metric; may be given several times."
        ),
    ] = None,
    format: Annotated[str | None, typer.Option(help="The log's format, where it is not recognized.")] = None,
    postmortem: Annotated[
        Path | None, typer.Option(help="A post-mortem to write: Markdown, or a page if it ends in .html.")
    ] = None,
) -> None:
    """Say what is the matter with a run, and what to do: causes, the evidence for each, and the fix.

    It reads run folders, CSV, JSON lines, trainer_state.json, TensorBoard, MLflow, Weights & Biases, and printed text.

    Exit status: 0 healthy, 1 degraded, 2 failed, 3 unreadable.
    """
    from trimtab.diagnosis import diagnose as diagnose_run
    from trimtab.errors import InputError
    from trimtab.journal import MANIFEST
    from trimtab.readers import read_log

    with _say_errors(UNREADABLE):
        names = _parse_mapping(mapping or [])
        if postmortem is not None and postmortem.suffix not in (".md", ".html"):
            raise InputError(f"diagnose: --postmortem {str(postmortem)!r} has to end in .md or .html")
        source: Path | Log = run
        if names or format is not None or not (run / MANIFEST).is_file():
            source = read_log(run, names, format)
        diagnosis = diagnose_run(source)
    if as_json:
        print(json.dumps(diagnosis.to_dict()))
    else:
        print(diagnosis, flush=True)
    if postmortem is not None:
        options = [f"--map={each}" for each in mapping or []] + ([f"--format={format}"] if format is not None else [])
        with _say_errors(UNREADABLE):
            _write_postmortem(postmortem, diagnosis, source, options)
    raise typer.Exit(diagnosis.exit_status)


def _write_postmortem(path: Path, diagnosis: Diagnosis, source: Path | Log, options: list[str]) -> None:
    """Write a post-mortem in the format that the ending of its path says."""
    from trimtab.diagnosis.postmortem import postmortem as write_text
    from trimtab.errors import InputError
    from trimtab.journal import write_aside

    try:
        if path.suffix == ".html":
            from trimtab.report.postmortem import write_postmortem_page

            write_postmortem_page(path, diagnosis, source, options)
        else:
            write_aside(path, write_text(diagnosis, source, options))
    except OSError as error:
        if not path.parent.is_dir():
            raise InputError(
                f"diagnose: the post-mortem was not written: there is no folder {str(path.parent)!r}; make it first"
            ) from error
        raise InputError(
            f"diagnose: the post-mortem was not written: {str(path)!r} cannot be written: {error.strerror or error}"
        ) from error


def _parse_mapping(pairs: list[str]) -> dict[str, str]:
    """Their names to ours; one of theirs cannot be two of ours."""
    from trimtab.errors import InputError

    names: dict[str, str] = {}
    for theirs, ours in (_split_pair("--map", each) for each in pairs):
        if names.setdefault(theirs, ours) != ours:
            raise InputError(f"--map: {theirs!r} is to be both {names[theirs]!r} and {ours!r}; a column is one metric")
    return names


def _split_pair(option: str, text: str) -> tuple[str, str]:
    """The two sides of `left=right`; their names may hold an equals sign, ours do not."""
    from trimtab.errors import InputError

    left, _, right = text.rpartition("=")
    if not (left and right):
        raise InputError(
            f"{option} {text!r} has to be two names with = between them, such as {option} 'their loss=loss'"
        )
    return left, right


@app.command()
def replay(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    policy: Annotated[
        Path | None, typer.Option(help="The policy to judge by, a TOML file; the run's own if left out.")
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(metavar="SETTING=A,B,C", help="A setting to try several values of: loss-spike.sigmas=4,6,8."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a policy would have found and decided in a recorded run, beside what was decided."""
    if sweep is not None:
        _sweep(run, policy, sweep, as_json=as_json)
        return
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


def _sweep(run: Path, policy: Path | None, wanted: str, *, as_json: bool) -> None:
    """Print what each value of a setting would have found and decided."""
    from trimtab.diagnosis.sweep import sweep
    from trimtab.policy import Policy

    with _say_errors():
        setting, values = _split_pair("--sweep", wanted)
        base = None if policy is None else Policy.from_toml(policy)
        rows = sweep(run, setting, [_parse_value(setting, each) for each in values.split(",")], base)
    if as_json:
        print(json.dumps(to_json({"setting": setting, "rows": [each.to_dict() for each in rows]})))
        return
    table = Table(setting, "found", "false", "missed", "first at", "decided", box=None, pad_edge=False)
    for each in rows:
        decided = ", ".join(f"{num} × {verdict}" for verdict, num in each.verdicts.items()) or "nothing"
        first = "-" if each.first_step is None else str(each.first_step)
        table.add_row(f"{each.value:g}", *map(str, (each.num_found, each.num_false, each.num_missed)), first, decided)
    console.print(table, "")
    console.print(SWEEP_LEGEND, style="dim", highlight=False)


def _parse_value(setting: str, text: str) -> float:
    from trimtab.errors import InputError

    try:
        return int(text) if text.strip().lstrip("+-").isdecimal() else float(text)
    except ValueError as error:
        raise InputError(f"--sweep: {text!r} is no number; give {setting}= several of them, with commas") from error


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
