"""A network that gets next to no gradient, and has not learned what it was to learn."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trimtab.detectors import detector
from trimtab.detectors.reviewing import NORM, TRAIN, has_learned, measure_scale, read_curves, read_start
from trimtab.history import History
from trimtab.types import Breach

SAY_EVERY = 10
"""Reviews after which it is said again, if it is still so."""

LOST = 0.05
"""The share of the scale by which the loss is above its lowest where the network died after it had learned."""


@detector("dead-network", severity="critical", clocks=("review",), needs=NORM)
def find_dead_network(history: History, *, limit: float = 1e-6, reviews: int = 2) -> Iterator[Breach]:
    """The gradients of the whole network are next to nothing, and its loss is not that of a trained one.

    What it sees:
        A median gradient norm since the review before below `limit`, at each of the newest `reviews` reviews, while
        the training loss never fell from where the run began, or rests above its lowest. Of losses below 1 the limit
        is as much lower.
    Why it matters:
        No step changes anything: every unit is dead or saturated, the loss is cut off from the parameters, or the
        gradients are below what the precision can hold. More training is wasted.
    Stays silent:
        On a network that has converged: its gradients vanish while its loss is at its lowest. On a loss of exactly 0.
        Where the first review is more than 500 steps from the start, so that what the run began with is not at hand,
        only a loss above its lowest counts.
    Settings:
        limit: the gradient norm that is not remarked on, of a loss of 1 or more.
        reviews: how many reviews in a row it takes.
    Default response:
        None; it is advisory. Initialize anew, with normalized inputs and a tenth of the learning rate; see
        `dead-units` and `saturated-units` for the layer.
    """
    found = read_curves(history, NORM, TRAIN)
    if found is None:
        return
    _, (norms, losses) = found
    scale = measure_scale(losses)
    is_tiny = norms < limit * min(1.0, scale)
    above = np.flatnonzero(~is_tiny)
    num = len(norms) - (int(above[-1]) + 1 if len(above) else 0)
    start = read_start(history)
    never = start is not None and not has_learned(np.concatenate(([start], losses)))
    is_lost = float(np.median(losses[-reviews:]) - losses.min()) > LOST * scale
    if num % SAY_EVERY == reviews % SAY_EVERY and num >= reviews and (is_lost or never):
        message = (
            f"the gradient norm is {norms[-1]:.3g} and the training loss rests at {losses[-1]:.4g}: the network is dead"
        )
        yield Breach(metric=NORM, value=float(norms[-1]), limit=limit, message=message)
