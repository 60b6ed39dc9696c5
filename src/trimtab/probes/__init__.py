"""Probes: from live training to numbers; one file each, an open set."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
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
    device = moment.subject.device
    flat = torch.cat([numbers.detach().reshape(-1).to(device) for _, numbers, _ in looks])
    faults = [each for each in (fault, *(failed for _, _, failed in looks)) if each is not None]
    if is_distributed():
        flat, num_faulty = _average_over_ranks(flat, bool(faults))
        if num_faulty and not faults:
            faults = [ProbeError(f"Trimtab failed on {num_faulty} other rank{'s' * (num_faulty > 1)}")]
    if faults:
        raise faults[0]
    host = flat.to("cpu").numpy()
    values: dict[str, Value] = {}
    start = 0
    for reading, numbers, _ in looks:
        stop = start + numbers.numel()
        values.update(_finish(reading, host[start:stop]))
        start = stop
    return Measurement(step, dict(sorted(values.items(), key=lambda item: isinstance(item[1], tuple))))


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
        return reading, next(reading), None
    except Exception as fault:
        unknown = _read_known({})
        return unknown, next(unknown).new_full((each.size(moment),), torch.nan), fault


def _read_known(values: Values) -> Reading:
    """A reading of what is known on the host already."""
    yield torch.empty(0)
    return values


def _average_over_ranks(flat: Tensor, is_faulty: bool) -> tuple[Tensor, int]:
    """The mean of each number over all ranks, NaN where one rank's is not finite, and how many ranks failed.

    The sum is taken in float64, so that the mean of equal float32 numbers is exactly that number.
    """
    finite = torch.isfinite(flat)
    numbers = torch.where(finite, flat, 0).to(torch.float64)
    flag = torch.tensor([float(is_faulty)], dtype=torch.float64, device=flat.device)
    packed = torch.cat((numbers, (~finite).to(torch.float64), flag))
    torch.distributed.all_reduce(packed)
    total, num_bad = packed[: flat.numel()], packed[flat.numel() : -1]
    mean = (total / torch.distributed.get_world_size()).masked_fill_(num_bad > 0, torch.nan)
    return mean.to(flat.dtype), int(packed[-1])


def _finish(reading: Reading, numbers: NDArray[Any]) -> Values:
    try:
        reading.send(numbers)
    except StopIteration as finished:
        returned: Values = finished.value
        return returned
    raise RuntimeError("a probe yields exactly one tensor; this one yielded a second")


probes.load(__name__, __path__)
