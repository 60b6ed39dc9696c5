"""The command that goes through the checklist before the first step."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.padding import Padding
from rich.progress import Progress

from trimtab.cli.doors import PROGRESS_COLUMNS, AsJson, console, say_errors
from trimtab.journal import to_json

if TYPE_CHECKING:
    from trimtab.recipes import Line, Preflight

STYLES = {"pass": "green", "warn": "yellow", "fail": "red", "skipped": "dim"}
"""How each status is shown."""


def preflight(
    place: Annotated[
        str, typer.Argument(metavar="FILE.py[:FACTORY]", help="A file, and its function to call; make if left out.")
    ],
    budget: Annotated[float, typer.Option(help="Seconds in all.", min=1.0)] = 120.0,
    as_json: AsJson = False,
) -> None:
    """Go through the debugging checklist before the first step: data, one batch by heart, NaN, gradients, rates.

    The factory returns a mapping with the words of `trimtab.fit`: model, optimizer, compute_loss, train_loader, and if
    there are val_loader, scheduler, scaler, clip_norm, accuracy, floor, ladder.

    Exit status: 0 if no line fails, 1 if one does, 2 if there is nothing to try.
    """
    from trimtab.recipes import preflight_file

    with say_errors(), Progress(*PROGRESS_COLUMNS, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("preflight", total=None)
        result = preflight_file(
            place,
            budget=budget,
            on_stage=lambda done, total, name: progress.update(task, description=name, completed=done, total=total),
        )
    if as_json:
        print(json.dumps(to_json(result.to_dict())))
    else:
        _print(result)
    raise typer.Exit(result.exit_status)


def _print(result: Preflight) -> None:
    """Print the picture, the lines and the count."""
    console.print(result.picture, markup=False, highlight=False, soft_wrap=True)
    console.print()
    for line in result.lines:
        _print_line(line)
    counts = ", ".join(f"{result.count(status)} {status}" for status in STYLES)  # type: ignore[arg-type]
    console.print(f"\n{counts} in {result.seconds:.0f} s", highlight=False)


def _print_line(line: Line) -> None:
    style = STYLES[line.status]
    console.print(f"{line.step:>2} [{style}]{line.status:<7}[/{style}] [bold]{line.name}[/bold]", highlight=False)
    console.print(Padding(line.reason, (0, 0, 0, 11)), markup=False, highlight=False)
    if line.fix:
        console.print(Padding(f"→ {line.fix}", (0, 0, 0, 11)), markup=False, highlight=False)
