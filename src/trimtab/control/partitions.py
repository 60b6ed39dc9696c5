"""Partitions: training data divided into parts, so that a run that has stalled can go on with fresh data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler, Subset

from trimtab.errors import InputError

SEED = 0
"""What parts are drawn from: a run that goes on has the same ones."""


def divide_rows(num_rows: int, num_parts: int) -> list[list[int]]:
    """Row numbers in parts that share none, drawn at random and ordered within each; their sizes differ by at most 1.

    Args:
        num_rows: how many rows there are.
        num_parts: how many parts.
    """
    drawn = torch.randperm(num_rows, generator=torch.Generator().manual_seed(SEED)).tolist()
    return [sorted(drawn[part::num_parts]) for part in range(num_parts)]


def list_loaders(loader: Iterable[Any], partitions: int | Sequence[Iterable[Any]] | None) -> list[Iterable[Any]]:
    """The loaders of all partitions; of a run without any, the loader as it is.

    Args:
        loader: the training loader.
        partitions: in how many parts its data are divided, or what gives the further parts.

    Raises:
        InputError: if that cannot be done.
    """
    if partitions is None or partitions == 1:
        return [loader]
    if isinstance(partitions, Sequence) and not isinstance(partitions, str):
        others = list(partitions)
        if not all(isinstance(each, Iterable) for each in others):
            raise InputError("fit: partitions has to be a number, or a list of loaders to go to after train_loader")
        return [loader, *others]
    if not isinstance(partitions, int) or isinstance(partitions, bool) or partitions < 1:
        raise InputError(
            f"fit: partitions is {partitions!r}; it has to be a whole number above 0, or a list of loaders"
        )
    return list(divide_loader(loader, partitions))


def divide_loader(loader: Iterable[Any], num_parts: int) -> list[DataLoader[Any]]:
    """A `DataLoader` over each part of another one's data, which is in all else like it.

    Args:
        loader: a `DataLoader` that shuffles or goes in order.
        num_parts: how many parts.

    Raises:
        InputError: if it is none.
    """
    samplers = (RandomSampler, SequentialSampler)
    if (
        not isinstance(loader, DataLoader)
        or isinstance(loader.dataset, IterableDataset)
        or type(loader.sampler) not in samplers
        or loader.batch_size is None
        or getattr(loader.sampler, "replacement", False)
        or len(loader.sampler) != len(loader.dataset)  # type: ignore[arg-type]
    ):
        raise InputError(
            "fit: partitions=n needs a DataLoader that shuffles or goes in order, whose data can be divided; for "
            "another one pass a list of loaders, which the run goes to one after the other"
        )
    num_rows = len(loader.dataset)  # type: ignore[arg-type]
    if num_rows < num_parts:
        raise InputError(f"fit: {num_rows} samples cannot be divided into {num_parts} partitions; take fewer")
    return [_narrow(loader, rows) for rows in divide_rows(num_rows, num_parts)]


def _narrow(loader: DataLoader[Any], rows: Sequence[int]) -> DataLoader[Any]:
    """The same loader over some rows of its data."""
    shuffles = isinstance(loader.sampler, RandomSampler)
    return DataLoader(
        Subset(loader.dataset, rows),
        loader.batch_size,
        shuffle=shuffles,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        drop_last=loader.drop_last,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor,
        persistent_workers=loader.persistent_workers,
    )
