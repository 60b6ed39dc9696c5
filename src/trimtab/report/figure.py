"""A run as a Plotly figure: losses with every decision, and below what rose or fell beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from textwrap import wrap
from typing import Any

import plotly.graph_objects as go

from trimtab.journal import RunLog
from trimtab.report.sparse import Outline, find_series, outline_run

TRAIN, HELD_OUT, BESIDE = "#0072B2", "#D55E00", "#707070"
"""Colours of Okabe and Ito's palette, which colour-blind readers can tell apart, and a grey."""

SYMBOLS = {"clip": "triangle-down", "drop": "hexagon", "skip": "x", "halt": "square"}
"""How verdicts are marked; those that set the run back are a diamond, adjustments a circle."""

PANELS = {"grad_norm": "gradient norm", "learning_rate": "learning rate", "loss_scale": "loss scale"}
"""The metrics that have a panel, where they change."""

LOSS_HEIGHT, PANEL_HEIGHT = 360, 120
"""Pixels."""

WIDE = 100.0
"""How many times its lowest number the highest of a metric is, from where on its axis is logarithmic."""

GRID = {"gridcolor": "rgba(128,128,128,0.25)", "zeroline": False}


def draw_run(log: RunLog, caption: str = "") -> go.Figure:
    """A run's losses with every decision and its story, and gradient norm, rate and loss scale on the same steps.

    Steps that a rollback undid are drawn faintly. Of a long run each curve is thinned out such that no spike is lost.

    Args:
        log: the run.
        caption: what stands above; empty for nothing.
    """
    outline = outline_run(log)
    panels = {name: series for name in PANELS if len(set((series := find_series(log, name)).values())) > 1}
    height = LOSS_HEIGHT + PANEL_HEIGHT * len(panels)
    figure = go.Figure()
    figure.set_subplots(
        rows=1 + len(panels),
        cols=1,
        shared_xaxes=True,
        vertical_spacing=0.03,
        row_heights=[LOSS_HEIGHT, *[PANEL_HEIGHT] * len(panels)],
    )
    _add_losses(figure, outline)
    for row, (name, series) in enumerate(panels.items(), 2):
        known = [each for each in series.values() if math.isfinite(each)]
        is_log = bool(known) and min(known) > 0 and max(known) > WIDE * min(known)
        _add_line(figure, series, PANELS[name], BESIDE, row=row, showlegend=False)
        kind = "log" if is_log else "linear"
        figure.update_yaxes(title_text=PANELS[name], type=kind, nticks=4, tickformat="~g", row=row)
    figure.update_xaxes(title_text="step", row=1 + len(panels))
    figure.update_xaxes(**GRID)
    figure.update_yaxes(**GRID)
    figure.update_layout(
        height=height,
        title={"text": escape(caption), "font": {"size": 14}, "x": 0, "xref": "paper"},
        margin={"l": 70, "r": 20, "t": 70 if caption else 30, "b": 45},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": "#808080"},
        hovermode="closest",
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
    )
    return figure


def _add_losses(figure: go.Figure, outline: Outline) -> None:
    _add_line(figure, outline.losses, "training loss", TRAIN)
    if outline.undone:
        _add_line(figure, outline.undone, "undone", TRAIN, opacity=0.35)
    if outline.reviews:
        _add_line(figure, outline.reviews, "validation loss", HELD_OUT, mode="lines+markers")
    above = {step: loss for step, loss in {**outline.undone, **outline.losses}.items() if loss > outline.limit}
    if above:
        figure.add_scatter(
            x=list(above),
            y=[outline.limit] * len(above),
            name="above the axis",
            mode="markers",
            marker={"symbol": "triangle-up-open", "size": 9, "color": TRAIN},
            text=[f"{loss:.4g}" for loss in above.values()],
            hovertemplate="loss %{text} at step %{x}<extra></extra>",
        )
    if outline.marks:
        _add_marks(figure, outline)
    figure.update_yaxes(title_text=outline.title, **_describe_axis(outline), row=1)


def _describe_axis(outline: Outline) -> dict[str, Any]:
    edges = [outline.lowest, outline.limit]
    told: dict[str, Any] = {"type": "linear"}
    if outline.is_log:
        digits = (1,) if outline.limit > WIDE * outline.lowest else (1, 2, 5)
        powers = range(math.floor(math.log10(edges[0])), math.ceil(math.log10(edges[1])) + 1)
        ticks = [digit * 10.0**power for power in powers for digit in digits]
        told = {"type": "log", "tickvals": ticks, "ticktext": [f"{each:g}" for each in ticks]}
        edges = [math.log10(each) for each in edges]
    room = 0.05 * (edges[1] - edges[0])
    return {**told, "range": [edges[0] - room, edges[1] + room]}


def _add_line(figure: go.Figure, series: Mapping[int, float], name: str, color: str, row: int = 1, **told: Any) -> None:
    """A curve with a gap where it is not finite, and where other steps lie between."""
    figure.add_scatter(
        x=list(series),
        y=[each if math.isfinite(each) else None for each in series.values()],
        name=name,
        line={"color": color, "width": 1.3},
        hovertemplate=f"{name} %{{y:.4g}} at step %{{x}}<extra></extra>",
        row=row,
        col=1,
        **{"mode": "lines", **told},
    )


def _add_marks(figure: go.Figure, outline: Outline) -> None:
    losses = {**outline.undone, **outline.losses}
    known = [losses.get(each.step, math.nan) for each in outline.marks]
    figure.add_scatter(
        x=[each.step for each in outline.marks],
        y=[outline.hold(loss) if math.isfinite(loss) else outline.limit for loss in known],
        name="decisions",
        mode="markers",
        marker={
            "symbol": [SYMBOLS.get(each.verdict, _find_symbol(each.verdict)) for each in outline.marks],
            "size": 10,
            "color": "#009E73",
            "line": {"width": 1, "color": "white"},
        },
        text=["<br>".join(wrap(escape(f"{each.verdict}: {each.story}"), 80)) for each in outline.marks],
        hovertemplate="step %{x}<br>%{text}<extra></extra>",
    )


def _find_symbol(verdict: str) -> str:
    return "diamond" if verdict in ("rollback", "reload") else "circle"
