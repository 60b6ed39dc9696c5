"""Columns whose tokens are all the same."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trimtab.detectors import detector
from trimtab.detectors.representing import DIVERSITY, is_warming_up, read_finite
from trimtab.history import History
from trimtab.types import Breach

METRIC = "column_diversity"

REVIEWS = 10
"""Reviews of warm-up at most."""

NAMED = 5
"""Columns that are named at most."""


@detector("dead-columns", severity="high", clocks=("review",), needs=METRIC)
def find_dead_columns(history: History, *, limit: float = 0.01, samples: int = 2) -> Iterator[Breach]:
    """A column of a table is encoded as the same token whatever it holds.

    What it sees:
        A `column_diversity_…` (1 − the mean cosine between tokens of different values) below `limit` at each of the
        newest `samples` reviews with `columns=`. It is said at every such review.
    Why it matters:
        What the column says is lost, and nothing else shows it: the mean over eighty columns hides three dead ones.
    Stays silent:
        On a column whose values are all the same in the sample, which is not measured. Through warm-up: as long as the
        diversity rises fast enough to be above `limit` within 5 reviews, for 10 reviews at most; an untrained encoder
        with biases tells values apart by little.
    Settings:
        limit: the diversity below which a column is dead.
        samples: reviews in a row it takes.
    Default response:
        None; it is advisory. Look at the column's scale; a `RepresentationGuard` raises the loss for diversity, and
        initializes the column anew where that does not help.
    """
    dead = list_dead(history, limit, samples)
    if dead:
        lowest = min(dead.values())
        rest = f" and {len(dead) - NAMED} more" if len(dead) > NAMED else ""
        message = f"the tokens of {', '.join(list(dead)[:NAMED])}{rest} are the same for all values ({lowest:.2g})"
        yield Breach(metric=METRIC, value=lowest, limit=limit, message=message)


def list_dead(history: History, limit: float, samples: int) -> dict[str, float]:
    """The dead columns with their diversity; the settings are those of the detector."""
    dead = {}
    for metric, value in history.newest.values.items():
        if metric.startswith(DIVERSITY) and isinstance(value, float) and value < limit:
            values = read_finite(history, metric)
            is_low = len(values) >= samples and bool(np.all(values[-samples:] < limit))
            if is_low and not is_warming_up(values, limit, REVIEWS):
                dead[metric.removeprefix(DIVERSITY)] = value
    return dead
