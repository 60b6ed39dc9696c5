"""A loss scale that falls and grows in turns."""

from __future__ import annotations

from collections.abc import Iterator
from math import nan

import numpy as np

from trimtab.detectors import detector
from trimtab.history import History
from trimtab.types import Breach

METRIC = "loss_scale"


@detector("loss-scale-oscillating", severity="low", needs=METRIC)
def find_oscillating_loss_scale(history: History, *, turns: int = 6, window: int = 200) -> Iterator[Breach]:
    """The loss scale keeps falling and growing in turns.

    What it sees:
        More than `turns` turns from falling to growing or back within the newest `window` steps, at a step at which
        the scale has changed.
    Why it matters:
        Each fall is a lost update. A scale that grows again within a few steps finds the same limit again.
    Stays silent:
        On a scale that falls at the start, on one that rests, and on one that grows and overflows once per growth
        interval: PyTorch's 2000 steps and Trimtab's 200 leave at most 2 turns in 200 steps.
    Settings:
        turns: how many turns are not remarked on.
        window: the steps in which they are counted.
    Default response:
        None: it is recorded only. Let the scaler grow less often: a larger `growth_interval`.
    """
    scale = history.newest.values.get(METRIC)
    if not isinstance(scale, float):
        return
    scales = history.column(METRIC)[-window:]
    if len(scales) < 2 or scales[-2] == scale:
        return
    seen = scales[np.isfinite(scales)]
    moves = np.diff(seen)
    is_growing = moves[moves != 0] > 0
    num_turns = int(np.count_nonzero(is_growing[1:] != is_growing[:-1]))
    if num_turns > turns:
        message = (
            f"loss_scale turned {num_turns} times in {len(scales)} steps, between {seen.min():.4g} and "
            f"{seen.max():.4g}: raise the scaler's growth_interval"
        )
        yield Breach(metric=METRIC, value=scale, limit=nan, message=message)
