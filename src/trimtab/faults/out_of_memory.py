"""Memory that runs out."""

from __future__ import annotations

from typing import Any

import torch

from trimtab.faults import Scene, fault


@fault("out-of-memory", "batch", strength=1, needs="process")
def run_out_of_memory(scene: Scene, batch: Any) -> Any:
    """`torch.OutOfMemoryError` is raised when the batch is asked for, as by an allocation that fails.

    As it happens:
        One long sequence among short ones, memory that is fragmented, another process on the same device.
    Strength:
        How often it is raised in a step; 1 by default, so that a second attempt at the same step goes through.

    Raises:
        OutOfMemoryError: this is what it does.
    """
    failed: list[int] = scene.memory.setdefault("failed at", [])
    if failed.count(scene.step) < scene.strength:
        failed.append(scene.step)
        raise torch.OutOfMemoryError(f"out of memory: the fault out-of-memory acts at step {scene.step}")
    return batch
