"""The quality score of a run at a review: from 0 to 100 points, for embeddings, gradients and ranking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, log, nan

import numpy as np
from numpy.typing import NDArray

from trimtab.history import History
from trimtab.types import Value

EMBEDDINGS, GRADIENTS, RANKING = 40.0, 30.0, 30.0
"""The points of each part, where all three are measured."""

RADIUS, RANK = "embedding_r", "effective_rank"
"""How far embeddings are apart, std/dim · √d, and how many directions they fill."""

NO_RADIUS, FULL_RADIUS = 0.32, 0.64
"""The radius up to which embeddings have no points, and from which they have all: the ends of the published zones
emergency and healthy. There is no upper end: a trained contrastive model is at 0.99."""

NO_RANK, FULL_RANK = 1 / 3, 2 / 3
"""The same of the effective rank, as a share of the run's best; below a third of it dimensions have collapsed."""

RECALL, CEILING, CHANCE = "recall_at_1", "recall_ceiling", "recall_chance"
"""The share of rows whose own partner is the first of the ranking; the most it can be, and what chance gives."""

RANKINGS = (RECALL, "ndcg", "mrr", "map", "val_accuracy", "accuracy")
"""What ranking is told by, the first that is measured: all from 0 to 1. An accuracy is the share of rows whose class
is the first of the ranking of classes."""

NO_NORM, FULL_NORM = 1e-6, 1e-4
"""The gradient norm up to which a network is dead, and from which it learns, of a loss of 1 or more: those of
`dead-network` and `slow-learning`. In between the points go by its logarithm."""

LEAST_LOSS = 1e-12
"""A loss smaller than this is as small as this."""

REACHED = 1e-4
"""The share of the largest group's gradient norm that a group has to have to be reached, as of `depth-gradient`."""


@dataclass(frozen=True, slots=True)
class Quality:
    """The points of a run at a review; a part that nothing was measured for is None, and counts on neither side."""

    embeddings: float | None = None
    """Of 40: how far apart embeddings are, and in how many directions."""

    gradients: float | None = None
    """Of 30: how many steps were sound, and whether gradients are alive and reach every group."""

    ranking: float | None = None
    """Of 30: how far Recall@1, or what stands for it, is from chance to its ceiling."""

    @property
    def possible(self) -> float:
        """The points that could be reached with what was measured; 100 where all of it was."""
        parts = ((self.embeddings, EMBEDDINGS), (self.gradients, GRADIENTS), (self.ranking, RANKING))
        return sum(most for points, most in parts if points is not None)

    @property
    def score(self) -> float:
        """The points reached as a share of the possible ones, from 0 to 100; NaN where nothing was measured."""
        if not self.possible:
            return nan
        return 100 * sum(filter(None, (self.embeddings, self.gradients, self.ranking))) / self.possible

    def to_metrics(self) -> dict[str, float]:
        """What a review records: `quality_score`, `quality_possible` and the points of each part that was measured."""
        parts = {
            "quality_embeddings": self.embeddings,
            "quality_gradients": self.gradients,
            "quality_ranking": self.ranking,
        }
        known = {name: points for name, points in parts.items() if points is not None}
        return {"quality_score": self.score, "quality_possible": self.possible, **known} if known else {}


def rate_quality(steps: History, reviews: History, newest: Mapping[str, Value]) -> Quality:
    """The points of a run at a review that is about to be recorded.

    Args:
        steps: the measurements of steps; those since the newest review count.
        reviews: the reviews before.
        newest: the metrics of the review.
    """
    numbers = {name: value for name, value in newest.items() if isinstance(value, float)}
    embeddings = _rate_embeddings(reviews, numbers)
    gradients = _rate_gradients(steps, reviews.newest.step, numbers.get("train_loss", 1.0))
    ranking = _rate_ranking(numbers)
    return Quality(
        None if embeddings is None else EMBEDDINGS * embeddings,
        None if gradients is None else GRADIENTS * gradients,
        None if ranking is None else RANKING * ranking,
    )


def _rate_embeddings(reviews: History, numbers: Mapping[str, float]) -> float | None:
    """The worse of both shares, since a collapse in either is one; None where neither is measured."""
    shares = []
    if RADIUS in numbers:
        shares.append(_place(numbers[RADIUS], NO_RADIUS, FULL_RADIUS))
    if RANK in numbers:
        rank = numbers[RANK]
        known = reviews.column(RANK) if reviews.has(RANK) else np.empty(0)
        best = max([rank, *known[np.isfinite(known)].tolist()]) if isfinite(rank) else nan
        shares.append(_place(rank / best if best > 0 else 0.0, NO_RANK, FULL_RANK))
    return min(shares, default=None)


def _rate_gradients(steps: History, since: int, loss: float) -> float | None:
    """Sound steps × living gradients × reached groups, each from 0 to 1; None without a gradient norm."""
    if not steps.has("grad_norm"):
        return None
    rows = np.flatnonzero(steps.steps > since)
    norms = np.asarray(steps.column("grad_norm")[rows], dtype=np.float64)
    if not len(norms):
        return None
    is_sound = steps.was_accepted[rows] & np.isfinite(norms)
    level = float(np.median(np.where(is_sound, norms, 0.0)))
    scale = min(max(abs(loss), LEAST_LOSS), 1.0) if isfinite(loss) else 1.0
    alive = _place(log(level), log(NO_NORM * scale), log(FULL_NORM * scale)) if level > 0 else 0.0
    return float(is_sound.mean()) * alive * _find_reach(steps, rows[is_sound])


def _find_reach(steps: History, rows: NDArray[np.int64]) -> float:
    """The share of the groups with weights that get a gradient, held against that of the largest; 1 if not known."""
    if not (steps.has("group_grad_norm") and steps.has("weight_norm") and len(rows)):
        return 1.0
    columns = (steps.column(name)[rows] for name in ("group_grad_norm", "weight_norm"))
    norms, weights = (np.asarray(each, dtype=np.float64) for each in columns)
    known = np.flatnonzero(np.isfinite(norms).all(axis=1) & np.isfinite(weights).all(axis=1))
    if not len(known):
        return 1.0
    levels, has_weights = np.median(norms[known], axis=0), weights[known].max(axis=0) > 0
    largest = float(levels.max(initial=0.0))
    if not has_weights.any() or not largest > 0:
        return 1.0
    return float((levels[has_weights] > REACHED * largest).mean())


def _rate_ranking(numbers: Mapping[str, float]) -> float | None:
    """How far the first ranking that is measured is from chance to its ceiling; None where none is."""
    name = next((each for each in RANKINGS if each in numbers), None)
    if name is None:
        return None
    ceiling, chance = (numbers.get(CEILING, 1.0), numbers.get(CHANCE, 0.0)) if name == RECALL else (1.0, 0.0)
    return _place(numbers[name], chance, ceiling)


def _place(value: float, low: float, high: float) -> float:
    """Where a value lies from `low`, which is 0, to `high`, which is 1; 0 for what is not finite, or has no room."""
    if not (isfinite(value) and isfinite(low) and isfinite(high)):
        return 0.0
    return min(max((value - low) / (high - low), 0.0), 1.0) if high > low else float(value >= high)
