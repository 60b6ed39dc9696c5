"""A loader that gives the same batch for a while."""

from __future__ import annotations

from typing import Any

from trimtab.faults import Scene, fault
from trimtab.faults.stuck_loader import hold_batch


@fault("repeated-batch", "batch", strength=0.0, duration=30, signs=("batch-repeat", "cause: the loader"))
def repeat_batch(scene: Scene, batch: Any) -> Any:
    """The batch of one step comes again at each of the steps that follow, then the loader goes on.

    As it happens:
        A loader that was rewound, a shard of copies, a worker that answers a failed read with what it read before.
    Strength:
        Without meaning.
    """
    return hold_batch(scene, batch)
