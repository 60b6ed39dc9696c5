"""Parameters that never get a gradient."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trimtab.detectors import detector
from trimtab.history import History
from trimtab.types import Breach

METRIC = "missing_gradients"


@detector("missing-gradient", severity="medium", needs=METRIC)
def find_missing_gradient(history: History, *, samples: int = 2) -> Iterator[Breach]:
    """Some parameters have had no gradient at any sampled step since the run began.

    What it sees:
        Groups in which parameters that require a gradient had none at every sampled step so far, of which there are
        at least `samples`. Steps are sampled at 2, 102, 202 and so on, so with 2 it is found at step 102.
    Why it matters:
        What gets no gradient is never trained: a layer that forward does not call, a detached branch, a head left out
        of the loss. The loss still falls, only not as far.
    Stays silent:
        On groups that had all their gradients at one sampled step: they were frozen later, by hand or by a policy, or
        are used now and then. Once the first steps have left the history, since then it cannot tell. It does speak of
        experts that every sampled batch left out; where that is
        usual, raise `samples`.
    Settings:
        samples: sampled steps it takes. One is not enough, since a layer may come in a little later.
    Default response:
        None; it is advisory. Look whether the named groups are called in forward and reach the loss.
    """
    if METRIC not in history.newest.values or len(history) >= history.capacity:
        return
    counts = history.measured(METRIC, history.capacity)
    if len(counts) < samples:
        return
    missing = np.flatnonzero((counts > 0).all(axis=0))
    if len(missing):
        groups = tuple(history.groups[index] for index in missing)
        num = float(counts[-1, missing].sum())
        message = f"{num:.4g} parameters in {', '.join(groups)} have had no gradient at {len(counts)} sampled steps"
        yield Breach(metric=METRIC, value=num, limit=0.0, message=message, groups=groups)
