"""Batches as loops make them: tensors, and mappings, lists and tuples of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from trimtab.errors import InputError


def map_tensors(batch: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """A batch with a function applied to every tensor in it; what is no tensor stays as it is."""
    if isinstance(batch, Tensor):
        return function(batch)
    if isinstance(batch, Mapping):
        return rebuild(batch, {key: map_tensors(each, function) for key, each in batch.items()})
    if isinstance(batch, (list, tuple)):
        return rebuild(batch, [map_tensors(each, function) for each in batch])
    return batch


def rebuild(like: Any, parts: Any) -> Any:
    """A mapping, list or tuple of the same type with other contents."""
    if type(like) is dict:
        return parts
    if isinstance(like, Mapping):
        rebuilt: Any = copy.copy(like)
        rebuilt.update(parts)
        return rebuilt
    return type(like)(*parts) if hasattr(like, "_fields") else type(like)(parts)


def list_arrays(batch: Any) -> Iterator[Any]:
    """The tensors and NumPy arrays of a batch, in their order."""
    if isinstance(batch, (Tensor, np.ndarray)):
        yield batch
    elif isinstance(batch, Mapping):
        for each in batch.values():
            yield from list_arrays(each)
    elif isinstance(batch, (list, tuple)):
        for each in batch:
            yield from list_arrays(each)


def take_samples(batch: Any, num: int) -> Any:
    """Copies of the first samples of a batch: of every tensor that has as many rows as the first one with rows has.

    Raises:
        InputError: if the batch has no sample.
    """
    rows = next((each.shape[0] for each in list_arrays(batch) if each.ndim), 0)
    if not rows:
        raise InputError("supervisor: probe is a batch without samples; pass some that are not trained on")

    def cut(tensor: Tensor) -> Tensor:
        has_rows = tensor.ndim > 0 and tensor.shape[0] == rows
        return (tensor[:num] if has_rows else tensor).detach().clone()

    return map_tensors(batch, cut)
