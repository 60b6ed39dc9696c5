"""Embeddings on one side of the sphere."""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.detectors import detector
from trimtab.detectors.representing import SIDES, is_newest, is_warming_up, read_finite
from trimtab.history import History
from trimtab.types import Breach


@detector("one-sided-embeddings", severity="medium", clocks=("review",), needs=SIDES)
def find_one_sided_embeddings(history: History, *, limit: float = 0.7, reviews: int = 10) -> Iterator[Breach]:
    """The embeddings of a fixed sample lie on one side of most planes through the origin.

    What it sees:
        `one_sidedness` above `limit` at a review with `embeddings=`: 0 for rows on all sides of random planes, 1 for
        rows that are all on one. It is said at every such review.
    Why it matters:
        Most of the sphere is empty, and cosines are near 1 for every pair. A bias in the last layer does it, and a
        temperature so low that only the nearest rows are pushed apart.
    Stays silent:
        Through warm-up: at the first review, and as long as it falls fast enough to be below within 5 reviews, for
        `reviews` reviews at most.
    Settings:
        limit: the one-sidedness that is remarked on.
        reviews: the reviews of warm-up at most; 0 for none.
    Default response:
        None; it is advisory. Normalize or leave the bias out; a `RepresentationGuard` raises the loss that centres.
    """
    values = read_finite(history, SIDES)
    if not is_newest(history, SIDES) or values[-1] <= limit:
        return
    if reviews and is_warming_up(1 - values, 1 - limit, reviews):
        return
    message = f"one_sidedness is {values[-1]:.3g}: the embeddings lie on one side of the sphere"
    yield Breach(metric=SIDES, value=float(values[-1]), limit=limit, message=message)
