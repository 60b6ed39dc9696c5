"""Curves out of characters: each holds two columns and four rows of dots, so that a line of text is a plot."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
"""The bit of each dot of a Braille character, by row and column."""

BRAILLE = 0x2800
"""The character without any dot."""

WIDE = 10.0
"""How many times its lowest number the highest of a curve is, from where on it is drawn on a log scale."""

USUAL = 0.95
"""The share of the numbers that are drawn in full; of higher ones those near them."""

NUM_FIRST = 10
"""Numbers at the beginning that are drawn in full too."""

ROOM = 0.5
"""How far above those the curve may go, in their range; what is higher lies at the upper edge."""


@dataclass(frozen=True, slots=True)
class Sparkline:
    """A curve in lines of text."""

    rows: tuple[str, ...]
    """The lines, from the top."""

    lowest: float
    """The number at the lower edge; NaN where there is nothing to draw."""

    highest: float
    """The number at the upper edge."""

    is_cut: bool
    """True if there are higher numbers, which lie at the upper edge."""


def draw_sparkline(
    steps: NDArray[np.float64], values: NDArray[np.float64], width: int, height: int, span: tuple[float, float]
) -> Sparkline:
    """Draw numbers over steps; each column of dots holds the range of its numbers, so that no spike is lost.

    Args:
        steps: the steps, rising.
        values: the numbers; where they are not finite there is a gap.
        width: characters in a line.
        height: lines.
        span: the first and the last step of the axis.
    """
    dots = np.zeros((4 * height, 2 * width), dtype=bool)
    finite = np.isfinite(values)
    steps, values = steps[finite], values[finite]
    if not len(values):
        return Sparkline(_to_text(dots), np.nan, np.nan, False)
    is_log = bool(values.min() > 0 and values.max() > WIDE * values.min())
    scaled = np.log10(values) if is_log else values
    lowest, highest = _choose_range(scaled)
    is_cut = bool(scaled.max() > highest)
    extent = highest - lowest
    levels = (np.minimum(scaled, highest) - lowest) / extent if extent > 0 else np.full(len(scaled), 0.5)
    rows = np.round((1 - levels) * (4 * height - 1)).astype(int)
    columns = np.clip(((steps - span[0]) / max(span[1] - span[0], 1) * (2 * width - 1)).round(), 0, 2 * width - 1)
    _fill(dots, columns.astype(int), rows)
    edges = (10.0**lowest, 10.0**highest) if is_log else (lowest, highest)
    return Sparkline(_to_text(dots), float(edges[0]), float(edges[1]), is_cut)


def _choose_range(values: NDArray[np.float64]) -> tuple[float, float]:
    lowest, highest = float(values.min()), float(values.max())
    usual = max(float(np.quantile(values, USUAL)), float(np.median(values[:NUM_FIRST])))
    return (lowest, min(highest, usual + ROOM * (usual - lowest))) if usual > lowest else (lowest, highest)


def _fill(dots: NDArray[np.bool_], columns: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
    """Set the dots of a line through places whose columns do not fall."""
    starts = np.flatnonzero(np.append(True, columns[1:] != columns[:-1]))
    tops, bottoms = np.minimum.reduceat(rows, starts), np.maximum.reduceat(rows, starts)
    lasts = rows[np.append(starts[1:], len(rows)) - 1]
    for index, column in enumerate(columns[starts]):
        dots[tops[index] : bottoms[index] + 1, column] = True
        if index:
            _connect(dots, columns[starts[index - 1]], lasts[index - 1], column, rows[starts[index]])


def _connect(dots: NDArray[np.bool_], column: int, row: int, next_column: int, next_row: int) -> None:
    """Set the dots of a line between two places; of columns beside each other, each has its half of a rise."""
    columns = np.arange(column, next_column + 1)
    rows = np.round(np.interp(columns, [column, next_column], [row, next_row])).astype(int)
    dots[rows, columns] = True
    for index, (before, after) in enumerate(pairwise(rows.tolist())):
        middle = before + (after - before) // 2
        for place, ends in ((columns[index], (before, middle)), (columns[index + 1], (middle, after))):
            if abs(after - before) > 1:
                dots[min(ends) : max(ends) + 1, place] = True


def _to_text(dots: NDArray[np.bool_]) -> tuple[str, ...]:
    height, width = dots.shape[0] // 4, dots.shape[1] // 2
    cells = dots.reshape(height, 4, width, 2).transpose(0, 2, 1, 3)
    codes = BRAILLE + (cells * DOTS).sum(axis=(2, 3))
    return tuple("".join(map(chr, line)) for line in codes.tolist())
