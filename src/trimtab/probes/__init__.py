"""Probes: from live training to numbers; one file each, an open set."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from numpy.typing import NDArray
from torch import Tensor

from trimtab.errors import TrimtabError
from trimtab.probes.subject import Moment
from trimtab.registry import Registry
from trimtab.types import Measurement, Value

Values: TypeAlias = Mapping[str, Value]

Reading: TypeAlias = Generator[Tensor, NDArray[Any], Values]
"""How a probe reads: it yields one tensor of numbers, is sent the same numbers on the host, and returns its metrics.
All tensors of a step travel to the host together."""

Look: TypeAlias = Callable[[Moment], Reading | Values]
"""A probe's function: a generator as described at `Reading`, or a plain function where every rank knows the values."""


Size: TypeAlias = Callable[[Moment], int]


@dataclass(frozen=True, slots=True)
class Probe:
    """A registered probe."""

    name: str
    """Its name."""

    look: Look
    """Its function of a moment."""

    size: Size
    """How many numbers it yields at a moment: the same on every rank, and 0 where it yields no tensor."""

    per_group: tuple[str, ...]
    """Those of its metrics that are one number per group."""


class ProbeError(TrimtabError):
    """Trimtab failed on another rank, so no rank judges the step."""


probes: Registry[Probe] = Registry("probe")


def yields_nothing(_: Moment) -> int:
    """The size of a probe that yields no tensor."""
    return 0


def probe(name: str, *, size: Size = yields_nothing, per_group: tuple[str, ...] = ()) -> Callable[[Look], Look]:
    """Register a function of a `Moment` as a probe.

    It must leave the training exactly as it is: no gradient, no random number, no mode flag may change.

    Args:
        name: snake_case name, free in the registry.
        size: how many numbers it yields at a moment; it has to follow from what all ranks share.
        per_group: those of its metrics that are one number per group; the run folder keeps a column for each.
    """

    def register(look: Look) -> Look:
        probes.add(name, Probe(name, look, size, per_group))
        return look

    return register


def list_group_metrics() -> list[str]:
    """The metrics of all probes that are one number per group."""
    return [metric for each in probes.values() for metric in each.per_group]


@torch.no_grad()
def measure(step: int, moment: Moment, fault: Exception | None = None) -> Measurement:
    """Ask every probe, with one transfer from the device to the host; metrics of one number come first.

    In a distributed run the numbers are averaged over all ranks by one all-reduce, which every rank joins even if
    one of its probes fails. A number that is not finite on one rank is NaN on all.

    Args:
        step: the step the measurement belongs to.
        moment: what is there to look at.
        fault: what has failed on this rank already, if anything: it is raised once the other ranks know.

    Raises:
        ProbeError: if something failed on another rank.
    """
    looks = [_look(each, moment) for each in probes.values()]
    faults = [each for each in (fault, *(failed for _, _, failed in looks)) if each is not None]
    parts = [numbers.detach().reshape(-1) for _, numbers, _ in looks]
    if is_distributed():
        parts, num_faulty = _average_over_ranks(parts, moment.subject.device, bool(faults))
        if num_faulty and not faults:
            faults = [ProbeError(f"Trimtab failed on {num_faulty} other rank{'s' * (num_faulty > 1)}")]
    if faults:
        raise faults[0]
    values: dict[str, Value] = {}
    for (reading, _, _), numbers in zip(looks, _fetch(parts), strict=True):
        values.update(_finish(reading, numbers))
    return Measurement(step, dict(sorted(values.items(), key=lambda item: isinstance(item[1], tuple))))


def _fetch(parts: Sequence[Tensor]) -> list[NDArray[Any]]:
    """The numbers on the host, with one transfer for all that are not there yet."""
    far = [part for part in parts if part.device.type != "cpu"]
    if far:
        fetched = iter(torch.cat([part.to(far[0].device) for part in far]).cpu().split([len(part) for part in far]))
        parts = [part if part.device.type == "cpu" else next(fetched) for part in parts]
    host = torch.cat([torch.empty(0), *parts]).numpy()
    ends = list(itertools.accumulate(map(len, parts)))
    return [host[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def is_distributed() -> bool:
    """True if this process is one of several that train together."""
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def _look(each: Probe, moment: Moment) -> tuple[Reading, Tensor, Exception | None]:
    """Begin a reading. A probe that fails leaves NaN in its place, so that this rank still joins the others."""
    try:
        reading = each.look(moment)
        if isinstance(reading, Mapping):
            reading = _read_known(reading)
        numbers = next(reading)
        if numbers.numel() != each.size(moment):
            raise ValueError(f"probe {each.name} yields {numbers.numel()} numbers, not the {each.size(moment)} it says")
        return reading, numbers, None
    except Exception as fault:
        unknown = _read_known({})
        return unknown, next(unknown).new_full((each.size(moment),), torch.nan), fault


def _read_known(values: Values) -> Reading:
    """A reading of what is known on the host already."""
    yield torch.empty(0)
    return values


def _average_over_ranks(parts: Sequence[Tensor], device: torch.device, is_faulty: bool) -> tuple[list[Tensor], int]:
    """The mean of each number over all ranks, NaN where one rank's is not finite, and how many ranks failed.

    The sum is taken in float64, so that the mean of equal float32 numbers is exactly that number.
    """
    flat = torch.cat([part.to(device, torch.float64) for part in parts])
    finite = torch.isfinite(flat)
    flag = torch.full((1,), float(is_faulty), dtype=torch.float64, device=device)
    packed = torch.cat((torch.where(finite, flat, 0), (~finite).to(torch.float64), flag))
    torch.distributed.all_reduce(packed)
    host = packed.cpu()
    total, num_bad = host[: len(flat)], host[len(flat) : -1]
    mean = (total / torch.distributed.get_world_size()).masked_fill_(num_bad > 0, torch.nan)
    return list(mean.split([len(part) for part in parts])), int(host[-1])


def _finish(reading: Reading, numbers: NDArray[Any]) -> Values:
    try:
        reading.send(numbers)
    except StopIteration as finished:
        returned: Values = finished.value
        return returned
    raise RuntimeError("a probe yields exactly one tensor; this one yielded a second")


probes.load(__name__, __path__)
