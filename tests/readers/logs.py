"""What the tests of the readers share: logs by their columns."""

from __future__ import annotations

import math
from pathlib import Path

from trimtab.readers import Log, read_log
from trimtab.types import Clock


def write(folder: Path, name: str, text: str | bytes) -> Path:
    """Write a file, and say where it is."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def column(log: Log, metric: str, clock: Clock = "step") -> dict[int, float]:
    """A metric by step."""
    found = {
        each.step: each.values[metric] for each in log.measurements if each.clock == clock and metric in each.values
    }
    assert all(isinstance(value, float) for value in found.values())
    return found  # type: ignore[return-value]  # as asserted


def read(folder: Path, name: str, text: str | bytes, mapping: dict[str, str] | None = None) -> Log:
    """Write a file and read it."""
    log = read_log(write(folder, name, text), mapping)
    order = [(each.step, each.clock == "review") for each in log.measurements]
    assert order == sorted(set(order)), "each step and review once, by rising step"
    return log


def is_same(left: dict[int, float], right: dict[int, float]) -> bool:
    """True if both have the same numbers at the same steps, NaN counting as the same as NaN."""
    return left.keys() == right.keys() and all(
        value == right[step] or (math.isnan(value) and math.isnan(right[step])) for step, value in left.items()
    )
