"""A data set whose items come with their row numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils.data import Dataset

from trimtab.errors import InputError


class IndexedRows(Dataset[tuple[int, Any]]):
    """A data set that gives `(row, item)` for each item of another one.

    With a `DataLoader` and its own collation, a batch is `rows, batch`: a tensor of row numbers, and the batch as it
    would be without them. Samplers, shuffling and workers are as before.

    Args:
        dataset: a data set with a length, whose items are got by their numbers from 0.

    Raises:
        InputError: if it has no length.
    """

    def __init__(self, dataset: Any) -> None:
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise InputError(
                f"IndexedRows: a {type(dataset).__name__!r} has no length or no items by number; pass a data set with "
                "both, or give row numbers of your own to RowTracker.update"
            )
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[int, Any]:
        return index, self.dataset[index]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[int, Any]]:
        """The items of a batch at once, which loaders ask for: many data sets read a batch faster than its items."""
        fetch = getattr(self.dataset, "__getitems__", None)
        items = [self.dataset[index] for index in indices] if fetch is None else fetch(indices)
        return list(zip(indices, items, strict=True))
