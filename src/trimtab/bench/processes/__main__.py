"""One process of a run: `python -m trimtab.bench.processes TASK`, started by `run_process_case`."""

from __future__ import annotations

import gc
import os
import sys
import threading


def main(text: str) -> int:
    """Do a task; returns the exit status.

    What takes long to import is imported here: the process listens for its parent's end before, and collects garbage
    only after, which saves a quarter of the start.
    """
    gc.disable()
    threading.Thread(target=end_with_parent, daemon=True).start()
    from trimtab.bench.processes.loops import perform
    from trimtab.bench.processes.parts import Parts, parse_task

    task = parse_task(text)
    parts = Parts(task)
    gc.enable()
    return 0 if perform(task, parts) else 1


def end_with_parent() -> None:
    """End this process when whoever has started it ends, and with that its standard input."""
    os.read(sys.stdin.fileno(), 1)  # not through its buffer, whose lock would be held when Python ends
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
