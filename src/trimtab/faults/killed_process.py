"""A process that is killed."""

from __future__ import annotations

import os

from trimtab.faults import Scene, fault


@fault("killed-process", "gradients", strength=9, needs="process")
def kill_process(scene: Scene) -> None:
    """The process sends itself a signal after the backward pass; by default one that nothing can handle.

    As it happens:
        A machine that is taken back, a scheduler whose time is up, the kernel's answer to memory that ran out.
    Strength:
        The number of the signal; 9 by default, SIGKILL. 15 is SIGTERM, which asks.
    """
    os.kill(os.getpid(), int(scene.strength))
