"""What reviews say of embeddings: their zone by spread, whether a run is warming up, and recall beside its ceiling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, nan, sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trimtab.history import History
from trimtab.types import Value

Numbers = NDArray[np.float64]

Zone = Literal["random", "healthy", "recovering", "warning", "emergency"]

STD, SPREAD, RANK, SIDES = "embedding_std", "embedding_r", "effective_rank", "one_sidedness"
"""The metrics of a review's embeddings: the standard deviation of a dimension, that times √d, how many directions they
take up, and how far they lie on one side of a plane."""

RECALL, CEILING, CHANCE = "recall_at_1", "recall_ceiling", "recall_chance"
"""The share of rows found by another view of them, what is possible, and what guessing gives; the first two also of a
kind of column, with its name before them."""

SCALAR = "scalar"
"""The kind of columns that hold plain numbers."""

DIVERSITY = "column_diversity_"
"""What the metric of a column begins with: 1 − the mean cosine between tokens of different values."""

AHEAD = 5
"""Reviews within which what is on its way has to arrive, at the pace of the newest one."""

RISES = 0.05
"""By how much a number has to be above what it was to have risen."""

CLEAR = 0.1
"""The share of the way from chance to the ceiling below which a recall is near chance."""

STRONG = 0.5
"""The share from which it is strong."""


@dataclass(frozen=True, slots=True)
class Zones:
    """Where a measure of spread is in which zone: the lower ends of the first four, in the metric's unit."""

    metric: str
    """What is measured."""

    random: float
    """From here on embeddings are as far apart as random ones: those of a well-trained contrastive model, too."""

    healthy: float
    """From here on they are well apart."""

    recovering: float
    """From here on there is no alarm."""

    warning: float
    """From here on it is a warning, below an emergency."""


RELATIVE = Zones(SPREAD, 0.88, 0.64, 0.56, 0.32)
"""The zones for any dimension."""

PUBLISHED_DIMENSIONS = 256
"""The dimension the published zones are for."""

PUBLISHED = Zones(STD, 0.055, 0.04, 0.035, 0.02)
"""The published zones; taken by the letter, they call a well-trained contrastive model random."""


def name_zone(metrics: Mapping[str, Value], zones: Zones = RELATIVE) -> Zone | None:
    """The zone of a review; None where it has no such measure.

    Embeddings as far apart as random ones are healthy where recall is far above chance; where no recall was measured,
    they are called random.

    Args:
        metrics: the metrics of the review.
        zones: the table.
    """
    value = metrics.get(zones.metric)
    if not isinstance(value, float):
        return None
    if value >= zones.random:
        return "healthy" if measure_share(metrics) >= CLEAR else "random"
    if value >= zones.healthy:
        return "healthy"
    if value >= zones.recovering:
        return "recovering"
    return "warning" if value >= zones.warning else "emergency"


def measure_share(metrics: Mapping[str, Value], kind: str = "") -> float:
    """How far a recall is on the way from chance to its ceiling; NaN where it was not measured.

    Args:
        metrics: the metrics of a review.
        kind: the kind of column; empty for whole rows.
    """
    prefix = f"{kind}_" if kind else ""
    numbers = [metrics.get(name) for name in (f"{prefix}{RECALL}", f"{prefix}{CEILING}", CHANCE)]
    recall, ceiling, chance = (each if isinstance(each, float) else nan for each in numbers)
    return (recall - chance) / (ceiling - chance) if ceiling > chance else nan


def list_kinds(metrics: Mapping[str, Value]) -> list[str]:
    """The kinds of columns that have a recall of their own."""
    return [name.removesuffix(f"_{RECALL}") for name in metrics if name.endswith(f"_{RECALL}")]


def read_finite(history: History, metric: str) -> Numbers:
    """The finite numbers of a metric at the reviews at hand, oldest first."""
    if not history.has(metric):
        return np.empty(0)
    values = np.asarray(history.column(metric), dtype=np.float64)
    finite: Numbers = values[np.isfinite(values)]
    return finite


def is_warming_up(values: Numbers, limit: float, reviews: int) -> bool:
    """True while a number that has never been above a limit may still get there by itself.

    That is at the first review, and as long as it rises fast enough, for so many reviews at most.

    Args:
        values: the numbers, the higher the better, the newest last.
        limit: from where on all is well.
        reviews: the most reviews it takes.
    """
    if len(values) > reviews or (values[:-1] >= limit).any():
        return False
    return len(values) < 2 or bool(values[-1] + AHEAD * (values[-1] - values[-2]) >= limit)


def has_risen(values: Numbers, limit: float) -> bool:
    """True if a number was above a limit once, or rose above what it had been."""
    lowest = np.minimum.accumulate(values)
    return bool((values[:-1] >= limit).any() or (values - lowest > RISES).any())


def read_spread(history: History, dimensions: int) -> tuple[str, Numbers, float]:
    """The measure of spread that zones are taken of, its numbers, and what a limit of `embedding_r` is in its unit.

    Args:
        history: the reviews.
        dimensions: 0 for `embedding_r`; else for `embedding_std`, with limits for so many dimensions.
    """
    metric = STD if dimensions else SPREAD
    return metric, read_finite(history, metric), 1 / sqrt(dimensions) if dimensions else 1.0


def is_newest(history: History, metric: str) -> bool:
    """True if the newest review has a finite number of a metric."""
    value = history.newest.values.get(metric)
    return isinstance(value, float) and isfinite(value)


def read_before(history: History) -> dict[str, float]:
    """What the newest review measured, as it was at the review before; empty without one."""
    if len(history) < 2:
        return {}
    return {name: float(history.column(name)[-2]) for name in history.newest.values}
