"""What the workers of a loader draw."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from trimtab.recipes.linting import Remark, Setup, check
from trimtab.state.rng import capture_rng, restore_rng

GENERATORS = (np.random.Generator, np.random.RandomState, random.Random, torch.Generator)
"""What random numbers come from that is not global."""

MOST_DEPTH = 4
"""How deep a data set's own attributes are looked through: a subset of a data set with a transform of transforms."""

NUM_WORKERS = 2
"""As many as it takes to see whether they draw alike."""


@check("workers-share-generator", severity="high")
def find_shared_generator(setup: Setup) -> Iterator[Remark]:
    """A data set with a generator of its own: each worker gets a copy, and all draw the same."""
    loader = setup.loader
    if getattr(loader, "num_workers", 0) < NUM_WORKERS or getattr(loader, "worker_init_fn", None) is not None:
        return
    found = find_generators(getattr(loader, "dataset", None), "dataset")
    if found:
        path, _ = found[0]
        yield Remark(
            loader.num_workers,
            f"{path} is a generator of random numbers, and each of {loader.num_workers} workers begins with a copy "
            "of it: they draw the same augmentations",
            "draw from torch's or NumPy's global generator, which is seeded by worker, or seed it in a worker_init_fn "
            "by torch.initial_seed()",
        )


def find_generators(value: Any, path: str, depth: int = 0) -> list[tuple[str, Any]]:
    """The generators of random numbers that an object holds, with their paths."""
    if isinstance(value, GENERATORS):
        return [(path, value)]
    if (
        depth > MOST_DEPTH
        or value is None
        or isinstance(value, (type, str, bytes, int, float, torch.Tensor, np.ndarray))
    ):
        return []
    if isinstance(value, (list, tuple)):
        held = {f"{path}[{index}]": each for index, each in enumerate(value[:100])}
    else:
        held = {f"{path}.{name}": each for name, each in getattr(value, "__dict__", {}).items()}
    return [found for name, each in held.items() for found in find_generators(each, name, depth + 1)]


@check("workers-share-seed", severity="high")
def find_shared_seed(setup: Setup) -> Iterator[Remark]:
    """A `worker_init_fn` that seeds all workers alike; it is seen in two workers that are started for it."""
    loader = setup.loader
    seed = getattr(loader, "worker_init_fn", None)
    if seed is None or getattr(loader, "num_workers", 0) < NUM_WORKERS:
        return
    drawn = draw_in_workers(loader)
    same = [name for name, *numbers in zip(("torch", "NumPy", "random"), *drawn, strict=True) if len(set(numbers)) == 1]
    if len(drawn) == NUM_WORKERS and same:
        yield Remark(
            loader.num_workers,
            f"worker_init_fn gives all {loader.num_workers} workers the same numbers of {' and '.join(same)}: they "
            "draw the same augmentations",
            "leave it out, or seed by torch.initial_seed(), which differs by worker",
        )


class Draws(Dataset[tuple[float, ...]]):
    """Random numbers in place of samples."""

    def __len__(self) -> int:
        return NUM_WORKERS

    def __getitem__(self, index: int) -> tuple[float, ...]:
        return (float(torch.rand(())), float(np.random.random()), random.random())  # noqa: NPY002  what user code draws


def draw_in_workers(loader: Any) -> list[tuple[float, ...]]:
    """What each of two workers draws first; nothing where they cannot be started so."""
    before = capture_rng()
    try:
        started = DataLoader(
            Draws(),
            batch_size=None,
            num_workers=NUM_WORKERS,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
        )
        return list(started)
    except Exception:  # it looks at the data set, which is another one here
        return []
    finally:
        restore_rng(before)
