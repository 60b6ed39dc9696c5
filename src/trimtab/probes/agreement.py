"""How ranks come to measure the same: one all-reduce of all numbers of a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import inf
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed

from trimtab.errors import InputError, RanksError

Numbers: TypeAlias = Tensor | Sequence[float]
"""Numbers of this rank: a tensor, or a sequence where they are on the host already."""

TURN = 4096
"""Steps are compared modulo this, so that sums of their squares over thousands of ranks are exact in float64."""

MOST_FLAGS = 52
"""Parts whose numbers are told apart by rank: as many bits as float64 holds exactly."""


@dataclass(frozen=True, slots=True)
class Agreed:
    """What all ranks know after an all-reduce, the same on each."""

    parts: list[NDArray[np.float64]]
    """The mean of each number over all ranks, NaN where one rank's is not finite; on the host, float64."""

    signals: tuple[float, ...]
    """By signal, on how many ranks it came in."""

    failed: tuple[int, ...]
    """The ranks on which something of ours failed."""

    flags: NDArray[np.int64]
    """By rank, which parts hold a number that is not finite, as bits; shape (ranks,)."""

    losses: NDArray[np.float64]
    """By rank, its own loss, NaN where it has none or one that is not finite; shape (ranks,)."""


def agree(
    parts: Sequence[Numbers],
    device: torch.device,
    *,
    step: int,
    signals: Sequence[float] = (),
    loss: Tensor | None = None,
    has_failed: bool = False,
) -> Agreed:
    """Average the numbers of all ranks, with one all-reduce, and see who saw what.

    The sum is taken in float64, so that the mean of equal float32 numbers is exactly that number. What is not finite
    travels as a flag and not as a number. Each rank writes its own numbers into places of its own besides, in which all
    other ranks write 0; so who saw something is known to all.

    Args:
        parts: the numbers, as many on every rank.
        device: where the model is.
        step: the step they are of.
        signals: 1 for each signal that came in on this rank, otherwise 0.
        loss: this rank's loss, 0-d; None where it has none.
        has_failed: True if something of ours has failed on this rank.

    Raises:
        RanksError: if another rank is gone, or the ranks are at different steps.
    """
    device = _choose_device(device)
    num_ranks, rank = distributed.get_world_size(), distributed.get_rank()
    given = [torch.as_tensor(part).to(device, torch.float64) for part in (_as_part(loss), *parts)]
    flat, sizes = torch.cat(given), [len(each) for each in given]
    bad = ~torch.isfinite(flat)
    sound = flat.masked_fill(bad, 0.0)
    turn = float(step % TURN)
    known = [turn, turn * turn, *signals]
    rest = torch.zeros(len(known) + 3 * num_ranks, dtype=torch.float64)
    rest[: len(known)] = torch.tensor(known, dtype=torch.float64)
    rest[len(known) + rank] = float(has_failed)
    packed = torch.cat((sound, bad, rest.to(device)))
    if device.type != "cpu" or bad.any():  # on the host it is cheap to see that there is nothing to tell apart
        packed[rank - 2 * num_ranks] = _pack_flags(bad, sizes)
    packed[rank - num_ranks] = inf if loss is None else sound[0]
    _reduce(packed, distributed.ReduceOp.SUM, f"at step {step}")
    host = packed.cpu().numpy()
    total, num_bad, (turns, squares, *came_in), by_rank = np.split(
        host, np.cumsum([len(flat), len(flat), len(known)]).tolist()
    )
    if num_ranks * squares != turns * turns:
        raise RanksError(
            f"check: the ranks are at different steps, this one at step {step}, and each check is one that all ranks "
            "make together; asynchronous training cannot be supervised, see docs/howto/distributed.md"
        )
    mean = np.where(num_bad > 0, np.nan, total / num_ranks)
    failed, flags, losses = by_rank.reshape(3, num_ranks)
    bits = flags.astype(np.int64)
    return Agreed(
        np.split(mean, np.cumsum(sizes[:-1]).tolist())[1:],
        tuple(map(float, came_in)),
        tuple(np.flatnonzero(failed).tolist()),
        bits >> 1,
        np.where((bits & 1 > 0) | np.isinf(losses), np.nan, losses),
    )


def require_alike(marks: Mapping[str, object], device: torch.device) -> None:
    """See once that all ranks were set up alike, so that what they agree on later is of the same things.

    Args:
        marks: what has to be the same on every rank, by what it is called; the same names on every rank.
        device: where the model is.

    Raises:
        InputError: on every rank, if they differ.
        RanksError: if another rank is gone.
    """
    digests = [int.from_bytes(blake2b(repr(mark).encode(), digest_size=6).digest()) for mark in marks.values()]
    own = torch.tensor(digests, dtype=torch.int64)
    largest = torch.cat((own, -own)).to(_choose_device(device))
    _reduce(largest, distributed.ReduceOp.MAX, "at the first check")
    most, least = largest.cpu().chunk(2)
    differing = [name for name, is_same in zip(marks, (most == -least).tolist(), strict=True) if not is_same]
    if differing:
        raise InputError(
            f"check: the ranks differ in {' and '.join(differing)}, and all have to be set up alike; the stages of a "
            "pipeline hold different parameters and cannot be supervised together, see docs/howto/distributed.md"
        )


def describe_flags(flags: NDArray[np.int64], names: Sequence[str]) -> list[str]:
    """Which numbers were not finite on which ranks, where that was not on all of them; in sentences.

    Args:
        flags: as in `Agreed`.
        names: the names of the parts.
    """
    told = []
    for index, name in enumerate(names[:MOST_FLAGS]):
        ranks = np.flatnonzero(flags >> index & 1)
        if 0 < len(ranks) < len(flags):
            told.append(f"{name} not finite on {name_ranks(ranks.tolist())}")
    return told


def describe_losses(losses: NDArray[np.float64]) -> str:
    """The rank whose loss is the highest, and what the others have in the median, in a sentence."""
    rank = int(np.nanargmax(losses))
    others = np.delete(losses, rank)
    if np.isnan(others).all():
        return f"the loss is that of rank {rank} alone: {losses[rank]:.4g}"
    rest = np.nanmedian(others)
    return f"the loss is highest on rank {rank}: {losses[rank]:.4g}, against {rest:.4g} in the median of the others"


def name_ranks(ranks: Sequence[int], most: int = 8) -> str:
    """Some ranks, for a message."""
    rest = f" and {len(ranks) - most} more" if len(ranks) > most else ""
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks[:most]))}{rest}"


def _reduce(numbers: Tensor, operation: Any, when: str) -> None:
    """All-reduce numbers in place."""
    try:
        distributed.all_reduce(numbers, operation)
    except RuntimeError as error:
        raise RanksError(
            f"check: the ranks could not be asked {when}, since one is gone or too slow ({error}); start all of them "
            "again, as torchrun --max-restarts does"
        ) from error


def _as_part(loss: Tensor | None) -> Numbers:
    return [0.0] if loss is None else loss.reshape(1)


def _pack_flags(bad: Tensor, sizes: Sequence[int]) -> Tensor:
    """Which parts hold something bad, as the bits of one number; the first part is the lowest."""
    ends = torch.tensor(sizes).cumsum(0).to(bad.device)
    counts = torch.cat((bad.new_zeros(1, dtype=torch.int64), bad.cumsum(0)))[torch.cat((ends.new_zeros(1), ends))]
    is_bad = counts.diff() > 0
    weights = torch.tensor([2.0**index if index < MOST_FLAGS else 0.0 for index in range(len(sizes))])
    return torch.dot(is_bad.to(torch.float64), weights.to(bad.device, torch.float64))


def _choose_device(device: torch.device) -> torch.device:
    """Where ranks can talk: where the model is, but on the GPU where only GPUs can and the model waits on the host."""
    if device.type == "cpu" and distributed.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return device
