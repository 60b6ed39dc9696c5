"""Similarity search: the rows that are nearest to a row."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import InputError

CHUNK = 256
"""Queries whose similarities with all rows are in memory at a time."""


def find_nearest(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], num: int = 5, *, own: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The rows that are nearest to each of some queries, the nearest first; it looks at all of them.

    Args:
        vectors: of the rows to search; shape (rows, dimensions), each of length 1.
        queries: what to find the nearest of; shape (queries, dimensions), each of length 1.
        num: how many rows to find for each, fewer where there are not so many.
        own: of each query the row that it is itself, which is left out; None where it is none of them.

    Returns:
        The numbers of the rows and their cosines; shape (queries, `num`) each.

    Raises:
        InputError: if the dimensions differ, or `num` is below 1.
    """
    if vectors.ndim != 2 or queries.ndim != 2 or vectors.shape[1] != queries.shape[1]:
        raise InputError(
            f"find_nearest: the shapes {vectors.shape} and {queries.shape} have to be (rows, dimensions) with the same "
            "dimensions"
        )
    if num < 1:
        raise InputError(f"find_nearest: num is {num!r}; it has to be a whole number above 0")
    num = min(num, len(vectors) - (own is not None))
    rows = np.empty((len(queries), num), np.int64)
    cosines = np.empty((len(queries), num), np.float32)
    for begin in range(0, len(queries), CHUNK):
        part = slice(begin, begin + CHUNK)
        similarities = queries[part] @ vectors.T
        if own is not None:
            similarities[np.arange(len(similarities)), own[part]] = -np.inf
        found = np.argpartition(-similarities, num - 1, axis=1)[:, :num] if num else rows[part]
        values = np.take_along_axis(similarities, found, 1)
        order = np.argsort(-values, axis=1, kind="stable")
        rows[part], cosines[part] = np.take_along_axis(found, order, 1), np.take_along_axis(values, order, 1)
    return rows, cosines
