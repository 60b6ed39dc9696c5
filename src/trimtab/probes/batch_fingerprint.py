"""A number by which a batch is known again."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from math import isfinite, nan
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from trimtab.probes import Reading, probe
from trimtab.probes.agreement import Numbers
from trimtab.probes.batches import list_arrays
from trimtab.probes.subject import Moment

MOST_NUMBERS = 1024
"""Numbers of each tensor that are looked at: 8 kilobytes at most, whatever the batch."""

PLAIN = (torch.float32, torch.float64, torch.float16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
"""Dtypes that NumPy has, among others."""

INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""The integers as wide as a number of so many bytes."""


@probe("batch_fingerprint", size=lambda moment: int(moment.batch is not None))
def measure_batch_fingerprint(moment: Moment) -> Reading:
    """`batch_fingerprint`: a number that is the same for the same batch; measured where `check` is given the batch.

    Absent for a batch in which there is nothing that it could be taken of.
    """
    if moment.batch is None:
        return {}
    numbers = yield take_fingerprint(moment.batch)
    fingerprint = float(numbers[0])
    return {"batch_fingerprint": fingerprint} if isfinite(fingerprint) else {}


def take_fingerprint(batch: Any) -> Numbers:
    """A number that is the same for the same batch, and hardly for another.

    It comes from the bits of at most `MOST_NUMBERS` evenly spaced numbers of each tensor: on the host a hash of them
    (BLAKE2b, 48 bits, which float64 holds exactly), on a device a weighted sum, which needs no transfer of its own.
    Batches that differ only in what lies between are taken for the same.

    Returns:
        One number, on the device of the batch where that is not the host; NaN for a batch without dense tensors or
        arrays.
    """
    arrays = [each for each in list_arrays(batch) if _can_read(each)]
    if not arrays:
        return [nan]
    far = [each for each in arrays if isinstance(each, Tensor) and each.device.type != "cpu"]
    if far:
        return _weigh([_take_spaced(each) for each in far])
    digest = blake2b(digest_size=6)
    for each in arrays:
        numbers = (_to_array(each) if isinstance(each, Tensor) else each).reshape(-1)
        digest.update(numbers[:: -(-len(numbers) // MOST_NUMBERS)].tobytes())
    return [float(int.from_bytes(digest.digest()))]


def _can_read(array: Any) -> bool:
    if isinstance(array, Tensor):
        return array.layout is torch.strided and not array.is_nested and not array.is_meta and array.numel() > 0
    return bool(array.dtype.kind in "biufc" and array.size > 0)


def _to_array(tensor: Tensor) -> NDArray[Any]:
    """The same bits in a dtype that NumPy has."""
    if tensor.is_complex() or tensor.dtype == torch.bool or tensor.dtype in PLAIN:
        array: NDArray[Any] = tensor.numpy(force=True)
        return array
    bits: NDArray[Any] = tensor.detach().contiguous().view(INTEGERS[tensor.element_size()]).numpy()
    return bits


def _take_spaced(tensor: Tensor) -> Tensor:
    """The bits of evenly spaced numbers, as integers; 1-d."""
    flat = tensor.detach().reshape(-1)
    numbers = flat[:: -(-flat.numel() // MOST_NUMBERS)]
    if numbers.is_complex():
        numbers = torch.view_as_real(numbers.resolve_conj()).reshape(-1)
    if numbers.dtype == torch.bool:
        numbers = numbers.to(torch.int8)
    return numbers.contiguous().view(INTEGERS[numbers.element_size()])


def _weigh(spaced: Sequence[Tensor]) -> Tensor:
    total = torch.zeros((), dtype=torch.float64, device=spaced[0].device)
    for index, numbers in enumerate(spaced, 1):
        weights = torch.arange(1, len(numbers) + 1, dtype=torch.float64, device=numbers.device).mul_(index).cos_()
        total += torch.dot(numbers.to(torch.float64), weights).to(total.device)
    return total
