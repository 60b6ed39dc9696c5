"""The spike detector of a well-known trainer."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from torch import Tensor

from trimtab.bench.contestants import contestant
from trimtab.bench.contestants.skip_nonfinite import is_overflow
from trimtab.bench.training import Guard, Judgement, Training

WINDOW = 10
"""The losses whose mean a loss is held against."""

NUM_WARMUP = 1
"""The batches before the first that is judged."""

TOLERANCE = 2.0
"""How far from the mean a loss may lie, as a multiple of the mean."""


@dataclass(slots=True)
class Detector:
    """The state of the detector."""

    num_seen: int = 0
    """The batches seen."""

    latest: float = 0.0
    """The latest loss that was no spike."""

    window: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    """The latest losses that were no spikes."""

    def is_spike(self, loss: float) -> bool:
        """Judge the loss of the next batch, and remember it if it is no spike."""
        self.num_seen += 1
        is_spike = self.num_seen > NUM_WARMUP and (not math.isfinite(loss) or self.is_above(loss))
        if not is_spike:
            self.latest = loss
            self.window.append(loss)
        return is_spike

    def is_above(self, loss: float) -> bool:
        """True if a loss is worse than the latest, and too far from the mean."""
        numbers = [each for each in self.window if not math.isnan(each)]
        mean = sum(numbers) / len(numbers) if numbers else math.nan
        return not loss <= self.latest and abs(loss - mean) >= abs(TOLERANCE * mean)


@contestant("spike-callback")
def watch_loss(training: Training) -> Guard:
    """An update is left out if its loss is a spike: not finite, or at least 3 times the mean of the last 10.

    After the documentation of `SpikeDetection` of Lightning (`lightning.fabric.utilities.spike`) with its defaults:
    mode min, window 10, warmup 1, no absolute tolerance, a relative one of 2.0, finite_only. A loss is a spike if it is
    above the latest and its distance from the mean of the window is at least twice the mean; a loss that is not finite
    is one; spikes do not enter the mean. It looks at the loss alone.

    What is modelled: there, a spike ends the run with an exception, and its number and the one before are written to a
    file of batches to exclude when the user resumes. Here, the update of that batch is left out before it is made, the
    run goes on, and what it tells is which batches would be excluded. Not modelled: the restart, with all updates since
    the checkpoint it begins from; and the batch before, whose update is made by then. Where not a batch but the
    weights are broken, the loss stays high and every further update is left out, whereas a user who resumes from an
    older checkpoint gets rid of them.
    """
    detector = Detector()

    def guard(loss: Tensor) -> Judgement:
        training.unscale()
        norm = training.clip()
        is_spike = detector.is_spike(float(loss))
        if is_overflow(training, loss, norm) or not is_spike:
            return Judgement()
        batch = detector.num_seen - 1
        told = f"loss {float(loss):.4g} is a spike; batches {batch - 1} and {batch} are excluded"
        return Judgement(proceeds=False, acts=True, names=("loss-spike",), told=told, num_lost=1)

    return guard
