"""A run in a notebook: a figure where it is displayed, a Plotly figure, a table for pandas or Polars."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.journal import RunLog, Tracker, format_event, read_run
from trimtab.report.frames import Library, list_columns, make_frame
from trimtab.report.sketch import sketch_run
from trimtab.report.sparse import outline_run
from trimtab.types import Clock, Measurement, Record

if TYPE_CHECKING:
    import plotly.graph_objects as go

PLOTLY = "application/vnd.plotly.v1+json"
"""The kind of content that Jupyter draws with Plotly."""

MOST_KEPT = 20_000
"""Measurements, and events, that a run without a folder keeps."""


@dataclass(frozen=True, slots=True)
class RunView:
    """A run to look at; in a notebook it is displayed as its loss curves with every decision marked."""

    log: RunLog
    """The run, as it was read."""

    caption: str = ""
    """What stands above the figure."""

    def plot(self) -> go.Figure:
        """The losses with every decision and its story, and gradient norm, rate and loss scale on the same steps.

        Of a long run each curve is thinned out such that no spike is lost.
        """
        from trimtab.report.figure import draw_run  # Plotly takes long to import

        return draw_run(self.log, self.caption)

    def to_frame(self, library: Library | None = None, *, groups: bool = False) -> Any:
        """One row for each step and review: `step`, `clock`, every metric, `verdict`, and `found`, the detectors.

        Args:
            library: `pandas` or `polars`; by default pandas, or Polars where that is not installed.
            groups: True to have a column `METRIC/GROUP` for each group of each per-group metric too.

        Returns:
            A data frame. What was not measured is null in Polars, and NaN in pandas, as a measured NaN is.

        Raises:
            InputError: if the library is none of these, or not installed.
        """
        return make_frame(list_columns(self.log, groups=groups), library)

    def _repr_mimebundle_(
        self, include: Collection[str] | None = None, exclude: Collection[str] | None = None
    ) -> dict[str, Any]:
        """What a notebook displays: a figure of Plotly, and a drawing where there is no Plotly."""
        bundle: dict[str, Any] = {
            "text/plain": self.caption,
            "text/html": f"<div><p>{escape(self.caption)}</p>{sketch_run(outline_run(self.log))}</div>",
            PLOTLY: json.loads(self.plot().to_json()),
        }
        kept = bundle.keys() if include is None else set(include)
        return {kind: content for kind, content in bundle.items() if kind in kept and kind not in (exclude or ())}


def view_run(folder: str | Path) -> RunView:
    """A run folder, to look at in a notebook.

    Raises:
        RunFormatError: if it is no run folder.
    """
    log = read_run(folder)
    last = max((each.step for each in log.measurements), default=0)
    return RunView(log, f"{log.folder.name}: {last:,} steps")


class Memory(Tracker):
    """Keeps a run that has no folder, in bounded memory: of a long one the highest loss of each few steps."""

    def __init__(self) -> None:
        self._stride = 1
        self._rows: dict[tuple[Clock, int], Measurement] = {}
        self._events: list[dict[str, Any]] = []

    @property
    def log(self) -> RunLog:
        """The run as its folder would be read, without per-group metrics."""
        ordered = sorted(self._rows.values(), key=lambda each: each.step)
        return RunLog(Path("run"), {"groups": []}, ordered, self._events)

    def write(self, record: Record) -> None:
        """Keep one step or review."""
        measured, told = record.measurement, format_event(record)
        scalars = {name: value for name, value in measured.values.items() if isinstance(value, float)}
        self._keep(replace(measured, values=scalars))
        if told and len(self._events) < MOST_KEPT:
            self._events.append(json.loads(told))
        while len(self._rows) > MOST_KEPT:
            self._stride *= 2
            rows, self._rows = self._rows, {}
            for each in rows.values():
                self._keep(each)

    def _keep(self, measured: Measurement) -> None:
        """Keep a row, if none of its few steps has a higher loss; one that is not finite is the highest."""
        place = (measured.clock, measured.step // self._stride)
        kept = self._rows.get(place)
        if kept is None or _height(kept) < _height(measured):
            self._rows[place] = measured


def _height(measurement: Measurement) -> float:
    loss = measurement.values.get("loss", -math.inf)
    return loss if isinstance(loss, float) and not math.isnan(loss) else math.inf
