"""The axis of a loss: logarithmic or not, and up to where, so that one spike does not hide the curve."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.journal import RunLog

FAR = 2.0
"""Decades above the usual losses beyond which the axis does not go; on an axis that is not logarithmic, how many times
their range."""

USUAL = 0.75
"""The share of the losses that are the usual ones; a run that spent a quarter of its time up there is drawn in full."""

NUM_FIRST = 10
"""Losses at the start of a run that are usual too, however far it has come down since."""

ROOM = 0.05
"""The share of the axis that is left free above and below."""

TICKS = [digit * 10.0**power for power in range(-12, 13) for digit in (1, 2, 5)]
"""Where a log axis has its numbers."""


@dataclass(frozen=True, slots=True)
class LossAxis:
    """What is drawn of the losses of some runs."""

    is_log: bool
    """True if it is logarithmic: not where losses pass below 0."""

    lowest: float
    """The lowest loss that is drawn."""

    limit: float
    """The highest loss that is drawn where it is; what is above is drawn at the upper edge."""

    num_above: int
    """How many losses are above."""

    highest: float
    """The highest of all."""

    @property
    def title(self) -> str:
        """What it shows, and what it does not."""
        name = "loss (log scale)" if self.is_log else "loss"
        losses = "loss lies" if self.num_above == 1 else "losses lie"
        return f"{name}; {self.num_above} {losses} above, up to {self.highest:.3g}" if self.num_above else name

    def hold(self, loss: float) -> float:
        """Where a loss is marked: at the upper edge if it is above."""
        return min(loss, self.limit)

    def describe(self) -> dict[str, Any]:
        """The axis as Plotly has it."""
        told: dict[str, Any] = {"title_text": self.title}
        edges = [self.lowest, self.limit]
        if self.is_log:
            ticks = [tick for tick in TICKS if edges[0] / 10 <= tick <= edges[1] * 10]
            told |= {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
            edges = [math.log10(each) for each in edges]
        if self.num_above:
            room = ROOM * max(edges[1] - edges[0], 1e-9)
            told["range"] = [edges[0] - room, edges[1] + room]
        return told


def choose_axis(runs: Mapping[str, RunLog]) -> LossAxis:
    """The axis on which the losses of some runs can be read."""
    each_run = [_list_losses(run) for run in runs.values()]
    losses = np.concatenate([*each_run, np.empty(0)])
    is_log = not len(losses) or bool((losses >= 0).all())
    if is_log:
        each_run, losses = [each[each > 0] for each in each_run], losses[losses > 0]
    if not len(losses):
        return LossAxis(True, 1.0, 1.0, 0, 1.0)
    usual = max(float(np.median(each[:NUM_FIRST])) for each in each_run if len(each))
    usual = max(usual, float(np.quantile(losses, USUAL)))
    lowest, highest = float(losses.min()), float(losses.max())
    limit = usual * 10**FAR if is_log else usual + FAR * (usual - lowest)
    if highest <= limit:
        return LossAxis(is_log, lowest, highest, 0, highest)
    limit = float(losses[losses <= limit].max())
    return LossAxis(is_log, lowest, limit, int((losses > limit).sum()), highest)


def _list_losses(run: RunLog) -> NDArray[np.float64]:
    """The finite training and validation losses of a run, in their order."""
    seen = [
        value
        for each in run.measurements
        for name in ("loss", "val_loss")
        if isinstance(value := each.values.get(name), float) and math.isfinite(value)
    ]
    return np.array(seen, dtype=np.float64)
