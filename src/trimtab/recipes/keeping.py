"""A training left as it was found: model, optimizer, whatever else it has, its loader and the random numbers."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trimtab.loop.data import find_generators
from trimtab.probes.rerun import keep_training
from trimtab.recipes.linting.workers import find_generators as find_held
from trimtab.state.buffers import MAX_BYTES, BufferCopies
from trimtab.state.live import LiveState, Partner, Snapshot


@contextmanager
def keep_run(model: nn.Module, optimizer: Optimizer, partners: Sequence[Partner] = ()) -> Iterator[None]:
    """Train within a `with` block, and find everything at its end bit for bit as it was at its beginning.

    That is parameters, buffers, gradients, training flags, the optimizer's state and options, the partners, and the
    random numbers. Parameters that the optimizer does not hold are copied up to `MAX_BYTES`, the smallest first: of a
    large frozen base nothing but the forward pass itself could change a number.

    Args:
        model: the model.
        optimizer: its optimizer.
        partners: what else is set back, such as a scheduler and a scaler.
    """
    snapshot = Snapshot(is_first=True)
    live = LiveState(optimizer, BufferCopies(model, max_bytes=sys.maxsize), partners)
    live.copy_into(snapshot)
    live.complete(snapshot)
    others = _copy_others(model, optimizer)
    attributes = dict(vars(optimizer))
    gradients = [(each, each.grad) for group in optimizer.param_groups for each in group["params"]]
    for parameter, _ in gradients:
        parameter.grad = None  # those at hand are not added to, and stay as they are
    try:
        with keep_training(model):
            yield
    finally:
        vars(optimizer).clear()
        vars(optimizer).update(attributes)  # its state too, which load_state_dict puts another in place of
        live.restore(snapshot, _raise)
        with torch.no_grad():
            for parameter, value in others:
                parameter.copy_(value)
        for parameter, gradient in gradients:
            parameter.grad = gradient


def _copy_others(model: nn.Module, optimizer: Optimizer) -> list[tuple[nn.Parameter, Tensor]]:
    """The parameters that the optimizer does not hold, each with a copy, as far as there is room."""
    held = {id(each) for group in optimizer.param_groups for each in group["params"]}
    room, copies = MAX_BYTES, []
    for each in sorted(model.parameters(), key=lambda parameter: parameter.nbytes):
        if id(each) not in held and each.nbytes <= room:
            room -= each.nbytes
            copies.append((each, each.detach().clone()))
    return copies


@contextmanager
def keep_loader(loader: Any) -> Iterator[None]:
    """Take batches within a `with` block, and find the loader at its end where it was at its beginning.

    That is its own generators and those that its data set and samplers hold, what it can save itself, and workers.

    Args:
        loader: what gives the batches.
    """
    saved = loader.state_dict() if can_save(loader) else None
    held = [*find_generators(loader), *(each for _, each in find_held(loader, "loader"))]
    put_back = [_keep_generator(each) for each in held]
    workers = getattr(loader, "_iterator", None)
    try:
        yield
    finally:
        for restore in put_back:
            restore()
        if saved is not None:
            loader.load_state_dict(saved)
        if workers is None and getattr(loader, "_iterator", None) is not None:
            loader._iterator = None  # workers that were to be kept for the next epoch


def can_save(loader: Any) -> bool:
    """True if a loader knows its place itself."""
    return hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")


def _keep_generator(generator: Any) -> Callable[[], Any]:
    """What sets a generator back to the state it is in."""
    if isinstance(generator, np.random.Generator):
        numbers, kept = generator.bit_generator, generator.bit_generator.state
        return lambda: setattr(numbers, "state", kept)
    if isinstance(generator, random.Random):
        state = generator.getstate()
        return lambda: generator.setstate(state)
    found = generator.get_state()
    if isinstance(generator, torch.Generator):
        found = found.clone()
    return lambda: generator.set_state(found)


def _raise(error: Exception) -> None:
    raise error
