"""Batches of random bytes instead of data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trimtab.errors import InputError
from trimtab.faults import Scene, fault


@fault("random-bytes", "batch", strength=256, duration=10)
def randomize_batch(scene: Scene, batch: Any) -> Any:
    """Every integer tensor of the batch becomes random values of the vocabulary, all equally likely.

    The batch may be a tensor or tuples, lists and dictionaries of them; the loop's own tensors are left as they are.
    A loop whose batches hold other integers too, such as masks, hands over only what is to be corrupted.

    As it happens:
        A shard that was compressed or encrypted, a wrong offset into a file, text read as something else.
    Strength:
        The size of the vocabulary; 256 by default, that of bytes.

    Raises:
        InputError: if there is no integer tensor in the batch.
    """
    size = int(scene.strength)
    corrupted, num_tensors = _randomize(batch, size, scene.generator)
    if not num_tensors:
        raise InputError(
            f"random-bytes found no integer tensor in the batch of step {scene.step}, a {type(batch).__name__!r}; "
            "hand injector.batch the tokens, as a tensor or in a tuple, list or dictionary"
        )
    return corrupted


def _randomize(batch: Any, size: int, generator: torch.Generator) -> tuple[Any, int]:
    """The batch with its integer tensors replaced, and how many they were."""
    if isinstance(batch, Tensor):
        if batch.is_floating_point() or batch.is_complex() or batch.dtype == torch.bool:
            return batch, 0
        drawn = torch.randint(size, batch.shape, generator=generator)
        return drawn.to(batch.device, batch.dtype), 1
    if isinstance(batch, Mapping):
        parts = [_randomize(part, size, generator) for part in batch.values()]
        return dict(zip(batch, (part for part, _ in parts), strict=True)), sum(num for _, num in parts)
    if isinstance(batch, (tuple, list)):
        parts = [_randomize(part, size, generator) for part in batch]
        build = getattr(batch, "_make", type(batch))  # a named tuple's constructor takes its parts one by one
        return build([part for part, _ in parts]), sum(num for _, num in parts)
    return batch, 0
