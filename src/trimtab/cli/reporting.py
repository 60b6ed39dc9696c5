"""The command that writes the page of a run, or of several beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trimtab.cli.doors import console, say_errors


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Run folders, or other tools' logs.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE.html", help="What to write; if left out, dashboard.html in the run."),
    ] = None,
) -> None:
    """Write one page that opens offline: what happened in a run, what was done, and whether it helped.

    Of several runs it is a comparison, comparison.html if no name is given: the same axes, and in what they differ.
    """
    from trimtab.errors import InputError
    from trimtab.journal import MANIFEST
    from trimtab.report.dashboard import DASHBOARD
    from trimtab.report.document import compare_runs, describe_run
    from trimtab.report.page import write_report

    with say_errors():
        if out is not None and out.suffix not in (".html", ".htm"):
            raise InputError(f"report: --out {str(out)!r} has to end in .html")
        if out is not None and not out.parent.is_dir():
            raise InputError(
                f"report: there is no folder {str(out.parent)!r} to write {out.name!r} into; make it first"
            )
        document = describe_run(runs[0]) if len(runs) == 1 else compare_runs(runs)
        if out is None:
            is_folder = len(runs) == 1 and (runs[0] / MANIFEST).is_file()
            out = runs[0] / DASHBOARD if is_folder else Path("report.html" if len(runs) == 1 else "comparison.html")
        write_report(out, document)
    console.print(f"Look at it: {out}", soft_wrap=True, markup=False, highlight=False)
