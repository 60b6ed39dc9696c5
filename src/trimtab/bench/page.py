"""The result of a suite as tables for the terminal, as Markdown, and as an offline page with a heat map."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots
from rich.table import Column, Table

from trimtab.bench.cases import Case
from trimtab.bench.judging import (
    Alarms,
    Figures,
    Summary,
    count_alarms,
    judge_faults,
    judge_goals,
    list_workloads,
    summarize_by,
)
from trimtab.bench.processes.outcomes import ProcessOutcome, to_rows
from trimtab.bench.running import Trace
from trimtab.report.page import Card, Rows, write_page

if TYPE_CHECKING:
    from trimtab.bench.overhead import Overhead
    from trimtab.bench.scale import Growth

SUMMARY_HEAD = (
    "contestant",
    "runs",
    "matter",
    "found",
    "delay",
    "cause",
    "can be",
    "recovered",
    "harm",
    "peak",
    "acts",
    "lost",
)
"""The columns of the table of contestants."""

PAGE_ONLY = ("runs", "peak", "told", "seconds")
"""The columns that the terminal has no room for."""

ALARMS_HEAD = ("contestant", "runs", "steps", "false actions", "in runs", "findings", "harm")
"""The columns of the tables of healthy runs."""

LEGEND = (
    "matter: runs whose fault matters without a guard; found, cause: shares of those that were found, and named; "
    "can be, recovered: those that the oracle recovers, and the share of them that end within 2 % of the healthy twin; "
    "harm: worst final loss against the same run with the same clipping and no guard; peak: median, in levels before "
    "the fault; acts, lost: interventions and updates lost, mean a run"
)
"""What the columns are."""

WORST = 0.5
"""The excess that is drawn darkest."""


def format_summary(name: str, summary: Summary) -> tuple[str, ...]:
    """A row by the columns of `SUMMARY_HEAD`."""
    return (
        name,
        str(summary.num_runs),
        str(summary.num_matter),
        _share(summary.detected),
        "–" if math.isnan(summary.delay) else f"{summary.delay:g}",
        _share(summary.named),
        str(summary.num_recoverable),
        _share(summary.recovered),
        _format_excess(summary.harm),
        f"{summary.peak:.2g}",
        f"{summary.num_acts:.1f}",
        f"{summary.num_lost:.1f}",
    )


def format_alarms(name: str, alarms: Alarms) -> tuple[str, ...]:
    """A row by the columns of `ALARMS_HEAD`."""
    numbers = (alarms.num_runs, alarms.num_steps, alarms.num_acts, alarms.num_acting_runs, alarms.num_findings)
    return (name, *(f"{each:,}" for each in numbers), _format_excess(alarms.harm))


def list_rows(traces: Mapping[Case, Trace], outcomes: Sequence[ProcessOutcome] = ()) -> list[Rows]:
    """Every table of a suite: goals, contestants over all runs and by workload, and healthy runs.

    Args:
        traces: the runs.
        outcomes: those that needed processes of their own.
    """
    tables = []
    goals = [("met" if each.is_met else "missed", each.goal, each.figures) for each in judge_goals(traces)]
    if goals:
        tables.append(Rows("Trimtab's default against its goals", ("", "goal", "figures"), goals))
    judged = judge_faults(traces)
    for workload in (None, *list_workloads(case for figures in judged.values() for case in figures)):
        found = summarize_by(judged, workload)
        if found:
            title = "Faults, all workloads" if workload is None else f"Faults, {workload}"
            tables.append(Rows(title, SUMMARY_HEAD, [format_summary(*each) for each in found.items()]))
    for title, is_hard in (("Healthy runs", False), ("Hard but healthy runs", True)):
        alarms = {name: each for name, each in count_alarms(traces, is_hard=is_hard).items() if not _is_reference(name)}
        if alarms:
            tables.append(Rows(title, ALARMS_HEAD, [format_alarms(*each) for each in alarms.items()]))
    return [*tables, *([to_rows(outcomes)] if outcomes else [])]


def _is_reference(name: str) -> bool:
    return name in ("nothing", "clipping", "oracle")


def list_overhead_rows(overheads: Sequence[Overhead]) -> list[Rows]:
    """The table of the overhead suite: the cost of each part beside the most it may be."""
    body = [
        (
            each.workload,
            each.name,
            f"{each.figure:.4g} {each.unit}",
            "" if each.noise is None else f"{each.noise:.4g}",
            "" if each.bound is None else f"{each.bound:g}",
            "" if each.bound is None else "met" if each.is_within_bound else "missed",
        )
        for each in overheads
    ]
    return [Rows("Overhead", ("workload", "part", "cost", "noise", "bound", ""), body)]


def list_growth_rows(growths: Sequence[Growth]) -> list[Rows]:
    """The table of the scale suite: each quantity at its sizes, and the exponent of its growth."""
    body = [
        (
            each.quantity,
            each.counted,
            ", ".join(f"{size:,}: {amount:.3g}" for size, amount in each.points),
            each.unit,
            f"{each.exponent:.2f}",
        )
        for each in growths
    ]
    return [Rows("Growth", ("quantity", "against", "amounts by size", "unit", "exponent"), body)]


def build_table(rows: Rows) -> Table:
    """A table for the terminal, where columns of the page are left out that eighty characters have no room for."""
    shown = [index for index, title in enumerate(rows.head) if title not in PAGE_ONLY]
    head = [Column(rows.head[index], no_wrap=index == 0) for index in shown]
    table = Table(*head, title=rows.title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for row in rows.body:
        table.add_row(*(row[index] for index in shown))
    return table


def to_markdown(rows: Rows) -> str:
    """A table as Markdown."""
    lines = [f"## {rows.title}", "", _join(rows.head), _join("---" for _ in rows.head), *map(_join, rows.body), ""]
    return "\n".join(lines)


def _join(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def write_suite_page(
    path: Path, document: Mapping[str, Any], traces: Mapping[Case, Trace], outcomes: Sequence[ProcessOutcome] = ()
) -> None:
    """Write the page of a suite.

    Args:
        path: the file to write.
        document: what its JSON file says of it.
        traces: its runs.
        outcomes: those that needed processes of their own.
    """
    goals = list(judge_goals(traces))
    machine = document["machine"]
    cards = [
        Card("Runs", f"{len(traces):,}", f"{sum(each.num_steps for each in traces.values()):,} steps"),
        Card("Goals met", f"{sum(each.is_met for each in goals)} of {len(goals)}", "by Trimtab's default"),
    ]
    write_page(
        path,
        title=f"trimtab bench: {document['suite']}",
        summary=(
            f"Each square of the map is a workload and a fault under one guard: by how much the final held-out loss is "
            f"above that of the healthy twin, median over the seeds. {LEGEND[0].upper()}{LEGEND[1:]}. Taken on "
            f"{machine['system']}, {machine['num_cores']} cores, Python {machine['python']}, torch {machine['torch']}."
        ),
        cards=cards,
        figure=draw_map(judge_faults(traces)),
        tables=list_rows(traces, outcomes),
    )


def draw_map(judged: Mapping[str, Mapping[Case, Figures]]) -> go.Figure:
    """A heat map for each workload: faults down, contestants across, coloured by the excess of the final loss."""
    cases = [case for figures in judged.values() for case in figures]
    names = list_workloads(cases)
    faults = {name: list(dict.fromkeys(case.fault for case in cases if case.workload == name)) for name in names}
    heights = [max(len(faults[name]), 1) for name in names] or [1]
    figure = make_subplots(
        max(len(names), 1),
        1,
        subplot_titles=names,
        row_heights=heights,
        vertical_spacing=min(3.0 / (sum(heights) + 3 * len(names)), 1.0 / max(len(names), 1)),
    )
    for row, name in enumerate(names, 1):
        cells = [[_median_excess(judged[guard], name, fault) for guard in judged] for fault in faults[name]]
        figure.add_heatmap(
            x=list(judged),
            y=faults[name],
            z=[[min(max(cell, 0.0), WORST) for cell in line] for line in cells],
            text=[[_format_excess(cell) for cell in line] for line in cells],
            texttemplate="%{text}",
            hovertemplate="%{y}, %{x}: %{text}<extra></extra>",
            zmin=0.0,
            zmax=WORST,
            colorscale=[(0.0, "#f7fbff"), (0.04, "#deebf7"), (0.0401, "#fdd0a2"), (0.3, "#fd8d3c"), (1.0, "#7f2704")],
            showscale=False,
            xgap=2,
            ygap=2,
            textfont={"size": 11},
            row=row,
            col=1,
        )
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(
        height=120 + 26 * sum(heights) + 60 * len(heights),
        margin={"l": 170, "r": 20, "t": 50, "b": 40},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
    )
    return figure


def _median_excess(figures: Mapping[Case, Figures], workload: str, fault: str) -> float:
    found = [each.excess for case, each in figures.items() if (case.workload, case.fault) == (workload, fault)]
    return median(found) if found else math.nan


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.0%}"


def _format_excess(value: float) -> str:
    if math.isnan(value):
        return ""
    return "broken" if math.isinf(value) and value > 0 else f"{value:+.1%}" if abs(value) < 10 else f"×{1 + value:.0f}"
