"""A panel of a page: lines on one axis, and as what JSON can hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trimtab.diagnosis.evidence import Series
from trimtab.report.axes import choose_axis
from trimtab.report.reduction import DIGITS, Spans, list_numbers, reduce_series

LEAST_POINTS, MOST_POINTS = 800, 20_000
"""Points of a line, whatever the number of lines on a page."""


SECTIONS = (
    "Loss",
    "Gradients",
    "Schedule",
    "Weights",
    "Activations",
    "Reviews",
    "Spectra",
    "Speed and memory",
    "More",
)
"""The sections of a page, in their order."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a panel."""

    name: str
    """What it shows."""

    series: Series
    """Its points."""

    role: str = "main"
    """How it is drawn: `main`, `review` with a mark at each point, `bound` dashed, `plan` dotted."""

    is_stepped: bool = False
    """True for what holds until the next point."""


@dataclass(frozen=True, slots=True)
class Panel:
    """What is drawn on an axis of its own."""

    id: str
    """Its name, the same in every run, so that runs can be laid over one another."""

    section: str
    """The section of the page it is in."""

    title: str
    """What it shows."""

    lines: Sequence[Line]
    """Its lines."""

    about: str = ""
    """What is to be known of it, in a sentence."""

    levels: Mapping[str, float] | None = None
    """Numbers that are drawn as a line across, by name."""

    zones: Sequence[tuple[str, float, float]] = ()
    """Bands that are drawn behind the lines: each its name, the lower end, and the upper one, which may be infinite."""

    prefers_log: bool = False
    """True to have a logarithmic axis for whatever is positive."""


def describe_panels(panels: Sequence[Panel], num_points: int, whole: Spans) -> list[dict[str, Any]]:
    """Panels as JSON can hold them, reduced to about so many points altogether.

    Args:
        panels: the panels.
        num_points: the points of all lines together.
        whole: spans of steps of which every point is kept, as long as there is room.
    """
    num_lines = sum(len(panel.lines) for panel in panels)
    per_line = min(max(num_points // max(num_lines, 1), LEAST_POINTS), MOST_POINTS)
    return [_describe_panel(panel, per_line, whole) for panel in panels]


def _describe_panel(panel: Panel, num_points: int, whole: Spans) -> dict[str, Any]:
    axis = choose_axis([line.series.values for line in panel.lines], prefers_log=panel.prefers_log)
    return {
        "id": panel.id,
        "kind": "lines",
        "section": panel.section,
        "title": panel.title,
        "about": panel.about,
        "is_log": axis.is_log and not panel.zones,
        "limit": float(f"{axis.limit:.{DIGITS}g}")
        if axis.num_above
        else None,  # rounded as the numbers it is held against
        "lowest": float(f"{axis.lowest:.6g}"),
        "num_above": axis.num_above,
        "highest": float(f"{axis.highest:.6g}"),
        "levels": dict(panel.levels or {}),
        "zones": [[name, low, high if high < np.inf else None] for name, low, high in panel.zones],
        "lines": [_describe_line(line, num_points, whole) for line in panel.lines if len(line.series)],
    }


def _describe_line(line: Line, num_points: int, whole: Spans) -> dict[str, Any]:
    kept = reduce_series(line.series, num_points, whole)
    is_odd = ~np.isfinite(kept.values)
    return {
        "name": line.name,
        "role": line.role,
        "is_stepped": line.is_stepped,
        "steps": kept.steps.tolist(),
        "values": list_numbers(kept.values),
        "odd": kept.steps[is_odd].tolist(),
        "num": len(line.series),
    }
