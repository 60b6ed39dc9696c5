"""What every command has: how it prints, what it says of errors, how names are given in pairs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

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
def say_errors(status: int = 2) -> Iterator[None]:
    """Turn what Trimtab raises on purpose, and what the system refuses, into one sentence and an exit status."""
    from trimtab.errors import TrimtabError

    try:
        yield
    except (TrimtabError, OSError) as error:
        Console(stderr=True, soft_wrap=True).print(str(error), style="red", markup=False, highlight=False)
        raise typer.Exit(status) from error


def split_pair(option: str, text: str) -> tuple[str, str]:
    """The two sides of `left=right`; their names may hold an equals sign, ours do not."""
    from trimtab.errors import InputError

    left, _, right = text.rpartition("=")
    if not (left and right):
        raise InputError(
            f"{option} {text!r} has to be two names with = between them, such as {option} 'their loss=loss'"
        )
    return left, right
