"""The commands that show runs live: in the terminal, and in the browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from trimtab.cli.doors import say_errors

NEEDS_SOMEBODY, NOT_BEGUN = 1, 3
"""The exit status of `watch --once` for a run that hangs or failed, and for one that is not there."""


def watch(
    run: Annotated[Path, typer.Argument(help="A run folder; it need not be there yet.")],
    once: Annotated[bool, typer.Option("--once", help="Print how the run stands now, and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --once, print JSON for programs.")] = False,
) -> None:
    """Show a run live in the terminal: curves, gradients by group, what was found and done, time left. Ctrl-C ends it.

    Exit status with --once: 0 as it should be, 1 hung, gone, halted or failed, 3 not begun.
    """
    from trimtab.errors import InputError
    from trimtab.report.standing import BAD
    from trimtab.report.watch import print_run, watch_run
    from trimtab.report.watcher import Watcher

    console = Console(highlight=False)
    with say_errors():
        if as_json and not once:
            raise InputError("watch: --json prints how a run stands once; give --once with it")
        if not once:
            watch_run(run, console)
            return
        watcher = Watcher(run)
        standing = watcher.catch_up()
        if as_json:
            print(json.dumps(standing.to_dict()))
        else:
            print_run(watcher, standing, console)
    if standing.state == "not-begun":
        raise typer.Exit(NOT_BEGUN)
    if standing.state in BAD:
        raise typer.Exit(NEEDS_SOMEBODY)


def serve(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of runs.")] = Path("runs"),
    host: Annotated[str, typer.Option(help="The address to bind; any but this machine's own takes --token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="The port; 0 for one that is free.", min=0, max=65535)] = 8765,
    token: Annotated[
        str | None, typer.Option(envvar="TRIMTAB_TOKEN", help="What has to be shown to see anything.")
    ] = None,
) -> None:
    """Show a folder of runs live in the browser: the list, each run, and runs compared. It reads and never writes.

    Needs pip install 'trimtab[serve]'. Ctrl-C ends it.
    """
    from trimtab.report.serve import serve_runs

    def tell(address: str) -> None:
        asked = "" if token is None else " (append ?token= and the token)"
        print(f"{address}{asked}", flush=True)

    with say_errors():
        try:
            serve_runs(folder, host, port, token, tell)
        except KeyboardInterrupt:
            return
