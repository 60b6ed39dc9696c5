"""Whether all ranks have the same weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, distributed

from trimtab.probes import Reading, probe
from trimtab.probes.agreement import name_ranks
from trimtab.probes.subject import Moment
from trimtab.ranks import is_distributed, is_sharded

NAME = "replica_divergence"

BITS = 20
"""Bits of a fingerprint: the mean of their squares over 8,192 ranks is exact in float64, and two states that differ
share one by chance in a million."""

INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""The integers as wide as a number of so many bytes."""

MIX = -7046029254386353131
"""2⁶⁴ divided by the golden ratio, as a signed integer: the odd number by which sums are spread over all bits (Knuth,
The Art of Computer Programming, volume 3, section 6.4)."""


def count_numbers(moment: Moment) -> int:
    """At a sampled step of a distributed run two numbers by group, and one by rank."""
    if not (moment.is_sampled and is_distributed()):
        return 0
    return 2 * len(moment.subject.groups) + distributed.get_world_size()


@probe(NAME, size=count_numbers, per_group=(NAME,), is_sampled=True)
def measure_replica_divergence(moment: Moment) -> Reading:
    """`replica_divergence`: of each group, 1 where the weights differ between ranks by any bit, otherwise 0.

    Measured at sampled steps of distributed runs, by a fingerprint of all bits of the weights that every rank has
    whole; one difference in a million is missed, at one step. Sharded weights are no replicas, and are left out.

    A mean of squares that is not the square of the mean shows that fingerprints differ; the fingerprint of all groups
    together, which each rank writes into a place of its own, shows which ranks are not as most are.
    """
    if not count_numbers(moment):
        return {}
    subject, num_ranks = moment.subject, distributed.get_world_size()
    members = [[each for each in subject.list_members(group) if not is_sharded(each)] for group in subject.groups]
    prints = torch.stack([take_fingerprint(each, subject.device) for each in members])
    by_rank = torch.zeros(num_ranks, dtype=torch.float64, device=subject.device)
    by_rank[distributed.get_rank()] = num_ranks * _mix(prints.sum().to(torch.int64))
    numbers = yield torch.cat((prints, prints.square(), by_rank))
    means, squares = numbers[: len(members)], numbers[len(members) : 2 * len(members)]
    differs = means * means != squares
    if differs.any():
        moment.add_note(f"the weights of {name_ranks(_find_others(numbers[2 * len(members) :].tolist()))} differ")
    return {NAME: tuple(differs.astype(np.float32).tolist())}


def take_fingerprint(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """A whole number below 2 to the power of `BITS` that is the same for the same bits; 0-d, float64."""
    total = torch.zeros((), dtype=torch.int64, device=device)
    for tensor in tensors:
        flat = tensor.detach().reshape(-1)
        real = torch.view_as_real(flat).reshape(-1) if flat.is_complex() else flat
        bits = real.view(INTEGERS[real.element_size()])
        total = total * MIX + bits.sum(dtype=torch.int64).to(device)
    return _mix(total)


def _mix(total: Tensor) -> Tensor:
    """The highest bits of a sum, once all its bits have reached them."""
    mixed = (total ^ (total >> 32)) * MIX
    highest: Tensor = (mixed >> (64 - BITS)) & (2**BITS - 1)
    return highest.to(torch.float64)


def _find_others(prints: Sequence[float]) -> list[int]:
    """The ranks whose fingerprint is not the most frequent one; of equally frequent ones the first rank's counts."""
    usual, _ = Counter(prints).most_common(1)[0]
    return [rank for rank, each in enumerate(prints) if each != usual]
