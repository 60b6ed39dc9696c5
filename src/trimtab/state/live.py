"""The state that one optimizer step changes: copied into a snapshot, and restored from it bit for bit and in place."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

import torch
from torch import Tensor

from trimtab.errors import InputError, TrimtabError
from trimtab.ranks import is_sharded, join_part, take_part
from trimtab.state.buffers import BufferCopies
from trimtab.state.rng import capture_rng, restore_rng

Form: TypeAlias = Literal["full", "bfloat16-moments", "parameters"]
"""What a snapshot keeps. `full`: everything, restored bit for bit. `bfloat16-moments`: the optimizer's moments rounded
to bfloat16, so that they come back with 2 to 3 digits and the snapshot of a float32 model with Adam takes two thirds
of the memory. `parameters`: no optimizer state at all; after a rollback the optimizer begins as a new one."""

Place: TypeAlias = Literal["host", "device", "disk"]
"""Where it is kept. `host`: in memory, pinned where the run is on a GPU. `device`: where the originals are. `disk`: in
files that are mapped into memory; they have no name, so that nothing is left of them whatever ends the process."""


class Partner(Protocol):
    """Whatever else a rollback restores: a scheduler, a scaler, an average of the weights, a sampler."""

    def state_dict(self) -> Mapping[str, Any]:
        """Its state."""

    def load_state_dict(self, state_dict: Any) -> Any:
        """Take over a state."""


class SnapshotError(TrimtabError):
    """A snapshot does not fit the run any more, so nothing was restored."""


@dataclass(slots=True)
class Snapshot:
    """A copy of everything that one optimizer step changes."""

    step: int = 0
    """The step whose update is the last one in it; 0 for the state before the first."""

    num_clean: int = 0
    """Steps without an acting finding since it was taken."""

    is_first: bool = False
    """True if it is of the state before the first update, when the loop had not stepped a scheduler yet."""

    is_accepted: bool = False
    """True if the probe has measured exactly this state, and nothing was found."""

    copies: dict[Any, Tensor] = field(default_factory=dict)
    """Copies of parameters, buffers and optimizer tensors, of sharded ones this rank's part, by what they are a copy
    of."""

    devices: dict[Any, torch.device] = field(default_factory=dict)
    """Where the original of each copy lies."""

    dtypes: dict[Any, torch.dtype] = field(default_factory=dict)
    """The dtype of the original of each copy."""

    cuts: dict[Any, Any] = field(default_factory=dict)
    """How each sharded original is cut."""

    values: dict[Any, dict[str, Any]] = field(default_factory=dict)
    """What the optimizer keeps by parameter that is no tensor; every parameter that had state is a key."""

    options: list[dict[str, Any]] = field(default_factory=list)
    """The optimizer's parameter-group options, such as the learning rate."""

    partners: list[Any] = field(default_factory=list)
    """The states of the partners, in their order; None for one that is not captured yet."""

    is_stepped: bool = True
    """True if the loop steps a scheduler after each update, and not once an epoch: after most snapshots it has."""

    data: tuple[Any, dict[str, Any]] | None = None
    """The data position and the random number generators, rewound together or not at all."""


class LiveState:
    """What of a run a snapshot copies, and how it is set back.

    Args:
        optimizer: the optimizer whose parameters and state are kept.
        buffers: the model's buffers.
        partners: what else to keep and restore. One with a `step` method, such as a scheduler, is captured right
            after the update, before the loop steps it, since the loop steps it after a rollback too; any other, such
            as an average of the weights that asks `decision.proceed`, is captured when the loop is through with the
            step, at the next check.
        data: the data position, if it can be rewound; random numbers are rewound with it or not at all.
        form: what of the optimizer is kept.
        place: where it is kept.

    Raises:
        InputError: if a partner has no `state_dict` and `load_state_dict`.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        buffers: BufferCopies,
        partners: Sequence[Partner] = (),
        data: Partner | None = None,
        form: Form = "full",
        place: Place = "host",
    ) -> None:
        for partner in (*partners, *([] if data is None else [data])):
            if not hasattr(partner, "state_dict") or not hasattr(partner, "load_state_dict"):
                raise InputError(
                    f"supervisor: a rollback cannot restore a {type(partner).__name__!r}, which has no state_dict and "
                    "load_state_dict; leave it out, or give it both"
                )
        self._optimizer = optimizer
        self._buffers = buffers
        self._partners = partners
        self._data = data
        self._form = form
        self._place = place
        self._num_completed = self._num_stepped = 0
        self._has_shards = any(is_sharded(each) for group in optimizer.param_groups for each in group["params"])

    @torch.no_grad()
    def copy_into(self, snapshot: Snapshot) -> None:
        """Copy the run as it is into a snapshot, whose memory is used again where it fits."""
        self._copy_tensors(snapshot)
        keeps_state = self._form != "parameters"
        snapshot.values = {
            parameter: {name: copy.deepcopy(value) for name, value in state.items() if not isinstance(value, Tensor)}
            for parameter, state in (self._optimizer.state.items() if keeps_state else ())
        }
        snapshot.options = [_copy_options(group) for group in self._optimizer.param_groups]
        snapshot.partners = [capture(each) if is_scheduler(each) else None for each in self._partners]
        snapshot.data = self.capture_data()
        snapshot.is_stepped = True

    @torch.no_grad()
    def add_thawed(self, snapshot: Snapshot) -> None:
        """Copy parameters that were frozen when the snapshot was taken, before their first update."""
        for (kind, parameter), tensor in self._list_tensors(keeps_state=False, is_trained=True):
            if kind == "parameter" and (kind, parameter) not in snapshot.copies:
                key = kind, parameter
                snapshot.copies[key] = self._allocate(tensor, tensor.dtype).copy_(tensor)
                snapshot.devices[key], snapshot.dtypes[key] = tensor.device, tensor.dtype

    def complete(self, snapshot: Snapshot) -> None:
        """Capture the partners that the loop was not through with, and see whether it has stepped a scheduler."""
        if not snapshot.is_first:
            self._num_completed += 1
            self._num_stepped += self._has_stepped(snapshot)
            snapshot.is_stepped = 2 * self._num_stepped > self._num_completed
        if any(state is None for state in snapshot.partners):
            pairs = zip(self._partners, snapshot.partners, strict=True)
            snapshot.partners = [capture(each) if state is None else state for each, state in pairs]

    def capture_data(self) -> tuple[Any, dict[str, Any]] | None:
        """The data position and the random number generators, or None where the data cannot be rewound."""
        return None if self._data is None else (capture(self._data), capture_rng())

    @torch.no_grad()
    def restore(self, snapshot: Snapshot, report: Callable[[Exception], None]) -> None:
        """Set the run back to a snapshot, in place and bit for bit.

        Everything is validated before the first tensor is written. State the optimizer has made since is deleted.

        Args:
            snapshot: what to set it back to.
            report: called with what a partner raises when its state is set back; all else is restored all the same.

        Raises:
            SnapshotError: if the run's parameters are not those it was taken of.
        """
        live = dict(self._list_tensors(keeps_state=True))
        targets = self._match(snapshot, live)
        for target, source in targets:
            target.copy_(source)
        for key, source in snapshot.copies.items():
            if key[0] == "buffer":
                self._buffers.write(key[1], source)
        self._restore_optimizer_state(snapshot, live)
        pairs = list(zip(self._partners, snapshot.partners, strict=True))
        if not snapshot.is_stepped and self._has_stepped(snapshot):  # an epoch has ended since, and is not to end again
            pairs = [(partner, state) for partner, state in pairs if not is_scheduler(partner)]
        else:
            for group, options in zip(self._optimizer.param_groups, snapshot.options, strict=True):
                restore_options(group, options)
        if self._data is not None and snapshot.data is not None:
            pairs.append((self._data, snapshot.data[0]))
            restore_rng(snapshot.data[1])
        for partner, state in pairs:
            try:
                partner.load_state_dict(copy.deepcopy(state))
            except Exception as error:
                report(error)

    def _has_stepped(self, snapshot: Snapshot) -> bool:
        """True if a scheduler has another state by now, or one that cannot be compared."""
        schedulers = [
            (partner, state)
            for partner, state in zip(self._partners, snapshot.partners, strict=True)
            if is_scheduler(partner)
        ]
        try:
            return not schedulers or any(bool(partner.state_dict() != state) for partner, state in schedulers)
        except (TypeError, ValueError, RuntimeError):
            return True

    def restore_schedule(self, snapshot: Snapshot) -> None:
        """Set what the loop has stepped since back once more: rates, and the partners with a `step` method."""
        for group, options in zip(self._optimizer.param_groups, snapshot.options, strict=True):
            restore_options(group, options)
        for partner, state in zip(self._partners, snapshot.partners, strict=True):
            if is_scheduler(partner):
                partner.load_state_dict(copy.deepcopy(state))

    def _list_tensors(self, *, keeps_state: bool, is_trained: bool = False) -> Iterable[tuple[Any, Tensor]]:
        """Every tensor a snapshot holds, of sharded ones this rank's part, under a key that finds it again.

        Args:
            keeps_state: list what the optimizer keeps too.
            is_trained: leave out parameters that are not trained now, though the optimizer holds them.
        """
        listed = self._list_whole(keeps_state=keeps_state, is_trained=is_trained)
        return ((key, take_part(tensor)) for key, tensor in listed) if self._has_shards else listed

    def _list_whole(self, *, keeps_state: bool, is_trained: bool = False) -> Iterable[tuple[Any, Tensor]]:
        for group in self._optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.requires_grad or not is_trained:
                    yield ("parameter", parameter), parameter
        for name, buffer in self._buffers.list_live():
            yield ("buffer", name), buffer
        for parameter, state in self._optimizer.state.items() if keeps_state else ():
            for name, value in state.items():
                if isinstance(value, Tensor):
                    yield ("state", parameter, name), value

    def _copy_tensors(self, snapshot: Snapshot) -> None:
        live = dict(self._list_tensors(keeps_state=self._form != "parameters", is_trained=True))
        tensors = list(live.values())
        dtypes = [self._choose_dtype(key, tensor) for key, tensor in live.items()]
        if list(live) != list(snapshot.copies) or not _fit(snapshot.copies.values(), tensors, dtypes):
            self._make_room(snapshot, live, dtypes)
        torch._foreach_copy_(list(snapshot.copies.values()), tensors, non_blocking=True)

    def _choose_dtype(self, key: Any, tensor: Tensor) -> torch.dtype:
        """The dtype of a tensor's copy; a moment has the shape of its parameter."""
        is_moment = key[0] == "state" and tensor.shape == take_part(key[1]).shape != ()
        is_moment = is_moment and tensor.dtype == torch.float32
        return torch.bfloat16 if self._form == "bfloat16-moments" and is_moment else tensor.dtype

    def _make_room(self, snapshot: Snapshot, live: Mapping[Any, Tensor], dtypes: Sequence[torch.dtype]) -> None:
        """A place for a copy of each tensor, in their order; places that still fit are kept."""
        old = snapshot.copies
        snapshot.copies = {
            key: old[key] if key in old and _fit([old[key]], [tensor], [dtype]) else self._allocate(tensor, dtype)
            for (key, tensor), dtype in zip(live.items(), dtypes, strict=True)
        }
        snapshot.devices = {key: tensor.device for key, tensor in live.items()}
        snapshot.dtypes = {key: tensor.dtype for key, tensor in live.items()}
        whole = self._list_whole(keeps_state=True) if self._has_shards else ()
        snapshot.cuts = {key: tensor._spec for key, tensor in whole if is_sharded(tensor)}

    def _allocate(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """Room for the copy of a tensor."""
        if self._place == "disk" and tensor.numel():
            return _map_file(tensor.shape, dtype)
        if tensor.is_cuda and self._place == "host":
            return torch.empty_like(tensor, dtype=dtype, device="cpu", pin_memory=True)
        return torch.empty_like(tensor, dtype=dtype)

    def _match(self, snapshot: Snapshot, live: dict[Any, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """The pairs to copy, validated: every parameter is there in its old shape and dtype.

        Optimizer tensors of another shape are dropped from `live`, since they are to be made anew.
        """
        if len(snapshot.options) != len(self._optimizer.param_groups):
            raise SnapshotError("the optimizer has other parameter groups than when the snapshot was taken")
        pairs = []
        for key, source in snapshot.copies.items():
            target = live.get(key)
            fits = target is not None and target.shape == source.shape and target.dtype == snapshot.dtypes[key]
            if not fits and key[0] == "parameter":
                raise SnapshotError(f"a parameter of shape {tuple(source.shape)} has changed")
            if key[0] == "buffer":
                continue
            if fits and target is not None:
                pairs.append((target, source))
            elif target is not None:
                del live[key]
        if any(key[0] == "parameter" and key[1].requires_grad and key not in snapshot.copies for key in live):
            raise SnapshotError("the optimizer was given parameters after the snapshot was taken")
        return pairs

    def _restore_optimizer_state(self, snapshot: Snapshot, live: Mapping[Any, Tensor]) -> None:
        """Delete what the optimizer made since, bring back what it deleted, and set what is no tensor."""
        for parameter in [parameter for parameter in self._optimizer.state if parameter not in snapshot.values]:
            del self._optimizer.state[parameter]
        for parameter, values in snapshot.values.items():
            state = self._optimizer.state[parameter]
            for name in [name for name in state if ("state", parameter, name) not in snapshot.copies]:
                del state[name]
            state.update(copy.deepcopy(values))
        for key, source in snapshot.copies.items():
            if key[0] == "state" and key not in live:
                _, parameter, name = key
                made = source.to(snapshot.devices[key], snapshot.dtypes[key], copy=True)
                cut = snapshot.cuts.get(key)
                self._optimizer.state[parameter][name] = made if cut is None else join_part(made, cut)


def is_scheduler(partner: Partner) -> bool:
    """True for what the loop steps after the optimizer, whatever was decided: it has a method `step`."""
    return callable(getattr(partner, "step", None))


def _map_file(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """An uninitialized tensor in a file that is mapped into memory, and is gone when the process lets go of it."""
    with tempfile.NamedTemporaryFile(prefix="trimtab-") as file:
        return torch.from_file(file.name, shared=True, size=shape.numel(), dtype=dtype).view(shape)


def capture(partner: Partner) -> Any:
    """A copy of a partner's state."""
    return copy.deepcopy(partner.state_dict())


def _fit(copies: Iterable[Tensor], tensors: Sequence[Tensor], dtypes: Sequence[torch.dtype]) -> bool:
    """True if copies have the shapes of tensors, and these dtypes."""
    return all(
        copy.shape == tensor.shape and copy.dtype == dtype
        for copy, tensor, dtype in zip(copies, tensors, dtypes, strict=True)
    )


def _copy_options(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: copy.deepcopy(value) for name, value in group.items() if name != "params"}


def restore_options(group: dict[str, Any], options: Mapping[str, Any]) -> None:
    """Set the options of an optimizer's parameter group back; those that were added since are deleted."""
    for name in [name for name in group if name != "params" and name not in options]:
        del group[name]
    for name, value in options.items():
        if isinstance(value, Tensor) and isinstance(group.get(name), Tensor):
            group[name].copy_(value)
        else:
            group[name] = copy.deepcopy(value)
