"""A run as a table: columns of numbers, and a data frame of pandas or Polars made of them."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

from trimtab.errors import InputError
from trimtab.journal import RunLog

Library = Literal["pandas", "polars"]

LIBRARIES = ("pandas", "polars")
"""The libraries that a frame can be of, the default first."""


def list_columns(log: RunLog, *, groups: bool = False) -> dict[str, list[Any]]:
    """The columns of a run's table, each with one entry for each step and review; None where nothing was measured.

    Args:
        log: the run.
        groups: True to have a column `METRIC/GROUP` for each group of each per-group metric.
    """
    names = [str(each) for each in log.manifest.get("groups", ())]
    rows = [_spread(each.values, names if groups else None) for each in log.measurements]
    metrics = dict.fromkeys(name for row in rows for name in row)
    records, none = log.records, ("proceed", "")
    told = {
        key: (action.verdict, ", ".join(dict.fromkeys(each.detector for each in decision.findings)))
        for key, (decision, action) in records.items()
    }
    keys = [(each.step, each.clock) for each in log.measurements]
    return {
        "step": [step for step, _ in keys],
        "clock": [clock for _, clock in keys],
        **{name: [row.get(name) for row in rows] for name in metrics},
        "verdict": [told.get(key, none)[0] for key in keys],
        "found": [told.get(key, none)[1] for key in keys],
    }


def make_frame(columns: dict[str, list[Any]], library: Library | None = None) -> Any:
    """A data frame of columns; of pandas if nothing else is said, or of Polars where pandas is not installed.

    Raises:
        InputError: if the library is unknown or not installed.
    """
    if library is not None and library not in LIBRARIES:
        raise InputError(f"to_frame: library is {library!r}; it has to be one of {', '.join(LIBRARIES)}")
    installed = [name for name in LIBRARIES if library in (None, name) and find_spec(name) is not None]
    if not installed:
        wanted = library or "pandas or polars"
        raise InputError(f"to_frame: it needs {wanted}, which is not installed: pip install {library or 'pandas'}")
    module = import_module(installed[0])
    if installed[0] == "polars":
        types = {"step": module.Int64, "clock": module.String, "verdict": module.String, "found": module.String}
        return module.DataFrame(columns, schema={name: types.get(name, module.Float64) for name in columns})
    metrics = {name: module.array(each, dtype="float64") for name, each in _replace_missing(columns).items()}
    return module.DataFrame({**columns, **metrics}, columns=list(columns))


def _replace_missing(columns: dict[str, list[Any]]) -> dict[str, list[float]]:
    """The columns of metrics, with NaN for what was not measured, which is how pandas has it."""
    others = ("step", "clock", "verdict", "found")
    return {
        name: [float("nan") if each is None else each for each in column]
        for name, column in columns.items()
        if name not in others
    }


def _spread(values: Any, names: list[str] | None) -> dict[str, float]:
    """The metrics of a row that are one number, and with names of groups those with one for each group."""
    row: dict[str, float] = {}
    for metric, value in values.items():
        if not isinstance(value, tuple):
            row[metric] = value
        elif names is not None:
            row |= {f"{metric}/{group}": each for group, each in zip(names, value, strict=True)}
    return row
