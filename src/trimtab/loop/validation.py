"""Validation: the loss of held-out data, measured such that the training goes on as if it had not been."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from trimtab.control.batches import count_samples
from trimtab.control.memory import choose_num_workers
from trimtab.control.workers import Workers
from trimtab.errors import InputError
from trimtab.loop.data import Indexed, count_batches, find_generators, gives_rows
from trimtab.loop.objective import Loss, Objective
from trimtab.probes.rerun import keep_training
from trimtab.state.rng import capture_rng, restore_rng

DEFAULT_BATCH_SIZE = 32
"""Samples of a validation batch where neither the validation data nor the training loader says."""


@torch.no_grad()
def validate(model: nn.Module, objective: Objective, loader: Iterable[Any], workers: Workers) -> dict[str, float]:
    """The mean loss over all samples as `val_loss`, and each of its parts as `val_` and its name.

    The model is in eval mode. Modes, buffers and random numbers are as before afterwards, those of the loader too.

    Args:
        model: the model.
        objective: gives the loss of a batch.
        loader: gives the batches.
        workers: told of the loader's workers.

    Raises:
        InputError: if there is no batch.
    """
    sums: dict[str, Tensor] = {}
    num_samples = 0
    with keep_training(model), _keep_generators(loader):
        model.eval()
        batches = iter(loader)
        workers.track(batches)
        for batch in batches:
            num_here = count_samples(batch) or 1
            loss = _compute(model, objective, batch)
            named = {"val_loss": loss.total, **{f"val_{name}": each for name, each in loss.parts.items()}}
            for name, each in named.items():
                weighted = each.double() * num_here if each.device.type != "mps" else each * num_here
                sums[name] = sums[name] + weighted if name in sums else weighted
            num_samples += num_here
        workers.release(batches)
    if not num_samples:
        raise InputError("fit: val_loader gave no batch; pass data, and a loader that can be iterated over again")
    return {name: float(each) / num_samples for name, each in sums.items()}


def make_loader(given: Any, train_loader: Any, device: torch.device) -> Iterable[Any]:
    """What gives the validation batches: a loader as it is, or one made for a data set.

    Args:
        given: a loader, any iterable of batches, or a `Dataset`.
        train_loader: whose batch size and collation the loader of a data set has.
        device: where the model is; it decides on the number of workers.
    """
    if not isinstance(given, Dataset) or count_batches(given) is None:
        return given  # type: ignore[no-any-return]
    size = getattr(train_loader, "batch_size", None) or DEFAULT_BATCH_SIZE
    collate = getattr(train_loader, "collate_fn", None)
    num_batches = -(-(count_batches(given) or 0) // size)
    return DataLoader(given, size, collate_fn=collate, num_workers=choose_num_workers(device, num_batches))


def take_probe(loader: Iterable[Any], *, tracks_rows: bool = False) -> Any:
    """The first batch of the validation data, for the supervisor; None of data that can be iterated over only once."""
    if isinstance(loader, Iterator):
        return None
    now = capture_rng()
    try:
        with _keep_generators(loader):
            torch.manual_seed(0)  # a loader that shuffles gives the same batch when the run goes on
            first = next(iter(loader), None)
            return Indexed.tag(first) if first is not None and tracks_rows and gives_rows(loader) else first
    finally:
        restore_rng(now)


def _compute(model: nn.Module, objective: Objective, batch: Any) -> Loss:
    """The loss of a batch, in smaller micro-batches if memory runs out."""

    def compute(size: int | None) -> Loss:
        return Loss.sum([objective.compute(model, *each) for each in objective.cut(batch, size)])

    return objective.micro_batch.fit(compute, rewind=lambda: None, count_samples=partial(count_samples, batch))


@contextmanager
def _keep_generators(loader: Any) -> Iterator[None]:
    """Set the loader's own generators back at the end of a `with` block, so that every pass has the same order."""
    kept = [(each, each.get_state()) for each in find_generators(loader)]
    try:
        yield
    finally:
        for generator, state in kept:
            generator.set_state(state)
