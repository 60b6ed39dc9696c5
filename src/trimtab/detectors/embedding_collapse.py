"""Embeddings that are nearly all the same."""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.detectors import detector
from trimtab.detectors.representing import (
    RELATIVE,
    SPREAD,
    Numbers,
    has_risen,
    is_newest,
    is_warming_up,
    read_spread,
)
from trimtab.history import History
from trimtab.types import Breach

HALF = 0.5
"""The share of what it began with below which a spread that never rose has collapsed too."""


@detector("embedding-collapse", severity="critical", clocks=("review",), needs=SPREAD)
def find_embedding_collapse(
    history: History, *, limit: float = 0.32, dimensions: int = 0, reviews: int = 10
) -> Iterator[Breach]:
    """The embeddings of a fixed sample have drawn together to nearly one point.

    What it sees:
        `embedding_r`, the standard deviation of a dimension times √d, below `limit` at a review with `embeddings=`. It
        is 1 for rows in all directions and 0 for rows that are the same, whatever d is. It is said at every such
        review.
    Why it matters:
        The loss may look fine, and often better than before: all pairs are close. What is left tells no row from
        another, and within an epoch or two it cannot be undone by spreading the rows again.
    Stays silent:
        Through warm-up: an untrained model is anywhere from 0.15 to 0.66. That is until the spread has risen and no
        longer rises fast enough to be above 0.56 within 5 reviews, for `reviews` reviews at most; or until it has
        fallen to half of what it began with. High values are no fault: a well-trained contrastive model is near 1.
    Settings:
        limit: the spread below which it is an emergency.
        dimensions: 0 for any; else `embedding_std` is judged, by the limit divided by the root of it. The preset
            `published-zones` has 256.
        reviews: the reviews of warm-up at most; 0 for none.
    Default response:
        None; it is advisory. A `RepresentationGuard` raises the weights of the losses that spread, and goes back to
        before where that does not bring recall back.
    """
    metric, values, unit = read_spread(history, dimensions)
    if not is_newest(history, metric) or values[-1] >= limit * unit:
        return
    well = RELATIVE.recovering * unit
    if reviews and (is_warming_up(values, well, reviews) or not _has_begun(values, well, reviews)):
        return
    highest = float(values.max())
    message = f"{metric} is {values[-1]:.3g}, {highest:.3g} at its best: the embeddings are nearly all the same"
    yield Breach(metric=metric, value=float(values[-1]), limit=limit * unit, message=message)


def _has_begun(values: Numbers, well: float, reviews: int) -> bool:
    """True if a run is through its warm-up: the spread has risen, or fallen far, or time is up."""
    return len(values) > reviews or has_risen(values, well) or bool(values[-1] < HALF * values[0])
