"""The complete state of a run, as a checkpoint holds it: captured, compared with a run, and restored into it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from trimtab.errors import CheckpointError
from trimtab.ranks import cut_like, is_sharded, join_part, take_part, unwrap
from trimtab.state.frozen import FrozenBase, require_same_frozen
from trimtab.state.live import Partner, is_scheduler, restore_options
from trimtab.state.rng import capture_rng, restore_rng

CheckpointForm: TypeAlias = Literal["full", "trained"]
"""What a checkpoint keeps. `full`: everything. `trained`: no frozen parameters, unless they have changed since the run
began."""

MOST_NAMED = 3
"""Parameters that a message names."""


class RunState:
    """What of a run a checkpoint holds, besides the supervisor's own memory and what the loop adds.

    Args:
        model: the model.
        optimizer: its optimizer.
        partners: what else is restored, such as a scheduler, a scaler or an average of the weights.
        data: the data position, if it can be restored.
        keeps_frozen: keep parameters that are not trained too. Otherwise a few numbers of each are kept, by which it is
            known again; those that have changed since the run began are kept all the same.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        partners: Sequence[Partner] = (),
        data: Partner | None = None,
        *,
        keeps_frozen: bool = True,
    ) -> None:
        self._model = unwrap(model)
        self._base = None if keeps_frozen else FrozenBase(self._model)
        self._has_told = False
        self._optimizer = optimizer
        self._partners = partners
        self._data = data

    def capture(self) -> dict[str, Any]:
        """The state as it is; its tensors are those of the run, not copies."""
        values = self._model.state_dict()
        model = {name: value for name, value in values.items() if _has_numbers(value)}
        if len(model) < len(values) and not self._has_told:
            self._has_told = True
            absent = [name for name in values if name not in model]
            warnings.warn(f"checkpoint: what is on the meta device is in none: {_name(absent)}", stacklevel=2)
        tensors = {name: value for name, value in model.items() if isinstance(value, Tensor)}
        frozen = {} if self._base is None else self._base.sample_unchanged()
        return {
            "model": {name: value for name, value in tensors.items() if name not in frozen},
            "model_extra": {name: value for name, value in model.items() if name not in tensors},
            "hidden_buffers": {
                name: buffer
                for name, buffer in self._model.named_buffers()
                if name not in tensors and _has_numbers(buffer)
            },
            "frozen": frozen,
            "optimizer": self._optimizer.state_dict(),
            "optimizer_type": type(self._optimizer).__name__,
            "optimized": self._name_optimized(),
            "partners": [partner.state_dict() for partner in self._partners],
            "partner_types": [type(partner).__name__ for partner in self._partners],
            "data": None if self._data is None else self._data.state_dict(),
            "rng": capture_rng(),
        }

    def capture_own(self) -> dict[str, Any]:
        """What of the state each rank of a distributed run has for itself; its tensors are those of the run."""
        return {
            "data": None if self._data is None else self._data.state_dict(),
            "rng": capture_rng(),
            "buffers": {name: each for name, each in self._model.named_buffers() if _has_numbers(each)},
        }

    def join_own(self, state: Mapping[str, Any], own: Mapping[str, Any] | None) -> dict[str, Any]:
        """A state as this rank takes it over: with what it alone had, or without any rank's data and random numbers.

        Args:
            state: what all ranks have alike, and what the first alone had.
            own: what this rank alone had; None if other ranks have saved the state than take it over.
        """
        if own is None:
            return {**state, "data": None, "rng": None}
        buffers = own["buffers"]
        model = {name: buffers.get(name, value) for name, value in state["model"].items()}
        hidden = {name: buffers.get(name, value) for name, value in state["hidden_buffers"].items()}
        return {**state, "data": own["data"], "rng": own["rng"], "model": model, "hidden_buffers": hidden}

    def make_targets(self, shards: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> dict[str, Tensor]:
        """What sharded tensors are read into: cut as those of this run are, and whole where this run cuts none.

        Args:
            shards: shape and dtype of the whole, by where a tensor is in the state.
        """
        live = _list_sharded(self.capture(), "")
        parameters = [each for group in self._optimizer.param_groups for each in group["params"]]
        for name in shards:  # an optimizer that has made no step yet has no moments, which are cut as parameters are
            parts = name.split(".")
            if parts[:2] == ["optimizer", "state"] and name not in live and int(parts[2]) < len(parameters):
                live[name] = parameters[int(parts[2])]
        return {name: _make_target(live.get(name), *shards[name]) for name in shards}

    def capture_schedule(self) -> dict[str, Any]:
        """What the loop is about to step, right after an update: schedulers, and the rates they have set."""
        return copy.deepcopy(
            {
                "partners": [each.state_dict() if is_scheduler(each) else None for each in self._partners],
                "options": [
                    {name: value for name, value in group.items() if name != "params"}
                    for group in self._optimizer.param_groups
                ],
            }
        )

    def require_fit(self, state: Mapping[str, Any]) -> None:
        """See that a state is one of this run.

        Raises:
            CheckpointError: if it is of another model, of another optimizer or of other partners; the message says
                what differs.
        """
        values = self._model.state_dict()
        live = {name: each for name, each in values.items() if isinstance(each, Tensor) and _has_numbers(each)}
        kept, frozen = state["model"], state.get("frozen", {})  # which were always kept once
        missing = [name for name in live if name not in kept and name not in frozen]
        foreign = [name for name in kept if name not in live]
        if missing or foreign:
            raise CheckpointError(
                f"it is of another model: it lacks {_name(missing)} and has {_name(foreign)} that this model lacks"
            )
        for name, value in self._model.named_parameters():
            if name in kept and (value.shape != kept[name].shape or value.dtype != kept[name].dtype):
                raise CheckpointError(
                    f"it is of another model: {name} is {_tell(kept[name])} there and {_tell(value)} in this model"
                )
        name = type(self._optimizer).__name__
        if name != state["optimizer_type"]:
            raise CheckpointError(f"it is of another optimizer: {state['optimizer_type']}, this run has {name}")
        if self._name_optimized() != state["optimized"]:
            counts = [[len(group) for group in groups] for groups in (state["optimized"], self._name_optimized())]
            raise CheckpointError(
                "it is of another optimizer: its parameter groups hold other parameters, or in another order "
                f"({counts[0]} there, {counts[1]} in this run)"
            )
        names = [type(partner).__name__ for partner in self._partners]
        if names != state["partner_types"]:
            raise CheckpointError(
                f"it was taken with the partners {_name(state['partner_types'])}, this run has {_name(names)}"
            )
        require_same_frozen(frozen, self._model)

    def _name_optimized(self) -> list[list[str]]:
        """The names of the parameters in each of the optimizer's groups."""
        names = {id(parameter): name for name, parameter in self._model.named_parameters()}
        groups = self._optimizer.param_groups
        return [[names.get(id(each), f"{tuple(each.shape)}") for each in group["params"]] for group in groups]

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any], report: Callable[[str], None], *, keeps_place: bool = False) -> None:
        """Take a state over, in place; `require_fit` has to have been called.

        Args:
            state: what `capture` returned, read back from disk.
            report: told in a sentence of a partner that refuses its state; all else is restored all the same.
            keeps_place: leave the data position and the random numbers as they are, and set schedulers and rates to
                what they were before the loop stepped them, since it is about to do so: for a reload in the middle of
                a step. Of a checkpoint that was taken at once they are what they were after it.
        """
        buffers = dict(self._model.named_buffers(remove_duplicate=False))
        parameters = dict(self._model.named_parameters(remove_duplicate=False))
        for name, value in state["model"].items():
            if name in parameters:
                _copy(parameters[name], value)
        others = {name: value for name, value in state["model"].items() if name not in {**parameters, **buffers}}
        if others or state["model_extra"]:  # what a model adds to its state, or calls by other names
            self._model.load_state_dict({**self._model.state_dict(), **others, **state["model_extra"]})
        for name, value in {**state["model"], **state["hidden_buffers"]}.items():
            if name in buffers:
                self._write_buffer(name, buffers[name], value)
        restore_optimizer(self._optimizer, state["optimizer"])
        schedule = state["schedule"] if keeps_place else None
        if schedule is not None:
            for group, options in zip(self._optimizer.param_groups, schedule["options"], strict=True):
                restore_options(group, options)
        before = [None] * len(self._partners) if schedule is None else schedule["partners"]
        pairs = [
            (partner, after if earlier is None else earlier)
            for partner, after, earlier in zip(self._partners, state["partners"], before, strict=True)
        ]
        if self._data is not None and state["data"] is not None and not keeps_place:
            pairs.append((self._data, state["data"]))
        for partner, kept in pairs:
            try:
                partner.load_state_dict(kept)
            except Exception as error:
                report(f"checkpoint: {type(partner).__name__} does not take its state back: {error}")
        if not keeps_place and state["rng"] is not None:
            restore_rng(state["rng"])

    def _write_buffer(self, name: str, live: Tensor, value: Tensor) -> None:
        """Set a buffer, in place where it still has its shape."""
        if live.shape == value.shape and live.dtype == value.dtype:
            live.copy_(value)
            return
        owner, _, key = name.rpartition(".")
        self._model.get_submodule(owner)._buffers[key] = value.to(live.device, copy=True)


def restore_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Take the state of an optimizer over bit for bit: tensors keep their dtype, those at hand are written in place.

    `load_state_dict` casts what has another dtype than its parameter, and so loses moments kept in float32.

    Args:
        optimizer: the optimizer; its parameter groups hold as many parameters as those of the state.
        state: what its `state_dict()` returned.
    """
    for group, kept in zip(optimizer.param_groups, state["param_groups"], strict=True):
        restore_options(group, {name: value for name, value in kept.items() if name != "params"})
        for index, parameter in zip(kept["params"], group["params"], strict=True):
            values = state["state"].get(index)
            if values is None:
                optimizer.state.pop(parameter, None)
                continue
            live = optimizer.state[parameter]
            for name in [name for name in live if name not in values]:
                del live[name]
            for name, value in values.items():
                _restore_value(live, name, value, parameter, group)


def _has_numbers(value: object) -> bool:
    """False for a tensor on the meta device."""
    return not (isinstance(value, Tensor) and value.is_meta)


def _list_sharded(value: Any, path: str) -> dict[str, Tensor]:
    """The sharded tensors of a state, by where they are in it, as a checkpoint names them."""
    if is_sharded(value):
        return {path: value}
    pairs = (
        value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    )
    parts = [_list_sharded(each, f"{path}.{key}".lstrip(".")) for key, each in pairs]
    return {name: tensor for part in parts for name, tensor in part.items()}


def _make_target(like: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    if like is not None and is_sharded(like) and like.shape == shape:
        return join_part(torch.empty_like(take_part(like), dtype=dtype, requires_grad=False), like)
    return torch.empty(shape, dtype=dtype)


def _copy(live: Tensor, value: Tensor) -> None:
    """Set a tensor, in place; a whole one is cut where this run cuts."""
    if is_sharded(live) and not is_sharded(value):
        value = cut_like(value, live)
    take_part(live).copy_(take_part(value))


def _restore_value(live: dict[str, Any], name: str, value: Any, parameter: Tensor, group: Mapping[str, Any]) -> None:
    at_hand = live.get(name)
    if not isinstance(value, Tensor):
        live[name] = value
    elif isinstance(at_hand, Tensor) and at_hand.shape == value.shape and at_hand.dtype == value.dtype:
        _copy(at_hand, value)
    elif is_sharded(parameter) and value.shape == parameter.shape:
        live[name] = value.clone() if is_sharded(value) else cut_like(value, parameter)
    else:  # step counts are kept on the host, unless a kernel on the device reads them
        is_on_host = name == "step" and not (group.get("capturable") or group.get("fused"))
        live[name] = value.clone() if is_on_host else value.to(parameter.device, copy=True)


def _name(names: Sequence[str]) -> str:
    rest = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + rest if names else "none"


def _tell(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
