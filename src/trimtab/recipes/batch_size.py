"""The largest batch that memory has room for, and how many of them make a step of the size that is wanted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import ceil, inf
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trimtab.control.batches import count_samples, find_device, move_batch
from trimtab.control.memory import clear_memory, is_out_of_memory
from trimtab.errors import InputError
from trimtab.probes.batches import rebuild
from trimtab.probes.rerun import ComputeLoss
from trimtab.recipes.footprint import count_kept
from trimtab.recipes.keeping import keep_loader
from trimtab.recipes.preflighting.flight import Clock, Flight

ROOM = 0.9
"""The share of the memory that is free that a step may take: allocators round up, and others use some."""

GRADIENTS = 2.0
"""A step takes at most so many times what it keeps for the backward pass: for each activation a gradient as well."""

MEMORY_FILE = Path("/proc/meminfo")
"""Where Linux says how much memory is free."""


@dataclass(frozen=True, slots=True)
class BatchSize:
    """How large a batch may be, and how to reach the size that is wanted."""

    size: int
    """The largest number of samples that was tried and fitted."""

    wanted: int
    """The samples of a step of the training."""

    accumulate: int
    """How many batches of `size` make a step of at least `wanted`."""

    bytes_per_sample: int
    """What a sample adds to what is kept for the backward pass."""

    free: int
    """The bytes there were room for."""

    limit: str
    """What ended the search: `memory`, or `largest` where memory had room for more."""

    @property
    def micro_batch(self) -> int | None:
        """What to pass to `trimtab.fit` as `micro_batch`: the step's samples in equal parts; None where all fit."""
        return None if self.accumulate == 1 else ceil(self.wanted / self.accumulate)

    def __str__(self) -> str:
        more = " and more" if self.limit == "largest" else ""
        fits = f"batches of {self.size:,} samples{more} fit into {self.free / 2**20:,.0f} MB"
        fits += f", at {self.bytes_per_sample / 2**10:,.1f} KB a sample for the backward pass"
        if self.accumulate == 1:
            return f"{fits}: a step of {self.wanted:,} needs no accumulation"
        return f"{fits}: make a step of {self.wanted:,} of {self.accumulate} micro-batches of {self.micro_batch:,}"


def find_batch_size(
    model: nn.Module,
    optimizer: Optimizer,
    compute_loss: ComputeLoss,
    train_loader: Iterable[Any],
    *,
    wanted: int | None = None,
    largest: int = 4096,
    memory: int | None = None,
) -> BatchSize:
    """Find the largest power of two of samples with which a training step fits into memory.

    Steps are made with 1, 2, 4 … copies of samples of the first batch, and what they keep for the backward pass is
    counted. On a GPU a size counts that did not run out of memory. On a CPU, where running out ends the process, a size
    is not tried that would need more than there is, by what the sizes before took. Model, optimizer, random numbers and
    loader are bit for bit as before afterwards.

    Args:
        model: the model, on its device.
        optimizer: its optimizer.
        compute_loss: `compute_loss(model, batch)`, the 0-d loss of a batch, or a dict of them.
        train_loader: gives batches; the first is taken samples from.
        wanted: the samples of a step of the training; those of the first batch if None.
        largest: the size at which the search ends.
        memory: bytes that a step may take; nine tenths of what is free if None.

    Raises:
        InputError: if a batch cannot be divided into samples, not even one sample fits, or it is not known how much
            memory is free.
    """
    device = find_device(model)
    with keep_loader(train_loader):
        first = next(iter(train_loader), None)
    num_samples = None if first is None else count_samples(first)
    if not num_samples:
        raise InputError(
            "find_batch_size: the first batch has no samples that can be counted; its tensors have to share their "
            "first dimension, one row a sample"
        )
    for name, number in (("wanted", wanted), ("largest", largest), ("memory", memory)):
        if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
            raise InputError(f"find_batch_size: {name} is {number!r}; it has to be a whole number from 1 up")
    clear_memory()
    free = measure_free(device) if memory is None else memory
    flight = Flight(model, optimizer, compute_loss, train_loader, clock=Clock(inf))
    search = _Search(flight, move_batch(first, device), num_samples, free, device)
    size = search.run(largest)
    if not size:
        raise InputError(
            f"find_batch_size: a step with one sample does not fit into {free / 2**20:,.0f} MB; make the model or its "
            "inputs smaller"
        )
    needed = num_samples if wanted is None else wanted
    limit = "memory" if size * 2 <= largest else "largest"
    return BatchSize(size, needed, ceil(needed / size), search.bytes_per_sample, free, limit)


@dataclass(slots=True)
class _Search:
    flight: Flight
    batch: Any
    num_samples: int
    free: int
    device: torch.device
    kept: dict[int, int] = field(default_factory=dict)
    """What a step keeps, in bytes, by its samples."""

    def run(self, largest: int) -> int:
        """The largest size that fits; 0 for none."""
        size = 1
        while size <= largest and self._has_room(size) and self._try(size):
            size *= 2
        return size // 2

    @property
    def bytes_per_sample(self) -> int:
        """By the two largest sizes."""
        sizes = sorted(self.kept)
        if len(sizes) < 2:
            return self.kept[sizes[0]] if sizes else 0
        before, last = sizes[-2:]
        return max(0, self.kept[last] - self.kept[before]) // (last - before)

    def _has_room(self, size: int) -> bool:
        """False if a size would take more than there is, by what was seen; a GPU is asked itself."""
        if not self.kept:
            return True
        last = max(self.kept)
        return GRADIENTS * (self.kept[last] + (size - last) * self.bytes_per_sample) <= self.free

    def _try(self, size: int) -> bool:
        """Make a step; False if memory runs out, or it took more than there was."""
        flight, batch = self.flight, repeat_samples(self.batch, self.num_samples, size)
        try:
            with flight.keep(), count_kept(flight.model) as kept:
                flight.backward(batch)
                flight.update()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            batch = None
            clear_memory()
            return False
        self.kept[size] = sum(kept.values())
        return GRADIENTS * self.kept[size] <= self.free or self.device.type == "cuda"


def repeat_samples(batch: Any, num_samples: int, size: int) -> Any:
    """A batch of another size, of the samples of one, over and over."""
    if isinstance(batch, (Tensor, np.ndarray)):
        rows = np.arange(size) % num_samples
        return batch[torch.from_numpy(rows).to(batch.device)] if isinstance(batch, Tensor) else batch[rows]
    if isinstance(batch, dict):
        return rebuild(batch, {key: repeat_samples(each, num_samples, size) for key, each in batch.items()})
    if isinstance(batch, (list, tuple)):
        if len(batch) == num_samples and all(isinstance(each, (str, bytes, int, float)) for each in batch):
            return rebuild(batch, [batch[place % num_samples] for place in range(size)])
        return rebuild(batch, [repeat_samples(each, num_samples, size) for each in batch])
    return batch


def measure_free(device: torch.device) -> int:
    """The bytes that a step may take: nine tenths of what is free.

    Raises:
        InputError: if it is not known.
    """
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
        return int(ROOM * (free - torch.cuda.memory_allocated(device)))
    if device.type == "cpu" and MEMORY_FILE.exists():
        lines = MEMORY_FILE.read_text().splitlines()
        kilobytes = next((int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), 0)
        if kilobytes:
            return int(ROOM * kilobytes * 2**10)
    raise InputError(f"find_batch_size: it is not known how much memory of {device} is free; pass memory= in bytes")
