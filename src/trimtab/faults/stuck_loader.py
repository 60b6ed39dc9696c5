"""A loader that gives the same batch for good."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from trimtab.faults import FOREVER, Scene, fault
from trimtab.faults.batches import list_tensors, replace_tensors


@fault("stuck-loader", "batch", strength=0.0, duration=FOREVER, signs=("batch-repeat", "cause: the loader"))
def stick_loader(scene: Scene, batch: Any) -> Any:
    """The loader gives the batch of one step again at each step that follows, and never another one.

    As it happens:
        An iterator that is made anew in each step, workers that all draw from the same seed, a cache with one key.
    Strength:
        Without meaning.
    """
    return hold_batch(scene, batch)


def hold_batch(scene: Scene, batch: Any) -> Any:
    """The first batch of the fault's duration; a copy, since a loop may fill the same tensors anew."""
    if "batch" not in scene.memory:
        scene.memory["batch"] = replace_tensors(batch, list_tensors(batch), Tensor.clone)
    return scene.memory["batch"]
