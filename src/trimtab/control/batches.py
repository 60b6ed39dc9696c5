"""Batches as loaders give them: how many samples they have, parts of them, and on which device they are."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trimtab.errors import InputError
from trimtab.probes.batches import list_arrays, rebuild


def count_samples(batch: Any) -> int | None:
    """The number of samples: the first dimension that all arrays of a batch share; None if they share none."""
    sizes = {len(each) if each.ndim else None for each in list_arrays(batch)}
    return sizes.pop() if len(sizes) == 1 else None


def split_batch(batch: Any, size: int | None) -> list[Any]:
    """A batch in as few parts of at most `size` samples as possible, all of a size; itself where it has no more.

    Parts of a size, give or take a sample, so that none is left with a single one, which BatchNorm cannot take.

    Arrays are cut along their first dimension, and so are lists and tuples without arrays that are as long as the
    batch. Whatever else a batch holds, such as a name, is in every part.

    Args:
        batch: tensors and NumPy arrays, and mappings, lists and tuples of them.
        size: the most samples of a part; None for the whole batch.

    Raises:
        InputError: if its arrays share no first dimension.
    """
    if size is None:
        return [batch]
    num_samples = count_samples(batch)
    if num_samples is None:
        raise InputError(f"fit: a batch cannot be split into micro-batches: {_describe(batch)}")
    if num_samples <= size:
        return [batch]
    num_parts = -(-num_samples // size)
    bounds = [num_samples * index // num_parts for index in range(num_parts + 1)]
    return [_take(batch, slice(*each), num_samples) for each in pairwise(bounds)]


def move_batch(batch: Any, device: torch.device) -> Any:
    """A batch with its tensors, and everything else in it that has a method `to`, on a device."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if hasattr(batch, "to"):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return rebuild(batch, {key: move_batch(each, device) for key, each in batch.items()})
    if isinstance(batch, (list, tuple)):
        return rebuild(batch, [move_batch(each, device) for each in batch])
    return batch


def find_device(model: torch.nn.Module) -> torch.device:
    """The device of a model's first parameter or buffer; the CPU if it has none."""
    first = next((each for tensors in (model.parameters(), model.buffers()) for each in tensors), None)
    return torch.device("cpu") if first is None else first.device


def _take(value: Any, part: slice, num_samples: int) -> Any:
    if isinstance(value, (Tensor, np.ndarray)):
        return value[part]
    if isinstance(value, Mapping):
        return rebuild(value, {key: _take(each, part, num_samples) for key, each in value.items()})
    if isinstance(value, (list, tuple)):
        if len(value) == num_samples and next(list_arrays(value), None) is None:
            return value[part]
        return rebuild(value, [_take(each, part, num_samples) for each in value])
    return value


def _describe(batch: Any) -> str:
    shapes = [tuple(each.shape) for each in list_arrays(batch)]
    if not shapes:
        return f"there is no tensor in a {type(batch).__name__!r}; pass batches of tensors, or smaller ones"
    listed = ", ".join(map(str, dict.fromkeys(shapes)))
    return (
        f"its tensors have the shapes {listed}, and all have to have the same first dimension, one row a sample; "
        "reshape them, or pass smaller batches"
    )
