"""A run as a small drawing, for whoever shows no Plotly: one SVG, without script and without a network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from html import escape

from trimtab.report.sparse import Outline

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 26, 34
"""The drawing and its margins, in pixels."""

TRAIN, HELD_OUT, ACTED = "#0072B2", "#D55E00", "#009E73"
"""Colours of Okabe and Ito's palette."""

Place = Callable[[float], float]


def sketch_run(outline: Outline) -> str:
    """The losses of a run with its decisions as SVG; steps that a rollback undid are drawn faintly."""
    steps = [*outline.losses, *outline.undone, *outline.reviews]
    if not steps:
        return "<p>No loss was measured.</p>"
    across = _scale(min(steps), max(steps), LEFT, WIDTH - RIGHT)
    up = _scale(_level(outline, outline.lowest), _level(outline, outline.limit), HEIGHT - BOTTOM, TOP)

    def place(loss: float) -> float:
        return up(_level(outline, outline.hold(loss)))

    parts = [
        _draw_line(outline.undone, across, place, f'stroke="{TRAIN}" opacity="0.35"'),
        _draw_line(outline.losses, across, place, f'stroke="{TRAIN}"'),
        _draw_line(outline.reviews, across, place, f'stroke="{HELD_OUT}" stroke-dasharray="4 2"'),
        *(
            f"<g>{_draw_mark(outline, mark.step, mark.verdict, mark.story, across, place)}</g>"
            for mark in outline.marks
        ),
        _write(LEFT - 6, TOP + 4, f"{outline.limit:.3g}", "end"),
        _write(WIDTH - RIGHT, 12, outline.title, "end"),
        _write(LEFT - 6, HEIGHT - BOTTOM, f"{outline.lowest:.3g}", "end"),
        _write(LEFT, HEIGHT - 14, f"step {min(steps):,}", "start"),
        _write(WIDTH - RIGHT, HEIGHT - 14, f"{max(steps):,}", "end"),
        *_write_legend(outline),
    ]
    head = (
        f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" style="max-width:100%" font-family="sans-serif" font-size="12"'
    )
    frame = f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}" fill="none" stroke="#808080"/>'
    title = "losses of the run by step"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{title}" {head}>{frame}{"".join(parts)}</svg>'
    )


def _level(outline: Outline, loss: float) -> float:
    return math.log(loss) if outline.is_log else loss


def _scale(first: float, last: float, begin: float, end: float) -> Place:
    """From numbers between two to pixels between two."""
    extent = (last - first) or 1.0
    return lambda number: round(begin + (number - first) / extent * (end - begin), 1)


def _draw_line(series: Mapping[int, float], across: Place, place: Place, style: str) -> str:
    """A curve, with a gap where it is not finite; a single point as a dot."""
    path, is_down = "", False
    for step, loss in series.items():
        if math.isfinite(loss):
            path += f"{'L' if is_down else 'M'}{across(step)} {place(loss)}"
            path += "" if is_down else "h0"
        is_down = math.isfinite(loss)
    return f'<path d="{path}" fill="none" stroke-width="1.4" stroke-linecap="round" {style}/>' if path else ""


def _draw_mark(outline: Outline, step: int, verdict: str, story: str, across: Place, place: Place) -> str:
    loss = {**outline.undone, **outline.losses}.get(step, math.nan)
    height = place(loss) if math.isfinite(loss) else place(outline.limit)
    told = escape(f"step {step}, {verdict}: {story}")
    return f'<title>{told}</title><circle cx="{across(step)}" cy="{height}" r="4" fill="{ACTED}" stroke="white"/>'


def _write(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="#808080">{escape(text)}</text>'


def _write_legend(outline: Outline) -> list[str]:
    shown = [("training loss", TRAIN, outline.losses), ("validation loss", HELD_OUT, outline.reviews)]
    shown += [("decisions", ACTED, outline.marks)]  # type: ignore[list-item]
    parts, x = [], LEFT
    for name, color, drawn in shown:
        if drawn:
            parts.append(
                f'<rect x="{x}" y="6" width="12" height="4" fill="{color}"/>{_write(x + 16, 12, name, "start")}'
            )
            x += 24 + 7 * len(name)
    return parts
