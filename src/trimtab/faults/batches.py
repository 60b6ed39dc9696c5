"""The tensors of a batch, which may be a tensor or tuples, lists and dictionaries of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from trimtab.errors import InputError
from trimtab.faults import Scene


def list_tensors(batch: Any) -> list[Tensor]:
    """The tensors of a batch, in its order."""
    if isinstance(batch, Tensor):
        return [batch]
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    return [each for part in batch for each in list_tensors(part)] if isinstance(batch, (tuple, list)) else []


def list_inputs(batch: Any) -> list[Tensor]:
    """The tensors of a batch without the targets: the last of several is taken for them, a single one for inputs."""
    tensors = list_tensors(batch)
    return tensors[:-1] if len(tensors) > 1 else tensors


def is_integral(tensor: Tensor) -> bool:
    """True if a tensor holds integers; flags are none."""
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def replace_tensors(batch: Any, replaced: list[Tensor], change: Callable[[Tensor], Tensor]) -> Any:
    """A batch of the same structure with some of its tensors replaced; the tensors themselves are left as they are.

    Args:
        batch: the batch.
        replaced: the tensors to replace, of those that `list_tensors` gives.
        change: an old tensor to the new one.
    """
    if isinstance(batch, Tensor):
        return change(batch) if any(batch is each for each in replaced) else batch
    if isinstance(batch, Mapping):
        return {key: replace_tensors(part, replaced, change) for key, part in batch.items()}
    if isinstance(batch, (tuple, list)):
        build = getattr(batch, "_make", type(batch))  # a named tuple's constructor takes its parts one by one
        return build([replace_tensors(part, replaced, change) for part in batch])
    return batch


def refuse_batch(scene: Scene, batch: Any, wanted: str) -> InputError:
    """The error of a fault that finds no tensor of its kind in a batch."""
    return scene.refuse(
        f"found no {wanted} in the batch, a {type(batch).__name__!r},",
        "hand injector.batch the data, as a tensor or in a tuple, list or dictionary",
    )
