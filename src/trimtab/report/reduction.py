"""Long series in few points, such that nothing that stands out is lost: the lowest and the highest of each stretch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from trimtab.diagnosis.evidence import Series

Spans: TypeAlias = Sequence[tuple[int, int]]
"""Spans of steps, each with its first and its last step."""

DIGITS = 5
"""Significant digits of a number that is drawn."""


def reduce_series(series: Series, num_points: int, whole: Spans = ()) -> Series:
    """The rows of a series that a drawing needs: of each of some equal stretches the lowest and the highest number.

    The first row that is not finite is kept of each stretch too, and so are the first and the last of all.

    Args:
        series: a metric with one number a step.
        num_points: about how many rows to keep; a series with no more of them is kept whole.
        whole: spans of steps of which every row is kept.
    """
    num_rows = len(series)
    if num_rows <= num_points:
        return series
    width = -(-2 * num_rows // num_points)
    num_stretches = -(-num_rows // width)
    values = np.full(num_stretches * width, np.nan)
    values[:num_rows] = series.values
    stretches = values.reshape(num_stretches, width)
    is_finite = np.isfinite(stretches)
    is_odd = ~is_finite
    is_odd[-1, num_rows - (num_stretches - 1) * width :] = False
    first = np.arange(num_stretches) * width
    kept = np.zeros(num_stretches * width, dtype=np.bool_)
    kept[first + np.where(is_finite, stretches, np.inf).argmin(axis=1)] = True
    kept[first + np.where(is_finite, stretches, -np.inf).argmax(axis=1)] = True
    kept[(first + is_odd.argmax(axis=1))[is_odd.any(axis=1)]] = True
    kept = kept[:num_rows]
    kept[[0, -1]] = True
    for span in whole:
        begins, ends = np.searchsorted(series.steps, [span[0], span[1] + 1])
        kept[begins:ends] = True
    return series.take(kept)


def list_numbers(values: NDArray[Any], digits: int = DIGITS) -> list[float | None]:
    """Numbers as JSON can hold them, to some significant digits; None for one that is not finite."""
    shown = f"%.{digits}g"
    return [float(shown % each) if each - each == 0 else None for each in values.tolist()]
