"""Batches of random bytes instead of data."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from trimtab.faults import Scene, fault
from trimtab.faults.batches import is_integral, list_inputs, list_tensors, refuse_batch, replace_tensors


@fault("random-bytes", "batch", strength=256, duration=10, signs=("cause: the batch", "cause: a long-tail batch"))
def randomize_batch(scene: Scene, batch: Any) -> Any:
    """The data of the batch become random values, all equally likely.

    Where the inputs are integers alone, such as tokens, every integer tensor becomes values of the vocabulary, the
    targets too. Where there are floating-point inputs, all inputs become values of their own range, that of the whole
    tensor or, of integers, that of each column, and the targets stay: the last of several tensors. The batch may be a
    tensor or tuples, lists and dictionaries of them; the loop's own tensors are left as they are. A loop whose batches
    hold other integers too, such as masks, hands over only what is to be corrupted.

    As it happens:
        A shard that was compressed or encrypted, a wrong offset into a file, text read as something else.
    Strength:
        The size of the vocabulary of integers; 256 by default, that of bytes.

    Raises:
        InputError: if there is no such tensor in the batch.
    """
    inputs = [each for each in list_inputs(batch) if each.is_floating_point() or is_integral(each)]
    if any(each.is_floating_point() for each in inputs):
        return replace_tensors(batch, inputs, partial(_draw_from_range, scene))
    integers = [each for each in list_tensors(batch) if is_integral(each)]
    if not integers:
        raise refuse_batch(scene, batch, "tensor of numbers")
    return replace_tensors(batch, integers, partial(_draw_from_vocabulary, scene))


def _draw_from_vocabulary(scene: Scene, tokens: Tensor) -> Tensor:
    drawn = torch.randint(int(scene.strength), tokens.shape, generator=scene.generator)
    return drawn.to(tokens.device, tokens.dtype)


def _draw_from_range(scene: Scene, values: Tensor) -> Tensor:
    drawn = torch.rand(values.shape, generator=scene.generator, dtype=torch.float64).to(values.device)
    if values.is_floating_point():
        low, high = values.double().aminmax()
        return (low + drawn * (high - low)).to(values.dtype)
    low, high = values.aminmax(dim=0, keepdim=True) if values.ndim else values.aminmax()
    return low + (drawn * (high - low + 1)).to(values.dtype)
