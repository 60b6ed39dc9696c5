"""The gradient health of every group: where its norm lies against its own level."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from trimtab.history import Column, History

DECAY = 0.9
"""Weight of the past in the exponential moving average: about ten steps."""

TOTAL_BANDS = ((0.5, "low"), (5.0, "healthy"), (10.0, "high"))
"""Upper ends of the bands of the total norm, advisory; above them it is critical. Widely used rules of thumb for
networks with normalization; other networks are healthy elsewhere, which is why nothing acts on them."""

GROUP_BANDS = ((0.1, "low"), (5.0, "healthy"), (10.0, "high"))
"""The same for a group, as multiples of its own level, the median of its samples."""

WINDOW = 100
"""Samples that a level rests on."""


@dataclass(frozen=True, slots=True)
class GroupHealth:
    """How one group's gradients are."""

    group: str
    """The name of the group; `(total)` for all together."""

    norm: float
    """The newest gradient norm, before clipping."""

    average: float
    """The exponential moving average of its finite norms; NaN without one."""

    level: float
    """The median of its newest samples; NaN without one."""

    band: str
    """One of low, healthy, high, critical and exploded; empty where there is no gradient to judge."""


@dataclass(frozen=True, slots=True)
class Health:
    """The gradient health of a run, the total first."""

    step: int
    """The step it was taken at."""

    groups: tuple[GroupHealth, ...]
    """The total, then the groups in their order."""

    def __str__(self) -> str:
        """The table, by name."""
        width = max(len(each.group) for each in self.groups)
        head = f"{'group':{width}} {'norm':>10} {'average':>10} {'level':>10}  band"
        lines = (
            f"{each.group:{width}} {each.norm:10.3g} {each.average:10.3g} {each.level:10.3g}  {each.band}"
            for each in self.groups
        )
        return "\n".join([f"gradient health at step {self.step}", head, *lines])


def assess_health(history: History) -> Health:
    """The gradient health at the newest row of a history, live or read from a run folder."""
    values = history.newest.values
    total, by_group = values.get("grad_norm", math.nan), values.get("group_grad_norm", ())
    assert isinstance(total, float)
    rows = history.column("grad_norm") if "grad_norm" in values else np.empty(0)
    level = _median(history.samples("grad_norm", WINDOW))
    band = name_band(total, 1.0, TOTAL_BANDS) if "grad_norm" in values else ""
    health = [GroupHealth("(total)", total, average(rows), level, band)]
    if isinstance(by_group, tuple) and by_group:
        columns, samples = history.column("group_grad_norm"), history.samples("group_grad_norm", WINDOW)
        for index, (group, norm) in enumerate(zip(history.groups, by_group, strict=True)):
            level = _median(samples[:, index]) if len(samples) else math.nan
            band = name_band(norm, level, GROUP_BANDS)
            health.append(GroupHealth(group, norm, average(columns[:, index]), level, band))
    return Health(history.newest.step, tuple(health))


def average(norms: Column) -> float:
    """The exponential moving average of the finite ones among norms, oldest first; NaN if there are none."""
    finite = norms[np.isfinite(norms)]
    if not len(finite):
        return math.nan
    weights = DECAY ** np.arange(len(finite) - 1, -1, -1)
    return float(np.sum(weights * finite) / np.sum(weights))


def name_band(norm: float, level: float, bands: tuple[tuple[float, str], ...]) -> str:
    """The band of a norm, as a multiple of a level."""
    if not math.isfinite(norm):
        return "exploded"
    if not level > 0:
        return ""
    return next((name for end, name in bands if norm < end * level), "critical")


def _median(samples: Column) -> float:
    return float(np.median(samples)) if len(samples) else math.nan
