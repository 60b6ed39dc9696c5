"""Targets that belong to other inputs."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from trimtab.faults import Scene, fault
from trimtab.faults.batches import is_integral, list_tensors, refuse_batch, replace_tensors


@fault("shuffled-labels", "batch", strength=1.0, duration=20, signs=("cause: the batch",))
def shuffle_labels(scene: Scene, batch: Any) -> Any:
    """The targets of the batch change places among its samples, each to another one.

    The last of several tensors in the batch is taken for the targets, its first dimension for the samples. In a single
    tensor of integers, such as windows of tokens that are inputs and targets at once, the order within each window is
    shuffled instead, along the last dimension.

    As it happens:
        Labels sorted by another column than the inputs, an index that is off by one, two loaders that fell out of step.
    Strength:
        The share of the samples whose targets are shuffled, from 0 to 1; 1 by default.

    Raises:
        InputError: if the batch has no targets with at least two places to change.
    """
    tensors = list_tensors(batch)
    shuffle = _shuffle_windows if len(tensors) == 1 else _shuffle_rows
    labels = tensors[-1:]
    if not labels or labels[0].ndim == 0 or (len(tensors) == 1 and not is_integral(labels[0])):
        raise refuse_batch(scene, batch, "targets")
    return replace_tensors(batch, labels, partial(shuffle, scene))


def _shuffle_rows(scene: Scene, labels: Tensor) -> Tensor:
    """The rows in a random circle, of which each takes the next one's place: none keeps its own."""
    circle = torch.randperm(len(labels), generator=scene.generator)[: round(scene.strength * len(labels))]
    order = torch.arange(len(labels))
    order[circle] = circle.roll(1)
    return labels[order.to(labels.device)]


def _shuffle_windows(scene: Scene, windows: Tensor) -> Tensor:
    places = torch.rand(windows.shape, generator=scene.generator).argsort(-1)
    is_left = torch.rand((*windows.shape[:-1], 1), generator=scene.generator) >= scene.strength
    places = torch.where(is_left, torch.arange(windows.shape[-1]), places)
    return windows.gather(-1, places.to(windows.device))
