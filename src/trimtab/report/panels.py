"""Further metrics under the loss curves, on the same steps: what rose or fell beside the loss."""

from __future__ import annotations

import math

import plotly.graph_objects as go

from trimtab.journal import RunLog

PANELS = {"grad_norm": "gradient norm", "learning_rate": "learning rate", "loss_scale": "loss scale"}
"""The metrics that are drawn, where they were recorded, with their titles."""

HEIGHT = 150
"""Pixels that a panel adds to the figure."""

LOSS_SHARE = 4.0
"""How many times as high as a panel the loss is."""

WIDE = 100.0
"""How many times its lowest number the highest of a metric is, from where on the axis is logarithmic."""

LEGEND = -0.08
"""Where the legend begins below the figure, in its heights."""

COLOR = "#606060"
"""The colour of a panel's line: no run's."""


def add_panels(figure: go.Figure, run: RunLog) -> go.Figure:
    """Put the gradient norm, the learning rate and the loss scale of a run under its loss, where they were recorded."""
    series = {name: _list_numbers(run, name) for name in PANELS}
    drawn = {name: points for name, points in series.items() if len(points) > 1}
    if not drawn:
        return figure
    heights = [LOSS_SHARE, *[1.0] * len(drawn)]
    total = sum(heights)
    figure.set_subplots(
        rows=len(heights),
        cols=1,
        shared_xaxes=True,
        vertical_spacing=0.03,
        row_heights=[each / total for each in heights],
    )
    for row, (name, points) in enumerate(drawn.items(), 2):
        line = {"color": COLOR, "width": 1.2}
        xs, ys = list(points), list(points.values())
        shown = f"{PANELS[name]} %{{y:.4g}} at step %{{x}}<extra></extra>"
        figure.add_scatter(x=xs, y=ys, mode="lines", line=line, showlegend=False, hovertemplate=shown, row=row, col=1)
        known = [each for each in ys if each is not None]
        is_log = min(known) > 0 and max(known) > WIDE * min(known)
        figure.update_yaxes(
            title_text=PANELS[name], type="log" if is_log else "linear", nticks=4, tickformat="~g", row=row, col=1
        )
    figure.update_xaxes(title_text=None, gridcolor="rgba(128,128,128,0.25)", zeroline=False)
    figure.update_xaxes(title_text="step", row=len(heights), col=1)
    figure.update_yaxes(gridcolor="rgba(128,128,128,0.25)", zeroline=False)
    figure.update_layout(height=figure.layout.height + HEIGHT * len(drawn), legend_y=LEGEND)
    return figure


def _list_numbers(run: RunLog, name: str) -> dict[int, float | None]:
    """The numbers of a metric by step; None where one is not finite, which leaves a gap."""
    found = {
        each.step: value if math.isfinite(value) else None
        for each in run.measurements
        if each.clock == "step" and isinstance(value := each.values.get(name), float)
    }
    return found if any(each is not None for each in found.values()) else {}
