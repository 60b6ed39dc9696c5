"""The demo's result as a table for the terminal and as an offline page."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Column, Table

from trimtab.faults import inject
from trimtab.report.dashboard import DASHBOARD
from trimtab.report.document import compare_runs
from trimtab.report.page import write_report

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
    path = result.folder / DASHBOARD
    names = list(result.val_losses)
    document = compare_runs([result.folder / name for name in names], [TITLES[name] for name in names])
    document["title"] = "Trimtab demo"
    document["summary"] = (
        f"A byte-level transformer learns Python's own sources for {result.num_steps} steps (seed {result.seed}), "
        "three times: undisturbed; with faults and the guard most people write, clipping and skipping what is not "
        "finite; with the same faults and a supervisor."
    )
    document["cards"] = [
        _make_card(TITLES[name], f"{val_loss:.4f}", "validation loss" + _remark(result, name))
        for name, val_loss in result.val_losses.items()
    ]
    document["cards"].append(
        _make_card("Supervisor's share", f"{result.supervisor_share:.1%}", "of the time of the supervised run")
    )
    body = [format_fault(each) for each in result.faults]
    document["tables"] = [{"title": "What became of each fault", "head": FAULT_HEAD, "body": body}]
    for name, run in zip(names, document["runs"], strict=True):
        faults = [] if name == "healthy" else [_mark_fault(each) for each in result.faults]
        run["marks"] = sorted([*run["marks"], *faults], key=lambda mark: int(mark["step"]))
    write_report(path, document)
    return path


def _make_card(question: str, answer: str, more: str) -> dict[str, str]:
    return {"question": question, "answer": answer, "more": more}


def _mark_fault(fault: FaultOutcome) -> dict[str, Any]:
    """Where a fault begins, as a mark of a run."""
    last = fault.step + inject(fault.name, fault.step).duration - 1
    until = f" to step {last}" if last > fault.step else ""
    target = f" ({fault.target})" if fault.target else ""
    return {
        "id": f"fault-{fault.step}",
        "step": fault.step,
        "clock": "step",
        "lane": "course",
        "kind": "fault",
        "severity": "",
        "title": f"Fault: {fault.name}",
        "story": f"{fault.name}{target} was injected from step {fault.step}{until}",
        "facts": [],
        "value": None,
    }


def _format_share(result: Result, name: str) -> str:
    share = result.compare(name)
    if name == "healthy":
        return ""
    return f"{share:+.2%}" if math.isfinite(share) else "not finite"


def _remark(result: Result, name: str) -> str:
    share = _format_share(result, name)
    return f", {share} against healthy" if share else ""
