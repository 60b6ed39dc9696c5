"""A worker whose memory grows."""

from __future__ import annotations

import subprocess
import sys

from trimtab.faults import Scene, fault

WORKER = """
import sys
held = []
while sys.stdin.buffer.read(1):
    held.append(b"x" * int(sys.argv[1]))
"""
"""What the worker runs: it takes memory for every byte it is sent, and ends with its parent at the latest."""


@fault("leaking-worker", "start", strength=8.0, duration=10, needs="workers")
def leak_memory(scene: Scene) -> None:
    """A child process lives beside the training and holds more memory with every step; it is killed afterwards.

    As it happens:
        A data set that keeps what it reads in a list, loaders that are made anew each epoch and never closed.
    Strength:
        By how many MiB the worker grows in a step; 8 by default.
    """
    if "worker" not in scene.memory:
        command = [sys.executable, "-I", "-S", "-c", WORKER, str(int(scene.strength * 2**20))]
        worker = subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0)
        scene.memory["worker"] = worker
        scene.undo_after.callback(_end, worker)
    worker = scene.memory["worker"]
    assert worker.stdin is not None
    worker.stdin.write(b"x")


def _end(worker: subprocess.Popen[bytes]) -> None:
    assert worker.stdin is not None
    worker.kill()
    worker.wait()
    worker.stdin.close()
