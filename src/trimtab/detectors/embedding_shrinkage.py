"""Embeddings that draw together."""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.detectors import detector
from trimtab.detectors.representing import RELATIVE, SPREAD, has_risen, is_newest, is_warming_up, read_spread
from trimtab.history import History
from trimtab.types import Breach


@detector("embedding-shrinkage", severity="medium", clocks=("review",), needs=SPREAD)
def find_embedding_shrinkage(
    history: History, *, limit: float = 0.56, least: float = 0.32, dimensions: int = 0, reviews: int = 10
) -> Iterator[Breach]:
    """The embeddings of a fixed sample take up less of the sphere than is good.

    What it sees:
        `embedding_r` from `least` to `limit` at a review with `embeddings=`; below, it is `embedding-collapse`. It is
        said at every such review.
    Why it matters:
        It is the way into a collapse, and on it little is to be done: a little more of a loss that spreads.
    Stays silent:
        Through warm-up, as `embedding-collapse` does: until the spread has first risen, and as long as it rises fast
        enough.
    Settings:
        limit: the spread below which it is a warning.
        least: the spread below which it is more.
        dimensions: 0 for any; else `embedding_std` is judged, by limits divided by the root of it.
        reviews: the reviews of warm-up at most; 0 for none.
    Default response:
        None; it is advisory. A `RepresentationGuard` raises the weights of the losses that spread.
    """
    metric, values, unit = read_spread(history, dimensions)
    if not is_newest(history, metric) or not least * unit <= values[-1] < limit * unit:
        return
    well = RELATIVE.recovering * unit
    has_begun = len(values) > reviews or has_risen(values, well)
    if reviews and (is_warming_up(values, well, reviews) or not has_begun):
        return
    message = f"{metric} is {values[-1]:.3g}, below {limit * unit:.3g}: the embeddings draw together"
    yield Breach(metric=metric, value=float(values[-1]), limit=limit * unit, message=message)
