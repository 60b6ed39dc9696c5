"""A loss that falls steadily, and far too slowly."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trimtab.detectors import detector
from trimtab.detectors.reviewing import NORM, TRAIN, measure_fall, measure_noise, measure_scale, read_curves, read_start
from trimtab.history import History
from trimtab.types import Breach

EVEN = 0.5
"""The share of the first half's fall that the second has to have: one that levels off is a loss near its end."""

SURE = 4.0
"""Standard errors that a fall has to have to be one."""


@detector("slow-learning", severity="high", clocks=("review",), needs=NORM)
def find_slow_learning(
    history: History, *, share: float = 0.01, tiny: float = 1e-4, reviews: int = 10
) -> Iterator[Breach]:
    """The training loss falls without end, but so slowly that nothing will come of it.

    What it sees:
        After `reviews` reviews, and as many later again: a training loss that fell since the start of the run by
        less than `share`, by more than its noise, and in the second half hardly less than in the first; and gradient
        norms below `tiny`. Of losses below 1 that limit is as much lower.
    Why it matters:
        The direction is right and the steps are far too small: a learning rate off by orders of magnitude, inputs
        that are not normalized, units that are all but saturated.
    Stays silent:
        On a loss that has fallen and levels off, on one that does not fall at all (`no-learning`), and where the
        gradients are of a usual size. Where the first review is more than 500 steps from the start, since what the run
        began with is not at hand then.
    Settings:
        share: the fall that is not remarked on, relative to the loss.
        tiny: the gradient norm that is not remarked on, of a loss of 1 or more.
        reviews: how many reviews it takes.
    Default response:
        None; it is advisory. The learning rate × 10, twice if need be; normalized inputs.
    """
    found = read_curves(history, NORM, TRAIN)
    if found is None or len(found[0]) < reviews or len(found[0]) % reviews:
        return
    _, (norms, losses) = found
    scale, start = measure_scale(losses), read_start(history)
    middle = len(losses) // 2
    early, late = losses[0] - losses[middle], losses[middle] - losses[-1]
    fall = np.nan if start is None else float(max(start, losses[0]) - losses[-1])
    is_sure = early + late > SURE * max(measure_noise(losses), measure_fall(losses)[1])
    is_steady = late > EVEN * early > 0
    if float(np.median(norms)) < tiny * min(1.0, scale) and is_sure and is_steady and fall < share * scale:
        message = (
            f"the training loss fell by {fall / scale:.2g} of its level in {len(losses)} reviews, to {losses[-1]:.4g}, "
            f"with a gradient norm of {np.median(norms):.3g}: learning rate × 10"
        )
        yield Breach(metric=TRAIN, value=fall / scale, limit=share, message=message)
