"""Rows as batches of tensors, fetched at once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from trimtab.tabular.preparing import Arrays

Batch: TypeAlias = dict[str, Tensor]
"""Some rows, the first dimension of each tensor: `numbers`, `moments`, `categories` and `texts` as in `Arrays`, `words`
of shape (rows, text columns, words), and `row_keys`, one for each row, the same for rows that are the same."""


class Rows(Dataset[Any]):
    """The rows of a table; a loader gets a whole batch at once, behind the numbers of its rows.

    Args:
        arrays: the rows as numbers.
        numbers: which of them, by number; all if None.
        is_numbered: give pairs of row numbers and batch, as a `RowTracker` needs them.
    """

    def __init__(self, arrays: Arrays, numbers: NDArray[Any] | None = None, *, is_numbered: bool = False) -> None:
        self._arrays = arrays
        self._numbers = np.arange(arrays.num_rows) if numbers is None else np.asarray(numbers)
        self._is_numbered = is_numbered
        self._keys = hash_rows(arrays)
        self._width = max((each.shape[1] for each in arrays.words), default=1)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Any:
        """The batch of some rows."""
        places = np.asarray(indices, np.int64)
        batch = self._take(self._numbers[places])
        return (torch.from_numpy(places), batch) if self._is_numbered else batch

    def _take(self, rows: NDArray[Any]) -> Batch:
        arrays = self._arrays
        texts = arrays.texts[rows]
        words = np.full((len(rows), texts.shape[1], self._width), -1, np.int64)
        for place, known in enumerate(arrays.words):
            if len(known):
                words[:, place, : known.shape[1]] = np.where(texts[:, [place]] < 0, -1, known[texts[:, place]])
        longest = max(int((words >= 0).sum(2).max(initial=0)), 1)
        found = {
            "numbers": arrays.numbers[rows],
            "moments": arrays.moments[rows],
            "categories": arrays.categories[rows].astype(np.int64),
            "texts": texts.astype(np.int64),
            "words": words[:, :, :longest],
            "row_keys": self._keys[rows],
        }
        return {name: torch.from_numpy(np.ascontiguousarray(each)) for name, each in found.items()}


def hash_rows(arrays: Arrays) -> NDArray[np.int64]:
    """A number for each row, the same for rows that are the same in every column; shape (rows,)."""
    kinds = (arrays.numbers, arrays.moments, arrays.categories, arrays.texts)
    bits = [np.ascontiguousarray(each).view(np.uint8).reshape(len(each), -1) for each in kinds if each.shape[1]]
    words = np.zeros(arrays.num_rows, np.uint64)
    generator = np.random.default_rng(0)
    for each in bits:
        padded = np.pad(each, ((0, 0), (0, -each.shape[1] % 8)))
        for column in np.ascontiguousarray(padded).view(np.uint64).T:
            odd = generator.integers(2**62, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
            words = (words ^ column) * odd
            words ^= words >> np.uint64(29)
    return words.view(np.int64)


def make_loader(dataset: Rows, batch_size: int, *, shuffles: bool = False) -> DataLoader[Any]:
    """A loader of whole batches; a last one that is smaller is left out of a training.

    Args:
        dataset: the rows.
        batch_size: rows of a batch.
        shuffles: give them in another order in each epoch, as a training does.
    """
    drops = shuffles and len(dataset) >= batch_size
    return DataLoader(dataset, batch_size, shuffle=shuffles, collate_fn=_keep, drop_last=drops)


def _keep(batch: Any) -> Any:
    """What a data set gives is a batch already."""
    return batch


def fingerprint(arrays: Arrays) -> str:
    """A few letters that tell these rows from others."""
    return hashlib.blake2b(hash_rows(arrays).tobytes(), digest_size=8).hexdigest()
