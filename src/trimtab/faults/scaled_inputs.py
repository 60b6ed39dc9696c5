"""Inputs that are multiplied by a number."""

from __future__ import annotations

from typing import Any

from trimtab.faults import Scene, fault
from trimtab.faults.batches import list_inputs, refuse_batch, replace_tensors


@fault(
    "scaled-inputs",
    "batch",
    strength=100.0,
    duration=10,
    signs=("cause: the batch", "cause: a long-tail batch"),
    needs="floats",
)
def scale_inputs(scene: Scene, batch: Any) -> Any:
    """The floating-point inputs of the batch are multiplied by the same number; the targets stay what they are.

    The last of several tensors in the batch is taken for the targets; a single tensor for inputs.

    As it happens:
        A shard in another unit, pixels from 0 to 255 in place of 0 to 1, a normalization that is left out.
    Strength:
        What the inputs are multiplied by; 100 by default.

    Raises:
        InputError: if there are no floating-point inputs in the batch.
    """
    inputs = [each for each in list_inputs(batch) if each.is_floating_point()]
    if not inputs:
        raise refuse_batch(scene, batch, "floating-point inputs")
    return replace_tensors(batch, inputs, lambda values: values * scene.strength)
