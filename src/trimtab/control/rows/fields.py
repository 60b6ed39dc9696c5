"""The arrays that a tracker holds of all rows, and how those it is given are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from trimtab.errors import InputError

CLOSED: dict[str, type[np.generic]] = {
    "mean_loss": np.float32,  # over the epochs that saw the row, each with the mean of that epoch
    "last_loss": np.float16,  # of the newest of them
    "num_seen": np.uint32,
    "num_epochs": np.uint16,  # that saw the row
    "last_epoch": np.uint16,  # the newest of them, counted from 1
    "first_learned": np.uint16,  # the first epoch that it was right in; 0 for none
    "num_flips": np.uint8,  # how often it was wrong in an epoch and right in the one before that saw it
    "is_learned": np.bool_,  # right in the newest epoch that saw it
    "num_nonfinite": np.uint8,
}
"""What is kept of each row over the epochs."""

OPEN: dict[str, type[np.generic]] = {
    "epoch_loss": np.float32,  # the sum of its losses
    "epoch_seen": np.uint32,
    "epoch_wrong": np.bool_,  # at least once
    "epoch_nonfinite": np.uint8,
}
"""What is kept of each row in the epoch at hand."""

FIELDS = CLOSED | OPEN
"""All of it."""


def read_rows(rows: Any, num_rows: int) -> NDArray[np.int64]:
    """Row numbers as an array.

    Raises:
        InputError: if one is no row's.
    """
    numbers = to_array(rows)
    _require_length("rows", numbers, None)
    if numbers.size and not np.issubdtype(numbers.dtype, np.integer):
        raise InputError(f"RowTracker.update: rows are of dtype {numbers.dtype}; they have to be whole numbers")
    if numbers.size and not (numbers.min() >= 0 and numbers.max() < num_rows):
        wrong = numbers.min() if numbers.min() < 0 else numbers.max()
        raise InputError(f"RowTracker.update: there is no row {wrong}; rows are numbered from 0 to {num_rows - 1}")
    return numbers.astype(np.int64)


def read_values(name: str, values: Any, length: int) -> NDArray[np.float64]:
    """What was given for each row of a batch, as numbers.

    Raises:
        InputError: if there are more or fewer than rows.
    """
    array = to_array(values)
    _require_length(name, array, length)
    return array.astype(np.float64)


def read_arrays(
    state: Mapping[str, Any], names: Mapping[str, type[np.generic]], num_rows: int
) -> dict[str, NDArray[Any]]:
    """The arrays of a state.

    Raises:
        InputError: if one is missing, or of other data.
    """
    held = state.get("rows", {})
    arrays = {name: to_array(held[name]) for name in names if name in held}
    for name, dtype in names.items():
        if name not in arrays or arrays[name].shape != (num_rows,) or arrays[name].dtype != dtype:
            raise InputError(
                f"RowTracker: the state has no {name} of {num_rows} rows; it is of other data or of another version, "
                "so begin with a new tracker"
            )
    return arrays


def to_array(value: Any) -> NDArray[Any]:
    """A tensor, an array or a list as an array."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return np.asarray(value.float() if value.dtype.itemsize < 4 and value.is_floating_point() else value)
    return np.asarray(value)


def to_half(values: NDArray[np.floating[Any]]) -> NDArray[np.float16]:
    """Numbers in half precision, those beyond its range as its largest."""
    most = float(np.finfo(np.float16).max)
    half: NDArray[np.float16] = np.clip(values, -most, most).astype(np.float16)
    return half


def add(counts: NDArray[Any], where: Any, more: Any) -> None:
    """Add to counts, each as far as its dtype reaches; no place is in `where` twice."""
    most = np.iinfo(counts.dtype).max
    counts[where] = np.minimum(counts[where].astype(np.int64) + more, most)


def _require_length(name: str, array: NDArray[Any], length: int | None) -> None:
    if array.ndim == 1 and length in (None, len(array)):
        return
    expected = "1-d, a number for each row of the batch" if length is None else f"1-d with {length} numbers, one a row"
    hint = "; pass reduction='none' to the loss function" if name == "losses" and array.ndim == 0 else ""
    raise InputError(f"RowTracker.update: {name} has the shape {array.shape}; it has to be {expected}{hint}")
