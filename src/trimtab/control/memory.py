"""Memory: what to do when it runs out, and what to do so that it does not."""

from __future__ import annotations

import gc
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import torch

from trimtab.errors import OutOfMemory

T = TypeVar("T")

MAX_HALVINGS = 3
"""Halvings in a row before it is given up: an eighth of the memory for activations that did not do either."""

MAX_PASSES = 3
"""Passes of garbage collection and cache clearing: what one frees may be what kept something else alive."""

CLEAR_EVERY_SECONDS = 30.0
"""How often memory is cleared for no better reason than that a validation begins: a pass takes up to 0.1 seconds."""

SMALL_DEVICE_BYTES = 16 * 2**30
"""A device of so much memory or less gets few workers, since each may hold batches on it."""

ALLOCATION_FAILURES = (
    "out of memory",  # CUDA, HIP, MPS and XPU, each with its name before it
    "can't allocate memory",  # CPU on Linux: DefaultCPUAllocator
    "not enough memory: you tried to allocate",  # CPU on Windows and macOS
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "NPU out of memory",
)
"""What PyTorch says in a plain `RuntimeError` when memory runs out."""

logger = logging.getLogger("trimtab")


def is_out_of_memory(error: BaseException) -> bool:
    """True if an exception says that memory ran out, on an accelerator or on the host."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(each in str(error) for each in ALLOCATION_FAILURES)


Warn: TypeAlias = Callable[[str], None]
"""Told in a sentence that memory ran out, and what was done."""


@dataclass(slots=True)
class MicroBatchSize:
    """How many samples a micro-batch has at most; it gets smaller when memory runs out, and stays so."""

    size: int | None = None
    """The most samples; None for whole batches."""

    warn: Warn = logger.warning
    """Told whenever it gets smaller."""

    def fit(
        self,
        compute: Callable[[int | None], T],
        *,
        rewind: Callable[[], None],
        count_samples: Callable[[], int | None],
    ) -> T:
        """Compute something in micro-batches, smaller ones each time that memory runs out.

        Args:
            compute: computes it, given the most samples of a micro-batch.
            rewind: undoes what a computation that failed has left behind; called before the next.
            count_samples: gives the samples of the largest batch; None if it cannot be split.

        Returns:
            What `compute` returns.

        Raises:
            OutOfMemory: if it did not fit after `MAX_HALVINGS` halvings, or cannot be halved.
        """
        sizes: list[int | None] = []
        while True:
            try:
                return compute(self.size)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = str(error).split("\n")[0]
            rewind()
            clear_memory()
            num_samples = count_samples()
            sizes.append(num_samples if num_samples is None or self.size is None else min(self.size, num_samples))
            self._halve(sizes, num_samples, reason)

    def _halve(self, sizes: list[int | None], num_samples: int | None, reason: str) -> None:
        size = sizes[-1]
        if size is None:
            raise OutOfMemory(
                "fit: memory ran out for a batch that cannot be split, since its tensors do not share a first "
                f"dimension; pass smaller batches, or batches whose tensors have one row a sample ({reason})"
            )
        if size == 1 or len(sizes) > MAX_HALVINGS:
            tried = ", ".join(map(str, sizes))
            raise OutOfMemory(
                f"fit: memory ran out for a batch of {num_samples} samples in micro-batches of {tried}; make the model "
                f"or its inputs smaller, free memory that others use, or start with a smaller micro_batch ({reason})"
            )
        self.size = size // 2
        self.warn(f"memory ran out: micro-batches have {self.size} samples from now on, not {size} ({reason})")


class Update:
    """The optimizer's step, which is made again after memory ran out in it, if that is the same as making it once.

    It is where nothing was written yet, as when the optimizer makes room for its state, and at the first step
    altogether, for which the parameters are copied to the host.

    Args:
        optimizer: the optimizer.
        warn: told whenever a step is made again.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, warn: Warn = logger.warning) -> None:
        self._optimizer = optimizer
        self._warn = warn
        self._is_first = True

    def make(self, step: Callable[[], object]) -> None:
        """Let the optimizer step.

        Args:
            step: calls its `step`, through a scaler or not.

        Raises:
            OutOfMemory: if memory runs out again and again, or after some parameters were updated.
        """
        marks, copies = self._mark(), self._copy_if_first()
        for _ in range(1 + MAX_HALVINGS):
            try:
                step()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = str(error).split("\n")[0]
            else:
                self._is_first = False
                return
            self._undo(marks, copies, reason)
            clear_memory()
            self._warn(f"memory ran out in the optimizer's step, which is made again ({reason})")
        raise OutOfMemory(
            "fit: memory runs out in the optimizer's step, whatever the size of a batch; make the model smaller, "
            f"choose an optimizer with less state, or free memory that others use ({reason})"
        )

    def _mark(self) -> dict[torch.Tensor, int]:
        """Every tensor the step may write to, with a number that each write increases."""
        tensors = [each for group in self._optimizer.param_groups for each in group["params"]]
        held = [each for state in self._optimizer.state.values() for each in state.values()]
        return {each: each._version for each in (*tensors, *held) if isinstance(each, torch.Tensor)}

    def _copy_if_first(self) -> dict[torch.Tensor, torch.Tensor]:
        if not self._is_first or self._optimizer.state:
            return {}
        parameters = [each for group in self._optimizer.param_groups for each in group["params"]]
        return {each: each.detach().to("cpu", copy=True) for each in parameters}

    @torch.no_grad()
    def _undo(self, marks: dict[torch.Tensor, int], copies: dict[torch.Tensor, torch.Tensor], reason: str) -> None:
        """Take back what a step that failed has written, or say that it cannot be."""
        for tensor, copy in copies.items():
            tensor.copy_(copy)
        if not copies and any(tensor._version != version for tensor, version in marks.items()):
            raise OutOfMemory(
                "fit: memory ran out in the middle of the optimizer's step, when some parameters were updated already; "
                f"free memory and start the run again, which goes on from its newest checkpoint ({reason})"
            )
        for tensor in copies:
            marks[tensor] = tensor._version
        for parameter, state in list(self._optimizer.state.items()):
            for name in [name for name, value in state.items() if _is_new(value, marks, copies)]:
                del state[name]
            if not state:
                del self._optimizer.state[parameter]


def _is_new(value: object, marks: dict[torch.Tensor, int], copies: dict[torch.Tensor, torch.Tensor]) -> bool:
    """True if a step that failed has made it; at the first step all of it is."""
    return value not in marks if isinstance(value, torch.Tensor) else bool(copies)


def clear_memory() -> None:
    """Collect garbage and give cached device memory back, again while that frees more, `MAX_PASSES` times at most."""
    for _ in range(MAX_PASSES):
        num_found = gc.collect()
        reserved = _count_reserved()
        _empty_caches()
        if not num_found and _count_reserved() == reserved:
            return


class Clearing:
    """Clears memory before a validation, unless it was cleared just before."""

    def __init__(self) -> None:
        self._due = 0.0

    def run(self) -> None:
        """Clear memory if that is due."""
        if time.monotonic() >= self._due:
            clear_memory()
            self._due = time.monotonic() + CLEAR_EVERY_SECONDS


def choose_num_workers(device: torch.device, num_batches: int, num_cores: int | None = None) -> int:
    """How many workers load validation data: on a GPU of 16 GiB or less 2, on a larger 4, on a CPU by its cores.

    Args:
        device: where the model is.
        num_batches: how many batches there are to load; a worker is not worth its start for a handful.
        num_cores: the cores this process may use; if None, as the system says.
    """
    if device.type == "cuda":
        most = 2 if torch.cuda.get_device_properties(device).total_memory <= SMALL_DEVICE_BYTES else 4
    else:
        most = min(4, (num_cores or _count_cores()) - 1)
    return max(0, min(most, num_batches // 8))


def _count_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _count_reserved() -> int:
    return torch.cuda.memory_reserved() if torch.cuda.is_available() and torch.cuda.is_initialized() else 0


def _empty_caches() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        torch.xpu.empty_cache()
