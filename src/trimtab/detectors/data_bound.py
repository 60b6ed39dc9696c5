"""A run that waits for its data."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trimtab.detectors import detector
from trimtab.detectors.pace import LEAST_WAITING, WINDOW
from trimtab.history import Column, History
from trimtab.types import Breach

METRIC, SECONDS = "data_seconds", "step_seconds"

EVERY, AT = 100, 2
"""Judged at the sampled steps 102, 202 and so on."""


@detector("data-bound", severity="low", needs=METRIC)
def find_data_bound(history: History, *, share: float = 0.4, seconds: float = LEAST_WAITING) -> Iterator[Breach]:
    """The run waits for its data for much of each step.

    What it sees:
        At every hundredth step, of the newest 64: a median time of waiting for the loader above `share` of the median
        step, and above `seconds`. It is said when it becomes so. `fit` measures it; a loop of your own says it by
        `supervisor.declare_waiting`.
    Why it matters:
        The device is paid for and idle. More workers are all it usually takes.
    Stays silent:
        On steps so short that the waiting is not worth a word, and where single batches are slow to come. Where it is
        not said how long the loop waits.
    Settings:
        share: the share of a step that is not remarked on.
        seconds: the waiting that is not remarked on, whatever its share.
    Default response:
        None; it is advisory. `DataLoader(…, num_workers=8, pin_memory=True, persistent_workers=True)`; decode and
        resize ahead of time.
    """
    if history.newest.step % EVERY != AT or SECONDS not in history.newest.values:
        return
    waited, took = history.column(METRIC), history.column(SECONDS)
    found = _judge(waited, took, share, seconds)
    if found is None or _judge(waited[:-EVERY], took[:-EVERY], share, seconds) is not None:
        return
    now, step = found
    message = f"{now / step:.0%} of a step of {step:.3g} s is waiting for data"
    yield Breach(metric=METRIC, value=now, limit=max(share * step, seconds), message=message)


def _judge(waited: Column, took: Column, share: float, seconds: float) -> tuple[float, float] | None:
    """The usual waiting and the usual step, if that is too much of it; else None."""
    rows = np.flatnonzero(np.isfinite(waited) & np.isfinite(took))[-WINDOW:]
    if len(rows) < WINDOW:
        return None
    now, step = float(np.median(waited[rows])), float(np.median(took[rows]))
    return (now, step) if now > max(share * step, seconds) else None
