"""Copies of what the forward pass changes: buffers such as BatchNorm's statistics, and self-updating parameters."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isnan
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from trimtab.errors import InputError

Value = TypeVar("Value")

MAX_BYTES = 256 * 2**20
"""The most memory the copies may take. BatchNorm statistics of the largest vision models are a few megabytes; what is
larger is nearly always a constant table, which needs no copy."""

WATCHED_STEPS = 3
"""Steps during which every buffer is watched; one that changed in them is copied at every step from then on."""


@dataclass(slots=True)
class _Kept:
    """One buffer, or self-updating parameter, and the copy of it."""

    name: str
    table: MutableMapping[str, Any]
    key: str
    mark: tuple[weakref.ref[Tensor], int]
    copy: Tensor | None
    is_statistic: bool = False

    @property
    def live(self) -> Tensor | None:
        """The buffer as it is now; None where it is gone, or waits elsewhere for the next forward pass."""
        live: Tensor | None = self.table.get(self.key)
        return None if live is None or live.is_meta else live

    def write(self, value: Tensor) -> None:
        """Set the buffer to a value, in place where it still has its shape."""
        live = self.live
        if live is not None and _fit(value, live):
            live.copy_(value)
        elif live is not None:
            self.table[self.key] = value.to(live.device, copy=True)

    @property
    def has_changed(self) -> bool:
        """True if it was written to or replaced. Not all writes leave a mark, so a copy at hand is compared too."""
        live = self.live
        if live is None:
            return False
        before, version = self.mark
        is_marked = live is not before() or _get_version(live) != version
        return is_marked or (self.copy is not None and not torch.equal(live, self.copy))


class BufferCopies:
    """Copies of a model's mutable buffers as they were at the end of the last check.

    Every buffer is copied at first; after `WATCHED_STEPS` only those that were seen to change are, those of
    normalization layers always, and `rescan` finds those that begin to change later. A buffer that does not fit into
    `MAX_BYTES` and does change is warned about.

    Parameters that change outside the optimizer are treated alike. Theirs are the copies as the first forward pass of
    a step found them, since the optimizer, or an average the loop makes, changes them between two checks too.

    Args:
        model: the model whose buffers to keep.
        self_updating: names of modules or parameters whose parameters change outside the optimizer.
        max_bytes: the most memory the copies may take.

    Raises:
        InputError: if there is no parameter of such a name.
    """

    def __init__(self, model: nn.Module, self_updating: Sequence[str] = (), max_bytes: int = MAX_BYTES) -> None:
        self._model = model
        self._self_updating = _find_parameters(model, self_updating)
        self._max_bytes = max_bytes
        self._is_stale = False
        self._num_updates = 0
        self._mutable: dict[str, _Kept] = {}
        self._watched: dict[str, _Kept] = {}
        self.begin()

    def begin(self) -> None:
        """Copy every buffer that fits, the smallest first, and watch all of them anew."""
        self._num_updates = 0
        self._mutable = {}
        self._watched = {}
        room = self._max_bytes
        listed = [*_list_buffers(self._model), *self._self_updating]
        for name, module, table, key in sorted(listed, key=lambda entry: int(entry[2][entry[3]].nbytes)):
            live = table[key]
            room -= live.nbytes
            copy = live.detach().clone() if room >= 0 else None
            is_norm = isinstance(module, _NormBase) and table is module._buffers
            self._watched[name] = _Kept(name, table, key, (weakref.ref(live), _get_version(live)), copy, is_norm)
            if is_norm or table is module._parameters:
                self._start_keeping(name)

    @torch.no_grad()
    def update(self) -> None:
        """Copy the mutable buffers as they are now; called at the end of each check."""
        self._is_stale = bool(self._self_updating)
        self._num_updates += 1
        if self._num_updates <= WATCHED_STEPS:
            self.rescan()
        if self._num_updates == WATCHED_STEPS:
            for kept in self._watched.values():
                kept.copy = None
        self._copy_mutable()

    def copy_once(self) -> None:
        """Copy the mutable buffers as a training forward pass finds them, if it is the first since `update`."""
        if self._is_stale and torch.is_grad_enabled():
            self._is_stale = False
            with torch.no_grad():
                self._copy_mutable()

    def measure_change(self) -> float:
        """How far self-updating parameters are from their copies: the largest ‖Δw‖ / ‖w‖; 0 where there are none."""
        ratios = [0.0]
        for name, *_ in self._self_updating:
            kept = self._mutable[name]
            live = kept.live
            if live is not None and kept.copy is not None:
                moved, size = torch.linalg.vector_norm(live - kept.copy), torch.linalg.vector_norm(kept.copy)
                ratios.append(float(moved / size) if size > 0 else 0.0)
        return max(ratios, key=lambda ratio: (isnan(ratio), ratio))

    def _copy_mutable(self) -> None:
        copies, lives = [], []
        for kept in self._mutable.values():
            live = kept.live
            if live is None or kept.copy is None:
                continue
            if not _fit(kept.copy, live):
                kept.copy = torch.empty_like(live)
            copies.append(kept.copy)
            lives.append(live)
        if copies:
            torch._foreach_copy_(copies, lives)

    def rescan(self) -> None:
        """Find the buffers that have begun to change, and keep copies of them from now on."""
        for name in [name for name, kept in self._watched.items() if kept.has_changed]:
            self._start_keeping(name)

    def put_back(self) -> None:
        """Set every buffer that may have changed back to its copy, in place."""
        changed = [*self._mutable.values(), *(kept for kept in self._watched.values() if kept.has_changed)]
        for kept in changed:
            if kept.copy is not None:
                kept.write(kept.copy)

    def write(self, name: str, value: Tensor) -> None:
        """Set a buffer to a value, in place where it still has its shape; a buffer that is gone stays so."""
        kept = self._mutable.get(name) or self._watched.get(name)
        if kept is not None:
            kept.write(value)

    @contextmanager
    def keep_live(self) -> Iterator[None]:
        """Set all buffers back to what they are now, tensor for tensor, at the end of a `with` block."""
        both = [(kept, kept.live) for kept in (*self._mutable.values(), *self._watched.values())]
        saved = [(kept, live, live.clone()) for kept, live in both if live is not None]
        try:
            yield
        finally:
            for kept, live, value in saved:
                kept.table[kept.key] = live
                with torch.no_grad():
                    live.copy_(value)

    def protect(self, function: Callable[[nn.Module], Value]) -> Callable[[nn.Module], Value]:
        """A function of the model after which all that is kept here is set back to what it was before."""

        def protected(model: nn.Module) -> Value:
            with self.keep_live():
                return function(model)

        return protected

    def list_live(self) -> list[tuple[str, Tensor]]:
        """The buffers a snapshot has to hold: all of them at first, the mutable ones later."""
        kept = [*self._mutable.values()]
        if self._num_updates < WATCHED_STEPS:
            kept += self._watched.values()
        return [(each.name, live) for each in kept if (live := each.live) is not None]

    def list_statistics(self) -> list[Tensor]:
        """The running statistics of normalization layers, which are never infinite in a sound model."""
        lives = (each.live for each in self._mutable.values() if each.is_statistic)
        return [live for live in lives if live is not None and live.is_floating_point()]

    def list_copies(self) -> dict[str, Tensor]:
        """The copies at hand, by buffer name."""
        both = (*self._mutable.values(), *self._watched.values())
        return {kept.name: kept.copy for kept in both if kept.copy is not None}

    def _start_keeping(self, name: str) -> None:
        kept = self._mutable[name] = self._watched.pop(name)
        live = kept.live
        if live is None or kept.copy is not None:
            return
        taken = sum(each.copy.nbytes for each in self._mutable.values() if each.copy is not None)
        if taken + live.nbytes <= self._max_bytes:
            kept.copy = live.detach().clone()
        else:
            warnings.warn(
                f"supervisor: buffer {name!r} changes in the forward pass and is too large to keep a copy of "
                f"({live.nbytes:,} bytes); a skipped step cannot put it back",
                stacklevel=2,
            )


def _fit(copy: Tensor, live: Tensor) -> bool:
    return copy.shape == live.shape and copy.dtype == live.dtype


def _get_version(tensor: Tensor) -> int:
    """A number that most writes in place increase."""
    return -1 if tensor.is_inference() else tensor._version


def _list_buffers(model: nn.Module) -> list[tuple[str, nn.Module, dict[str, Any], str]]:
    """Every buffer with its full name, its module, the module's table of them, and its key there."""
    return [
        (f"{path}.{key}".lstrip("."), module, module._buffers, key)
        for path, module in model.named_modules()
        for key, buffer in module._buffers.items()
        if buffer is not None and not buffer.is_meta
    ]


def _find_parameters(model: nn.Module, names: Sequence[str]) -> list[tuple[str, nn.Module, dict[str, Any], str]]:
    """The parameters that are named, or are in modules that are, as `_list_buffers` lists buffers."""
    listed = [
        (f"{path}.{key}".lstrip("."), module, module._parameters, key)
        for path, module in model.named_modules()
        for key, parameter in module._parameters.items()
        if parameter is not None
    ]
    for name in names:
        if not any(each == name or each.startswith(f"{name}.") for each, *_ in listed):
            raise InputError(
                f"supervisor: self_updating names {name!r}, and the model has no parameter of that name or in a module "
                "of that name; buffers need not be named"
            )
    return [entry for entry in listed if any(entry[0] == name or entry[0].startswith(f"{name}.") for name in names)]
