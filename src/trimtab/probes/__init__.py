"""Probes: from live training to numbers; one file each, an open set."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from trimtab.errors import TrimtabError
from trimtab.probes.agreement import Numbers, agree, describe_flags, name_ranks
from trimtab.probes.subject import Moment, Subject
from trimtab.ranks import is_distributed
from trimtab.registry import Registry
from trimtab.types import Measurement, Value

Values: TypeAlias = Mapping[str, Value]

Reading: TypeAlias = Generator[Numbers, Any, Values]
"""How a probe reads: it yields its numbers, is sent them on the host (an array where it yielded a tensor, averaged over
all ranks), and returns its metrics; where there is nothing to read, it returns at once. All tensors of a step travel
to the host together."""

Look: TypeAlias = Callable[[Moment], Reading | Values]
"""A probe's function: a generator as described at `Reading`, or a plain function where every rank knows the values."""


Size: TypeAlias = Callable[[Moment], int]


class Watch:
    """What a probe sees between two checks, through hooks.

    A copy of the model that is made meanwhile takes the hooks along; on that copy they are of a closed watch.

    Attributes:
        hooks: what `register_…_hook` returned.
        is_open: False once it is closed; hooks that are still called then have nothing to do.
    """

    def __init__(self) -> None:
        self.hooks: list[RemovableHandle] = []
        self.is_open = True

    def __deepcopy__(self, _: object) -> Watch:
        closed = object.__new__(type(self))
        closed.hooks, closed.is_open = [], False
        return closed

    def close(self) -> None:
        """Remove the hooks; called before the probe looks."""
        self.is_open = False
        for hook in self.hooks:
            hook.remove()


@dataclass(frozen=True, slots=True)
class Probe:
    """A registered probe."""

    name: str
    """Its name."""

    look: Look
    """Its function of a moment."""

    size: Size
    """How many numbers it yields at a moment: the same on every rank, and 0 where it yields none."""

    per_group: tuple[str, ...]
    """Those of its metrics that are one number per group."""

    is_sampled: bool = False
    """True if these are measured now and then, such as at sampled steps; False if at every step."""

    watch: Callable[[Subject], Watch] | None = None
    """What begins to watch before the forward pass of a sampled step, with hooks that exist on that step alone."""


class ProbeError(TrimtabError):
    """Trimtab failed on another rank, so no rank judges the step."""


probes: Registry[Probe] = Registry("probe")

SAMPLE_EVERY = 100
"""Steps from one sampled step to the next; what is measured there may cost as much as a forward pass."""


def is_sampled(step: int) -> bool:
    """True at the steps at which what is dear is measured too: the second, so that wiring is seen early, and on."""
    return step % SAMPLE_EVERY == 2


def yields_nothing(_: Moment) -> int:
    """The size of a probe that yields no numbers."""
    return 0


def probe(
    name: str,
    *,
    size: Size = yields_nothing,
    per_group: tuple[str, ...] = (),
    is_sampled: bool = False,
    watch: Callable[[Subject], Watch] | None = None,
) -> Callable[[Look], Look]:
    """Register a function of a `Moment` as a probe.

    It must leave the training exactly as it is: no gradient, no random number, no mode flag may change.

    Args:
        name: snake_case name, free in the registry.
        size: how many numbers it yields at a moment, 0 where it is not asked; it has to follow from what all ranks
            share.
        per_group: those of its metrics that are one number per group; the run folder keeps a column for each.
        is_sampled: True if these are measured now and then, such as at sampled steps; the run folder then has a row for
            them only where one of them is.
        watch: called before the forward pass of a sampled step, to register hooks; the probe finds what it returned in
            `moment.watches`, under its own name and closed. On another rank it may have failed, so the size must not
            depend on it.
    """

    def register(look: Look) -> Look:
        probes.add(name, Probe(name, look, size, per_group, is_sampled, watch))
        return look

    return register


def start_watches(subject: Subject) -> dict[str, Watch]:
    """Let every probe that watches a sampled step register its hooks; the caller closes what is returned."""
    watches: dict[str, Watch] = {}
    try:
        for each in probes.values():
            if each.watch is not None:
                watches[each.name] = each.watch(subject)
    except Exception:
        close_watches(watches)
        raise
    return watches


def close_watches(watches: Mapping[str, Watch]) -> None:
    """Remove the hooks of all watches, also if one of them fails to."""
    with ExitStack() as stack:
        for watch in watches.values():
            stack.callback(watch.close)


def list_group_metrics() -> tuple[list[str], list[str]]:
    """The metrics of all probes that are one number per group: those of every step, and those of sampled ones."""
    usual = [metric for each in probes.values() if not each.is_sampled for metric in each.per_group]
    sampled = [metric for each in probes.values() if each.is_sampled for metric in each.per_group]
    return usual, sampled


def measure(
    step: int, moment: Moment, failure: Exception | None = None, only: Sequence[str] | None = None
) -> Measurement:
    """Ask every probe, with one transfer from the device to the host; metrics of one number come first.

    In a distributed run the numbers are averaged over all ranks by one all-reduce, which every rank joins even if
    one of its probes fails. A number that is not finite on one rank is NaN on all, and the moment's note says on which.

    Gradients have to be disabled by the caller.

    Args:
        step: the step the measurement belongs to.
        moment: what is there to look at.
        failure: what has failed on this rank already, if anything: it is raised once the other ranks know.
        only: the probes to ask, by name; all of them if None.

    Raises:
        ProbeError: if something failed on another rank.
        RanksError: if the ranks cannot go on together.
    """
    asked = probes.values() if only is None else [probes[name] for name in only]
    looks = [_look(each, moment) for each in asked if each.size is yields_nothing or each.size(moment)]
    failures = [each for each in (failure, *(look.failure for look in looks)) if each is not None]
    parts: Sequence[Numbers] = [look.numbers for look in looks if look.numbers is not None]
    means: list[NDArray[Any]] | None = None
    if is_distributed():
        names = [look.name for look in looks if look.numbers is not None]
        means, told = _agree(parts, names, step, moment, has_failed=bool(failures))
        failures = failures or [ProbeError(sentence) for sentence in told]
    if failures:
        raise failures[0]
    fetched = iter(_fetch(parts) if means is None else means)
    scalars: dict[str, Value] = {}
    by_group: dict[str, Value] = {}
    moment.has_agreed = True
    for look in looks:
        numbers = [] if look.reading is None else next(fetched)
        try:
            found = look.known if look.reading is None else _finish(look.reading, numbers)
        except Exception as error:
            if means is None:
                raise
            moment.failure = error  # other ranks may not have failed, and judge the step
            continue
        for metric, value in found.items():
            (by_group if isinstance(value, tuple) else scalars)[metric] = value
    return Measurement(step, scalars | by_group)


def _fetch(parts: Sequence[Numbers]) -> list[NDArray[Any] | Sequence[float]]:
    """The numbers on the host, with one transfer for all that are not there yet."""
    far = [part for part in parts if isinstance(part, Tensor) and part.device.type != "cpu"]
    if far:
        sizes = [len(part) for part in far]
        fetched = iter(torch.cat([part.to(far[0].device) for part in far]).cpu().split(sizes))
        parts = [next(fetched) if isinstance(part, Tensor) and part.device.type != "cpu" else part for part in parts]
    return [_to_array(part) if isinstance(part, Tensor) else part for part in parts]


def _to_array(part: Tensor) -> NDArray[Any]:
    """The same numbers in a dtype that NumPy has."""
    array: NDArray[Any] = (part if part.dtype in (torch.float32, torch.float64) else part.float()).numpy()
    return array


@dataclass(slots=True)
class _Looked:
    """What became of asking one probe."""

    name: str
    known: Values
    reading: Reading | None = None
    numbers: Numbers | None = None
    failure: Exception | None = None


def _look(each: Probe, moment: Moment) -> _Looked:
    """Begin a reading. A probe that fails leaves NaN in its place, so that this rank still joins the others."""
    try:
        looked = _begin(each.name, each.look(moment))
        num = 0 if looked.numbers is None else len(looked.numbers)
        if num != (size := each.size(moment)):
            raise ValueError(f"probe {each.name} yields {num} numbers, not the {size} it says")
        return looked
    except Exception as failure:
        size = each.size(moment)
        return _Looked(each.name, {}, numbers=torch.full((size,), torch.nan) if size else None, failure=failure)


def _begin(name: str, reading: Reading | Values) -> _Looked:
    if type(reading) is dict or isinstance(reading, Mapping):  # the first is told ten times as fast
        return _Looked(name, reading)
    try:
        numbers = next(reading)
        return _Looked(name, {}, reading, numbers.detach().reshape(-1) if isinstance(numbers, Tensor) else numbers)
    except StopIteration as finished:
        return _Looked(name, finished.value)


def _agree(
    parts: Sequence[Numbers], names: Sequence[str], step: int, moment: Moment, *, has_failed: bool
) -> tuple[list[NDArray[Any]], list[str]]:
    """The means of all numbers over all ranks, and in a sentence on which other ranks something of ours failed."""
    agreed = agree(
        parts,
        moment.subject.device,
        step=step,
        signals=moment.signals,
        loss=moment.loss,
        has_failed=has_failed,
    )
    moment.signals, moment.losses = agreed.signals, agreed.losses
    if agreed.flags.any():
        moment.add_note(*describe_flags(agreed.flags, names))
    num = len(agreed.failed)
    told = f"Trimtab failed on {num} other rank{'s' * (num > 1)}: {name_ranks(agreed.failed)}"
    return agreed.parts, [told] if num else []


def _finish(reading: Reading, numbers: NDArray[Any] | Sequence[float]) -> Values:
    try:
        reading.send(numbers)
    except StopIteration as finished:
        returned: Values = finished.value
        return returned
    raise RuntimeError("a probe yields once; this one yielded a second time")


probes.load(__name__, __path__)
