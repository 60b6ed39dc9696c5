"""The demo's result as a table for the terminal and as an offline page."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Column, Table

from trimtab.faults import inject
from trimtab.journal import read_run
from trimtab.journal.recorder import tell_story
from trimtab.report.curves import draw_losses
from trimtab.report.page import Card, Rows, write_page

if TYPE_CHECKING:
    from trimtab.bench.demo import FaultOutcome, Result

TITLES = {
    "healthy": "Healthy",
    "usual_guard": "Faults, usual guard",
    "supervised": "Faults, supervised",
}

FAULT_HEAD = ("fault", "step", "found", "delay", "found by", "done", "lost")
"""Lost are updates: those dropped, and those a rollback undid."""


def build_tables(result: Result) -> tuple[Table, Table]:
    """Two tables for the terminal: the validation losses of the runs, and what became of each fault."""
    runs = Table("run", "validation loss", "against healthy", box=None, pad_edge=False)
    for name, val_loss in result.val_losses.items():
        runs.add_row(TITLES[name], f"{val_loss:.4f}", _format_share(result, name))
    faults = Table(*(Column(title, no_wrap=title != "done") for title in FAULT_HEAD), box=None, pad_edge=False)
    for each in result.faults:
        faults.add_row(each.name, *format_fault(each)[1:])
    return runs, faults


def format_fault(fault: FaultOutcome) -> tuple[str, ...]:
    """A fault's row, by the columns of `FAULT_HEAD`."""
    found = "-" if fault.found_step is None else str(fault.found_step)
    delay = "not found" if fault.found_step is None else str(fault.found_step - fault.step)
    counts = Counter(fault.responses)
    done = ", ".join(f"{num} × {verdict}" if num > 1 else verdict for verdict, num in counts.items())
    return (
        f"{fault.name} ({fault.target})" if fault.target else fault.name,
        str(fault.step),
        found,
        delay,
        ", ".join(fault.detectors[:1]),
        done or "nothing",
        str(fault.num_lost),
    )


def write_demo_page(result: Result) -> Path:
    """Write the page of a demo beside its run folders.

    Returns:
        Its path, `dashboard.html` in the demo's folder.
    """
    path = result.folder / "dashboard.html"
    logs = {name: read_run(result.folder / name) for name in result.val_losses}
    cards = [
        Card(TITLES[name], f"{val_loss:.4f}", "validation loss" + _remark(result, name))
        for name, val_loss in result.val_losses.items()
    ]
    cards.append(Card("Supervisor's share", f"{result.supervisor_share:.1%}", "of the time of the supervised run"))
    marks = [(each.step, each.step + inject(each.name, each.step).duration - 1, each.name) for each in result.faults]
    stories = [
        (str(decision.step), tell_story(decision, action)) for decision, action in logs["supervised"].records.values()
    ]
    write_page(
        path,
        title="Trimtab demo",
        summary=(
            f"A byte-level transformer learns Python's own sources for {result.num_steps} steps (seed {result.seed}), "
            "three times: undisturbed; with faults and the guard most people write, clipping and skipping what is not "
            "finite; with the same faults and a supervisor. Grey bars mark where a fault begins; hover over a mark to "
            "see what was found and done."
        ),
        cards=cards,
        figure=draw_losses({TITLES[name]: log for name, log in logs.items()}, marks),
        tables=[
            Rows("What became of each fault", FAULT_HEAD, [format_fault(each) for each in result.faults]),
            Rows("Every decision of the supervised run", ("step", "what was found, and done"), stories),
        ],
    )
    return path


def _format_share(result: Result, name: str) -> str:
    share = result.compare(name)
    if name == "healthy":
        return ""
    return f"{share:+.2%}" if math.isfinite(share) else "not finite"


def _remark(result: Result, name: str) -> str:
    share = _format_share(result, name)
    return f", {share} against healthy" if share else ""
