"""`rows.parquet`, what a run saw of each row of its data, and the kinds of rows that are told apart by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

ROWS = "rows.parquet"
"""The file of a run folder that holds what was seen of each row."""

Kind: TypeAlias = Literal["hard", "late", "flip-flop", "never-seen", "seen-twice", "nonfinite-loss"]
"""The kinds of rows that are told apart."""

LATE_QUANTILE = 0.9
"""A row is a late learner if so many of the learned rows were learned in an earlier epoch."""

MIN_FLIPS = 2
"""So often a row was forgotten that flip-flops; once happens to a fifth to a half of all rows (Toneva et al., 2019)."""


def _is_late(held: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
    """Learned in an epoch before which nine tenths of the rows that were ever learned had been."""
    first: NDArray[np.uint16] = held["first_learned"]
    num_learned = np.cumsum(np.bincount(first)[1:])
    if not num_learned.size:
        return np.zeros(len(first), np.bool_)
    last = 1 + int(np.searchsorted(num_learned, LATE_QUANTILE * num_learned[-1]))
    return first > last


KINDS: Mapping[str, Callable[[Mapping[str, NDArray[Any]]], NDArray[np.bool_]]] = {
    "hard": lambda held: (held["num_epochs"] > 0) & (held["first_learned"] == 0),
    "late": _is_late,
    "flip-flop": lambda held: held["num_flips"] >= MIN_FLIPS,
    "never-seen": lambda held: (held["num_epochs"] == 0) & (held["num_nonfinite"] == 0),
    "seen-twice": lambda held: held["num_seen"] > held["num_epochs"],
    "nonfinite-loss": lambda held: held["num_nonfinite"] > 0,
}
"""How the rows of a kind are told."""

assert tuple(KINDS) == get_args(Kind)


def read_rows(folder: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]] | None:
    """The columns of a run folder's `rows.parquet` and what is noted in it.

    Returns:
        None where there is no such file, or pyarrow is not installed to read it.
    """
    path = folder / ROWS
    if not path.exists():
        return None
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        return None
    table = parquet.read_table(path)
    noted = {key.decode(): value.decode(errors="replace") for key, value in (table.schema.metadata or {}).items()}
    return {name: table.column(name).to_numpy() for name in table.column_names}, noted
