"""A batch that was there a moment ago."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trimtab.detectors import detector
from trimtab.history import Column, History
from trimtab.types import Breach

METRIC = "batch_fingerprint"

REPEATED = 2
"""Where every batch of the window came this often, the data is that small."""


@detector("batch-repeat", severity="medium", needs=METRIC)
def find_batch_repeat(history: History, *, window: int = 50, times: int = 3) -> Iterator[Breach]:
    """The loader gives the same batch again and again.

    What it sees:
        A batch whose fingerprint is that of `times` of the newest `window` batches. `check` has to be given the batch.
    Why it matters:
        A loader or sampler that repeats itself, for want of a new seed or after a rewind, trains on a few batches
        alone. The loss falls nicely, on those.
    Stays silent:
        Where the data is so small that the same batches come in every epoch: as long as all batches of the window
        come equally often, which is training on the whole data, or on one batch on purpose.
    Settings:
        window: batches that are looked at.
        times: how often the batch was there before.
    Default response:
        None; it is advisory.
    """
    fingerprint = history.newest.values[METRIC]
    recent = history.column(METRIC)[:-1][-window:]
    recent = recent[np.isfinite(recent)]
    before = int((recent == fingerprint).sum())
    if before < times:
        return
    if is_all_there_is(recent):
        return
    message = f"the batch of this step was there {before} times in the last {len(recent)} steps"
    yield Breach(metric=METRIC, value=float(before), limit=float(times), message=message)


def is_all_there_is(fingerprints: Column) -> bool:
    """True if a few batches come equally often, again and again: the data has no others."""
    _, counts = np.unique(fingerprints, return_counts=True)
    return bool(counts.size and counts.min() >= REPEATED and counts.max() - counts.min() <= 1)
