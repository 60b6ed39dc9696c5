"""Thin doors to the library: every command imports what it needs inside."""

from __future__ import annotations

from typing import Annotated

import typer

from trimtab.cli.diagnosing import DiagnoseCommand, diagnose
from trimtab.cli.explaining import explain
from trimtab.cli.preflighting import preflight
from trimtab.cli.replaying import replay
from trimtab.cli.reporting import report
from trimtab.cli.tables import embed, fit, nearest
from trimtab.cli.training import bench, demo, signal
from trimtab.cli.watching import serve, watch

__all__ = ["app"]

app = typer.Typer(
    help="Keep the training of neural networks stable, and see why it was not.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def show_version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
) -> None:
    """Keep the training of neural networks stable, and see why it was not."""
    if version:
        from trimtab import __version__

        print(__version__)
        raise typer.Exit


app.command()(demo)
app.command()(fit)
app.command()(embed)
app.command()(nearest)
app.command()(explain)
app.command(cls=DiagnoseCommand)(diagnose)
app.command()(preflight)
app.command()(replay)
app.command()(report)
app.command()(watch)
app.command()(serve)
app.command()(signal)
app.command()(bench)
