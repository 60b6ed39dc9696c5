"""Training and evaluation loss side by side, and whether the evaluation rises."""

from __future__ import annotations

import numpy as np

from trimtab.detectors.reviewing import LEAST_REVIEWS, Pairs, make_pairs
from trimtab.diagnosis.evidence import Evidence

LOSSES = ("val_loss", "eval_loss", "validation_loss", "valid_loss", "test_loss")
"""What the loss of an evaluation is called."""

LEAST_RISING, SCATTERS = 6, 6.0
"""Reviews after the best that a slow rise is told from, and how many times their scatter about a line it has to be: of
flat reviews with white noise fewer than one in a thousand looks so, of strongly correlated ones one in a hundred."""


def read_pairs(evidence: Evidence) -> Pairs | None:
    """Training and evaluation side by side; None where there are too few reviews."""
    reviewed = evidence.review(*LOSSES).finite
    losses = evidence.loss
    if len(reviewed) < LEAST_REVIEWS or not len(losses) or evidence.is_adversarial:
        return None
    edges = np.searchsorted(losses.steps, reviewed.steps, side="right")
    begins = np.concatenate(([0], edges[:-1]))
    recent = np.maximum(begins, edges - np.maximum((edges - begins) // 3, 1))
    has_any = edges > recent
    train = np.array(
        [np.median(losses.values[a:b]) if there else np.nan for a, b, there in zip(recent, edges, has_any, strict=True)]
    )
    kept = np.isfinite(train)
    if kept.sum() < LEAST_REVIEWS:
        return None
    values = reviewed.values[kept]
    return make_pairs(reviewed.steps[kept], train[kept], values)


def measure_slow_rise(pairs: Pairs) -> float:
    """How far the evaluation has risen along a straight line since its best; 0 where that is within its scatter."""
    after = pairs.evaluated[pairs.best + 1 :]
    if len(after) < LEAST_RISING:
        return 0.0
    places = np.arange(len(after))
    slope, level = np.polyfit(places, after, 1)
    scatter = float(np.sqrt(np.sum((after - slope * places - level) ** 2) / (len(after) - 2)))
    rise = float(slope) * (len(after) - 1)
    return rise if rise > SCATTERS * max(pairs.noise, scatter) else 0.0
