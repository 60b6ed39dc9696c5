"""Inputs that are all the same."""

from __future__ import annotations

from typing import Any

import torch

from trimtab.faults import Scene, fault
from trimtab.faults.batches import is_integral, list_inputs, refuse_batch, replace_tensors


@fault(
    "constant-inputs",
    "batch",
    strength=0.0,
    duration=20,
    signs=("batch-repeat", "cause: the loader", "cause: the batch"),
)
def flatten_inputs(scene: Scene, batch: Any) -> Any:
    """All inputs of the batch become one and the same value; the targets stay what they are.

    The last of several tensors in the batch is taken for the targets; a single tensor for inputs.

    As it happens:
        A file that is there but empty, a decoder that answers an error with zeros, a buffer that is never filled.
    Strength:
        The value; 0 by default.

    Raises:
        InputError: if there is no tensor of numbers in the batch.
    """
    inputs = [each for each in list_inputs(batch) if each.is_floating_point() or is_integral(each)]
    if not inputs:
        raise refuse_batch(scene, batch, "tensor of numbers")
    return replace_tensors(batch, inputs, lambda values: torch.full_like(values, scene.strength))
