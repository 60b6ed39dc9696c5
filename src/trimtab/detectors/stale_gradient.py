"""Gradients that are never cleared."""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.detectors import detector
from trimtab.history import History
from trimtab.types import Breach

METRIC = "stale_gradients"


@detector("stale-gradient", severity="high", needs=METRIC)
def find_stale_gradient(history: History) -> Iterator[Breach]:
    """The gradients of the step before were still there when those of this step were added.

    What it sees:
        At a sampled step (2, 102, 202 and so on), every backward pass found numbers other than 0 in the gradients of
        some parameter: `optimizer.zero_grad()` was not called since the update before.
    Why it matters:
        Each update then follows the sum of all gradients so far. The training looks like one with far too much
        momentum: it swings, stalls, or diverges for no visible reason.
    Stays silent:
        Wherever the gradients are cleared between an update and the next backward pass, to None or to 0, before or
        after forward; on the later micro-batches of an accumulation; where no backward pass was seen.
    Settings:
        None.
    Default response:
        None; it is advisory. Call `optimizer.zero_grad()` once per step.
    """
    share = history.newest.values.get(METRIC)
    if isinstance(share, float) and share > 0:
        message = "the gradients of the step before were not cleared; call optimizer.zero_grad() once per step"
        yield Breach(metric=METRIC, value=share, limit=0.0, message=message)
