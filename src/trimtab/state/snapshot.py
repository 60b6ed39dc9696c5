"""Snapshots: the state of a run in memory, restored bit for bit and in place."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from trimtab.errors import InputError, TrimtabError
from trimtab.state.buffers import BufferCopies
from trimtab.state.rng import capture_rng, restore_rng


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

    copies: dict[Any, Tensor] = field(default_factory=dict)
    """Copies of parameters, buffers and optimizer tensors, by what they are a copy of."""

    devices: dict[Any, torch.device] = field(default_factory=dict)
    """Where the original of each copy lies."""

    values: dict[Any, dict[str, Any]] = field(default_factory=dict)
    """What the optimizer keeps by parameter that is no tensor; every parameter that had state is a key."""

    options: list[dict[str, Any]] = field(default_factory=list)
    """The optimizer's parameter-group options, such as the learning rate."""

    partners: list[Any] = field(default_factory=list)
    """The states of the partners, in their order; None for one that is not captured yet."""

    data: tuple[Any, dict[str, Any]] | None = None
    """The data position and the random number generators, rewound together or not at all."""


class Snapshots:
    """The newest proven snapshot of a run, and a candidate for the next.

    A snapshot is a candidate until `probation` steps without an acting finding have passed; only then is it proven
    and can be restored. Two slots are kept, their memory reused. Of what is on a GPU, parameters, buffers and
    optimizer tensors are kept in host memory, and what partners hold where they hold it.

    Args:
        optimizer: the optimizer whose parameters and state are kept.
        buffers: the model's buffers.
        partners: what else to keep and restore. One with a `step` method, such as a scheduler, is captured right
            after the update, before the loop steps it, since the loop steps it after a rollback too; any other, such
            as an average of the weights that asks `decision.proceed`, is captured when the loop is through with the
            step, at the next check.
        data: the data position, if it can be rewound; random numbers are rewound with it or not at all.
        probation: steps without an acting finding that prove a snapshot.

    Raises:
        InputError: if a partner has no `state_dict` and `load_state_dict`.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        buffers: BufferCopies,
        partners: Sequence[Partner] = (),
        data: Partner | None = None,
        probation: int = 2,
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
        self._probation = probation
        self._spare: Snapshot | None = None
        self.proven: Snapshot | None = None
        self.candidate: Snapshot | None = None

    @torch.no_grad()
    def take(self, step: int) -> Snapshot:
        """Copy the state as it is after the update of a step; it becomes the candidate.

        Args:
            step: the step whose update has just been made.
        """
        snapshot = self.candidate or self._spare or Snapshot()
        self.candidate = self._spare = None
        snapshot.step, snapshot.num_clean = step, 0
        self._copy_tensors(snapshot)
        snapshot.options = [_copy_options(group) for group in self._optimizer.param_groups]
        snapshot.partners = [_capture(each) if hasattr(each, "step") else None for each in self._partners]
        snapshot.data = self.capture_data()
        self.candidate = snapshot
        return snapshot

    def complete(self) -> None:
        """Capture the partners that the loop was not through with when the candidate was taken."""
        if self.candidate is not None and any(state is None for state in self.candidate.partners):
            pairs = zip(self._partners, self.candidate.partners, strict=True)
            self.candidate.partners = [_capture(each) if state is None else state for each, state in pairs]

    def capture_data(self) -> tuple[Any, dict[str, Any]] | None:
        """The data position and the random number generators, or None where the data cannot be rewound."""
        return None if self._data is None else (_capture(self._data), capture_rng())

    def find_reference(self, parameters: Sequence[Tensor], step: int) -> list[Tensor] | None:
        """The copies of parameters as they were after the update of a step, or None where there are none.

        Copies on another device, as those of a run on a GPU are, count as none: fetching them would cost more than
        they tell.
        """
        for snapshot in (self.candidate, self.proven):
            if snapshot is not None and snapshot.step == step:
                copies = [snapshot.copies.get(("parameter", parameter)) for parameter in parameters]
                pairs = zip(copies, parameters, strict=True)
                fitting = [kept for kept, live in pairs if kept is not None and kept.device == live.device]
                return fitting if len(fitting) == len(parameters) else None
        return None

    def confirm(self) -> None:
        """Count a step without an acting finding; a candidate that has passed enough of them is proven."""
        if self.candidate is None:
            return
        self.candidate.num_clean += 1
        if self.candidate.num_clean >= self._probation:
            self._spare, self.proven, self.candidate = self.proven, self.candidate, None

    def trust(self) -> None:
        """Take the candidate for proven at once, as the state a run begins with is."""
        if self.candidate is not None:
            self._spare, self.proven, self.candidate = self.proven, self.candidate, None

    def doubt(self) -> None:
        """Give the candidate up: there was a finding while it was on probation."""
        if self.candidate is not None:
            self._spare, self.candidate = self.candidate, None

    def forget(self) -> None:
        """Give everything up, since the run was set to another state from outside."""
        self.proven = self.candidate = self._spare = None

    @torch.no_grad()
    def restore(self, report: Callable[[Exception], None]) -> int:
        """Set the run back to the newest proven snapshot, in place and bit for bit.

        Everything is validated before the first tensor is written. State the optimizer has made since is deleted.

        Args:
            report: called with what a partner raises when its state is set back; all else is restored all the same.

        Returns:
            The step whose update is the last one kept.

        Raises:
            SnapshotError: if there is none, or the run's parameters are not those it was taken of.
        """
        snapshot = self.proven
        if snapshot is None:
            raise SnapshotError("no snapshot is proven yet")
        live = dict(self._list_tensors())
        targets = self._match(snapshot, live)
        for target, source in targets:
            target.copy_(source)
        for key, source in snapshot.copies.items():
            if key[0] == "buffer":
                self._buffers.write(key[1], source)
        self._restore_optimizer_state(snapshot, live)
        for group, options in zip(self._optimizer.param_groups, snapshot.options, strict=True):
            _restore_options(group, options)
        pairs = list(zip(self._partners, snapshot.partners, strict=True))
        if self._data is not None and snapshot.data is not None:
            pairs.append((self._data, snapshot.data[0]))
            restore_rng(snapshot.data[1])
        for partner, state in pairs:
            try:
                partner.load_state_dict(copy.deepcopy(state))
            except Exception as error:
                report(error)
        return snapshot.step

    def find_copy(self, parameter: Tensor) -> Tensor | None:
        """The newest proven copy of a parameter, or None."""
        return None if self.proven is None else self.proven.copies.get(("parameter", parameter))

    def _list_tensors(self) -> Iterable[tuple[Any, Tensor]]:
        """Every tensor a snapshot holds, under a key that finds it again."""
        for group in self._optimizer.param_groups:
            for parameter in group["params"]:
                yield ("parameter", parameter), parameter
        for name, buffer in self._buffers.list_live():
            yield ("buffer", name), buffer
        for parameter, state in self._optimizer.state.items():
            for name, value in state.items():
                if isinstance(value, Tensor):
                    yield ("state", parameter, name), value

    def _copy_tensors(self, snapshot: Snapshot) -> None:
        live = dict(self._list_tensors())
        tensors = list(live.values())
        if list(live) != list(snapshot.copies) or not _fit(snapshot.copies.values(), tensors):
            self._make_room(snapshot, live)
        torch._foreach_copy_(list(snapshot.copies.values()), tensors, non_blocking=True)
        snapshot.values = {
            parameter: {name: copy.deepcopy(value) for name, value in state.items() if not isinstance(value, Tensor)}
            for parameter, state in self._optimizer.state.items()
        }

    def _make_room(self, snapshot: Snapshot, live: Mapping[Any, Tensor]) -> None:
        """A place for a copy of each tensor, in their order; places that still fit are kept."""
        old = snapshot.copies
        snapshot.copies = {
            key: old[key] if key in old and _fit([old[key]], [tensor]) else _allocate_like(tensor)
            for key, tensor in live.items()
        }
        snapshot.devices = {key: tensor.device for key, tensor in live.items()}

    def _match(self, snapshot: Snapshot, live: dict[Any, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """The pairs to copy, validated: every parameter is there in its old shape and dtype.

        Optimizer tensors of another shape are dropped from `live`, since they are to be made anew.
        """
        if len(snapshot.options) != len(self._optimizer.param_groups):
            raise SnapshotError("the optimizer has other parameter groups than when the snapshot was taken")
        pairs = []
        for key, source in snapshot.copies.items():
            target = live.get(key)
            fits = target is not None and target.shape == source.shape and target.dtype == source.dtype
            if not fits and key[0] == "parameter":
                raise SnapshotError(f"a parameter of shape {tuple(source.shape)} has changed")
            if key[0] == "buffer":
                continue
            if fits and target is not None:
                pairs.append((target, source))
            elif target is not None:
                del live[key]
        missing = [key for key in live if key[0] == "parameter" and key not in snapshot.copies]
        if missing:
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
                self._optimizer.state[parameter][name] = source.to(snapshot.devices[key], copy=True)


def _fit(copies: Iterable[Tensor], tensors: Sequence[Tensor]) -> bool:
    """True if copies have the shapes and dtypes of tensors."""
    return all(
        copy.shape == tensor.shape and copy.dtype == tensor.dtype for copy, tensor in zip(copies, tensors, strict=True)
    )


def _capture(partner: Partner) -> Any:
    return copy.deepcopy(partner.state_dict())


def _allocate_like(tensor: Tensor) -> Tensor:
    """An uninitialized copy, in pinned host memory where the tensor is on a GPU."""
    if tensor.is_cuda:
        return torch.empty_like(tensor, device="cpu", pin_memory=True)
    return torch.empty_like(tensor)


def _copy_options(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: copy.deepcopy(value) for name, value in group.items() if name != "params"}


def _restore_options(group: dict[str, Any], options: Mapping[str, Any]) -> None:
    for name in [name for name in group if name != "params" and name not in options]:
        del group[name]
    for name, value in options.items():
        if isinstance(value, Tensor) and isinstance(group.get(name), Tensor):
            group[name].copy_(value)
        else:
            group[name] = copy.deepcopy(value)
