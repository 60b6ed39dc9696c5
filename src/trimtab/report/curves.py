"""Loss curves of runs with every event marked, as a Plotly figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from trimtab.journal import RunLog
from trimtab.journal.recorder import tell_story
from trimtab.report.axes import LossAxis, choose_axis

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette, which colour-blind readers can tell apart."""

DASHES = ("solid", "dot", "solid", "dash", "dashdot", "longdash")
"""Line styles beside the colours, for print and for those who see no colour."""

SYMBOLS = {"clip": "triangle-down", "drop": "hexagon", "skip": "x", "rollback": "diamond", "halt": "square"}
"""How each verdict is marked on the curve."""


def draw_losses(runs: Mapping[str, RunLog], marks: Sequence[tuple[int, int, str]] = ()) -> go.Figure:
    """Training and validation loss of several runs on one step axis, each decision with its story on hover.

    Steps that a rollback undid are drawn faintly; a gap is where the loss was not finite. A loss far above all others
    is marked at the upper edge, and the axis says how many there are.

    Args:
        runs: name to run.
        marks: spans of steps to shade, each with its first step, its last step and a label.
    """
    figure = go.Figure()
    axis = choose_axis(runs)
    for index, (name, run) in enumerate(runs.items()):
        color, dash = COLORS[index % len(COLORS)], DASHES[index % len(DASHES)]
        _add_run(figure, escape(name), run, axis, color, dash)
    for first, last, label in marks:
        figure.add_vrect(x0=first - 0.5, x1=last + 0.5, fillcolor="#808080", opacity=0.35, line_width=0, layer="below")
        figure.add_annotation(
            x=first,
            y=1,
            yref="paper",
            text=escape(label),
            textangle=-30,
            xanchor="left",
            yanchor="bottom",
            showarrow=False,
        )
    figure.update_layout(
        height=600,
        margin={"l": 60, "r": 60, "t": 90 if marks else 20, "b": 50},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        hovermode="closest",
        legend={"orientation": "h", "y": -0.12, "yanchor": "top", "x": 0},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": "#808080", "activecolor": "#404040"},
    )
    grid = {"gridcolor": "rgba(128,128,128,0.25)", "zeroline": False}
    figure.update_xaxes(title_text="step", **grid)
    figure.update_yaxes(**axis.describe(), **grid)
    return figure


def _add_run(figure: go.Figure, name: str, run: RunLog, axis: LossAxis, color: str, dash: str) -> None:
    steps = [each for each in run.measurements if each.clock == "step" and "loss" in each.values]
    undone = _find_undone(run)
    losses = {each.step: _finite(each.values["loss"], axis) for each in steps}
    live = [loss if step not in undone else None for step, loss in losses.items()]
    line = {"color": color, "width": 1.4, "dash": dash}
    xs = list(losses)
    figure.add_scatter(x=xs, y=live, name=name, mode="lines", line=line, legendgroup=name, hoverinfo="skip")
    if undone:
        faint = [loss if step in undone else None for step, loss in losses.items()]
        figure.add_scatter(
            x=xs, y=faint, mode="lines", line=line, opacity=0.3, legendgroup=name, showlegend=False, hoverinfo="skip"
        )
    reviews = [each for each in run.measurements if each.clock == "review" and "val_loss" in each.values]
    if reviews:
        figure.add_scatter(
            x=[each.step for each in reviews],
            y=[_finite(each.values["val_loss"], axis) for each in reviews],
            name=f"{name}, validation",
            mode="markers+lines",
            line={"color": color, "width": 1, "dash": "dot"},
            marker={"color": color, "size": 6, "symbol": "circle-open"},
            legendgroup=name,
            hovertemplate=f"{name}: validation loss %{{y:.4f}} at step %{{x}}<extra></extra>",
        )
    _add_highest(figure, name, losses, axis, color)
    _add_decisions(figure, name, run, losses, axis, color)


def _add_highest(figure: go.Figure, name: str, losses: Mapping[int, float | None], axis: LossAxis, color: str) -> None:
    """Mark the losses that lie above the axis at its upper edge."""
    above = {step: loss for step, loss in losses.items() if loss is not None and loss > axis.limit}
    if above:
        figure.add_scatter(
            x=list(above),
            y=[axis.limit] * len(above),
            name=f"{name}, above the axis",
            mode="markers",
            marker={"symbol": "triangle-up-open", "size": 9, "color": color},
            legendgroup=name,
            text=[f"{loss:.4g}" for loss in above.values()],
            hovertemplate=f"{name}: loss %{{text}} at step %{{x}}<extra></extra>",
        )


def _add_decisions(
    figure: go.Figure,
    name: str,
    run: RunLog,
    losses: Mapping[int, float | None],
    axis: LossAxis,
    color: str,
) -> None:
    acted = [(decision, action) for decision, action in run.records.values() if decision.responses]
    if not acted:
        return
    ys = [axis.hold(losses.get(decision.step) or axis.limit) for decision, _ in acted]
    stories = [tell_story(decision, action) for decision, action in acted]
    figure.add_scatter(
        x=[decision.step for decision, _ in acted],
        y=ys,
        name=f"{name}, acted",
        mode="markers",
        marker={
            "symbol": [SYMBOLS.get(action.verdict, "circle") for _, action in acted],
            "size": 11,
            "color": color,
            "line": {"width": 1, "color": "white"},
        },
        legendgroup=name,
        text=["<br>".join(map(escape, _wrap(story))) for story in stories],
        hovertemplate="step %{x}<br>%{text}<extra></extra>",
    )


def _find_undone(run: RunLog) -> set[int]:
    """The steps whose updates a rollback undid."""
    return {
        step
        for decision, action in run.records.values()
        if action.restored_step is not None
        for step in range(action.restored_step + 1, decision.step)
    }


def _finite(value: Any, axis: LossAxis) -> float | None:
    is_drawn = isinstance(value, float) and math.isfinite(value) and (value > 0 or not axis.is_log)
    return value if is_drawn else None


def _wrap(text: str, width: int = 80) -> list[str]:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
