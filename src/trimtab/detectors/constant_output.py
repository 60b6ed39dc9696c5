"""A model that gives the same for every sample."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trimtab.detectors import detector
from trimtab.history import History
from trimtab.types import Breach

METRIC = "output_spread"


@detector("constant-output", severity="medium", needs=METRIC)
def find_constant_output(history: History, *, limit: float = 1e-5, samples: int = 3) -> Iterator[Breach]:
    """The outputs are the same for all samples of a batch.

    What it sees:
        Outputs that differ between the samples of a batch by less than `limit` of their size, at each of the newest
        `samples` sampled steps (2, 102, 202 and so on). It is said once, when it becomes so.
    Why it matters:
        The model ignores its input: dead or saturated units, an input that is always the same, or a collapse to the
        mean of the targets.
    Stays silent:
        On outputs of exactly 0, as of a layer that starts there; on batches of fewer than eight samples; on models
        that give no single tensor.
    Settings:
        limit: the differences that are remarked on, as a share of the outputs' size.
        samples: sampled steps in a row it takes.
    Default response:
        None; it is advisory. Look at the batch first, then at `dead-units` and `saturated-units`.
    """
    spread = history.newest.values.get(METRIC)
    if not isinstance(spread, float):
        return
    spreads = history.column(METRIC)
    above = np.flatnonzero(spreads[np.isfinite(spreads)] >= limit)
    num = int(np.isfinite(spreads).sum()) - (int(above[-1]) + 1 if len(above) else 0)
    if num == samples:
        message = f"the outputs differ by {spread:.3g} of their size between the samples of a batch"
        yield Breach(metric=METRIC, value=spread, limit=limit, message=message)
