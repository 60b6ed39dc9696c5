"""The metrics with one number per group as heat maps: groups down, steps across, the highest number of each stretch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.diagnosis.evidence import Evidence, Series
from trimtab.diagnosis.gather import find_kept
from trimtab.journal import TABLES, row_dtypes
from trimtab.report.reduction import list_numbers

CHUNK_BYTES = 1 << 24
"""What is read of a file at a time."""

NUM_CELLS = {"group_grad_norm": 24_000, "update_ratio": 12_000, "weight_norm": 12_000}
"""The most cells of the heat maps that are looked at most."""

NUM_CELLS_OF_OTHERS = 6_000
"""The most cells of any other."""

MOST_COLUMNS, LEAST_COLUMNS = 600, 40
"""Columns of a heat map."""

MOST_ODD = 2000
"""Cells that are marked as not finite."""

DIGITS = 3
"""Significant digits of a cell."""

TITLES = {
    "group_grad_norm": ("Gradients", "Gradient norm by group"),
    "missing_gradients": ("Gradients", "Parameters without a gradient, by group"),
    "update_ratio": ("Weights", "Update ratio by group"),
    "weight_norm": ("Weights", "Weight norm by group"),
    "lost_updates": ("Weights", "Updates lost to rounding, by group"),
    "replica_divergence": ("Weights", "Divergence of replicas, by group"),
    "dead_units": ("Activations", "Dead units, by group"),
}
"""The section and the title of a heat map; of others they follow from the metric's name."""

MUST_BE_FINITE = {"group_grad_norm", "update_ratio", "weight_norm"}
"""The metrics of which NaN is a number that is not finite; of others it says that there is none of the group."""

UNDRAWN = {"group_nonfinite"}
"""What the heat map of the gradient norm shows already."""

RELATIVE = {"group_grad_norm", "update_ratio", "weight_norm", "activation_std", "activation_largest"}
"""The metrics that are drawn as multiples of the group's own median."""


def describe_heatmaps(evidence: Evidence, folder: Path | None) -> Iterator[dict[str, Any]]:
    """The heat maps of a run as JSON can hold them, of those metrics in which there is anything to be seen.

    Args:
        evidence: the run.
        folder: its run folder, whose tables have every step; None to draw what the evidence holds.
    """
    if not evidence.groups:
        return
    tables = _list_series(evidence) if folder is None else _list_tables(folder, evidence.manifest)
    for name, (steps, cells, is_odd) in tables.items():
        if name not in UNDRAWN and (is_odd.any() or _is_telling(name, cells)):
            yield _describe(name, evidence.groups, steps, cells, is_odd)


def _is_telling(name: str, cells: NDArray[np.float64]) -> bool:
    """True if there is anything to be seen: of what is told against the usual, any number; else any but 0."""
    known = cells[np.isfinite(cells)]
    return bool(len(known)) and (name in RELATIVE or bool((known != 0).any()))


def _describe(
    name: str, groups: tuple[str, ...], steps: NDArray[np.int64], cells: NDArray[np.float64], is_odd: NDArray[np.bool_]
) -> dict[str, Any]:
    section, title = TITLES.get(name, ("Activations", f"{name.replace('_', ' ').capitalize()}, by group"))
    levels = [_median(cells[:, index]) for index in range(cells.shape[1])]
    is_relative = name in RELATIVE
    about = "Each cell is the highest of its steps" + (", in multiples of the group's median" if is_relative else "")
    return {
        "id": f"{name}_by_group",
        "kind": "heat",
        "section": section,
        "title": title,
        "about": about,
        "groups": list(groups),
        "steps": steps.tolist(),
        "cells": [list_numbers(column, DIGITS) for column in cells.T],
        "levels": list_numbers(np.array(levels), DIGITS),
        "is_relative": is_relative,
        "odd": np.argwhere(is_odd)[:MOST_ODD].tolist(),
    }


def _median(numbers: NDArray[np.float64]) -> float:
    known = numbers[np.isfinite(numbers)]
    return float(np.median(known)) if len(known) else np.nan


def _list_series(evidence: Evidence) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]]:
    """The metrics by group that evidence holds, reduced."""
    num_groups = len(evidence.groups)
    return {
        name: _reduce(name, iter([(series.steps, series.values)]), len(series), num_groups)
        for name, series in evidence.metrics.items()
        if _is_by_group(series, num_groups)
    }


def _is_by_group(series: Series, num_groups: int) -> bool:
    return series.values.ndim > 1 and series.values.shape[1] == num_groups and len(series) > 0


def _list_tables(
    folder: Path, manifest: Mapping[str, Any]
) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]]:
    """The metrics by group of a run folder, reduced as they are read."""
    found = {}
    num_groups = len(manifest["groups"])
    for table, listed in TABLES.items():
        dtype, path = row_dtypes(manifest)[table], folder / table
        num_rows = path.stat().st_size // dtype.itemsize if path.exists() else 0
        if not num_rows:
            continue
        rows = np.memmap(path, dtype=dtype, mode="r", shape=(num_rows,))
        steps, present = np.array(rows["step"], dtype=np.int64), np.array(rows["present"])
        for bit, name in enumerate(manifest[listed]):
            there = (present >> bit & 1).astype(bool)
            kept = np.flatnonzero(there)
            kept = kept[find_kept(steps[kept])]
            if len(kept):
                found[name] = _reduce(name, _read_parts(rows, name, steps, kept), len(kept), num_groups)
    return found


def _read_parts(
    rows: Any, name: str, steps: NDArray[np.int64], kept: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    per_chunk = max(CHUNK_BYTES // rows.dtype.itemsize, 1)
    for first in range(0, len(kept), per_chunk):
        part = kept[first : first + per_chunk]
        is_whole = part[-1] - part[0] + 1 == len(part)
        yield steps[part], rows[name][part[0] : part[-1] + 1] if is_whole else rows[name][part]


def _count_columns(name: str, num_groups: int) -> int:
    cells = NUM_CELLS.get(name, NUM_CELLS_OF_OTHERS)
    return min(max(cells // max(num_groups, 1), LEAST_COLUMNS), MOST_COLUMNS)


def _reduce(
    name: str, parts: Iterator[tuple[NDArray[np.int64], NDArray[Any]]], num_rows: int, num_groups: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]:
    """The first step of each column, its highest finite numbers by group, and where a number is not finite."""
    width = -(-num_rows // _count_columns(name, num_groups))
    num_columns = -(-num_rows // width)
    firsts = np.zeros(num_columns, dtype=np.int64)
    cells = np.full((num_columns, num_groups), np.nan)
    is_odd = np.zeros(cells.shape, dtype=np.bool_)
    row = 0
    for steps, values in parts:
        columns = np.arange(row, row + len(values)) // width
        starts = np.flatnonzero(np.append(True, columns[1:] != columns[:-1]))
        touched = columns[starts]
        odd = ~np.isfinite(values) if name in MUST_BE_FINITE else np.isinf(values)
        highest = np.fmax.reduceat(np.where(np.isinf(values), np.nan, values), starts, axis=0)
        cells[touched] = np.fmax(cells[touched], highest)
        is_odd[touched] |= np.logical_or.reduceat(odd, starts, axis=0)
        is_first = np.flatnonzero(np.arange(row, row + len(values)) % width == 0)
        firsts[columns[is_first]] = steps[is_first]
        row += len(values)
    return firsts, cells, is_odd
