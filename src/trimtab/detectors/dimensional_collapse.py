"""Embeddings that take up few directions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trimtab.detectors import detector
from trimtab.detectors.representing import RANK, SPREAD, is_newest, read_finite
from trimtab.history import History
from trimtab.types import Breach

LEAST = 4.0
"""The effective rank that a run has to have had at its best for a share of it to mean something."""


SAME = 0.1
"""The spread below which embeddings are all the same, where even an untrained model is above."""


@detector("dimensional-collapse", severity="high", clocks=("review",), needs=RANK)
def find_dimensional_collapse(history: History, *, share: float = 1 / 3) -> Iterator[Breach]:
    """The embeddings of a fixed sample take up far fewer directions than they did.

    What it sees:
        `effective_rank` below `share` of the run's own best, at a review with `embeddings=`. It is said at every such
        review. Reviews at which the embeddings were nearly all the same do not count for the best: the rank of what is
        left of them is that of noise.
    Why it matters:
        Rows may be spread as far as ever, and `embedding_r` near 1, while all of it is in three of 256 dimensions (Jing
        et al., arXiv 2110.09348). A high temperature does it, strong augmentation, and weights of low rank.
    Stays silent:
        On runs whose best was below 4; on the fall from random weights to learned ones, which is to 0.4 and not lower.
    Settings:
        share: the share of the best below which it is found.
    Default response:
        None; it is advisory. Lower the temperature; a `RepresentationGuard` does, and raises the loss that spreads.
    """
    if not is_newest(history, RANK):
        return
    values, best = read_finite(history, RANK), _find_best(history)
    if best >= LEAST and values[-1] < share * best:
        message = f"effective_rank is {values[-1]:.3g}, {best:.3g} at its best: most directions are gone"
        yield Breach(metric=RANK, value=float(values[-1]), limit=share * best, message=message)


def _find_best(history: History) -> float:
    """The highest rank of the reviews at which embeddings were apart; 0 without any."""
    ranks = np.asarray(history.column(RANK), dtype=np.float64)
    spreads = history.column(SPREAD) if history.has(SPREAD) else np.full(len(ranks), np.nan)
    kept = ranks[np.isfinite(ranks) & ~(spreads < SAME)]
    return float(kept.max()) if len(kept) else 0.0
