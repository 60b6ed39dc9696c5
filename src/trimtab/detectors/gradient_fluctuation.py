"""Gradient norms that fluctuate by orders of magnitude."""

from __future__ import annotations

from collections.abc import Iterator
from math import exp, log

from trimtab.detectors import detector
from trimtab.history import History
from trimtab.types import Breach

METRIC = "grad_norm"

EVERY, AT = 100, 2
"""Judged at the sampled steps 102, 202 and so on."""


@detector("gradient-fluctuation", severity="low")
def find_gradient_fluctuation(history: History, *, times: float = 10.0, window: int = 100) -> Iterator[Breach]:
    """The gradient norm goes up and down by orders of magnitude, step by step, as its usual way.

    What it sees:
        At every hundredth step, a robust standard deviation of the newest `window` norms on log scale, their trend
        taken out, of more than the logarithm of `times`: two in three norms are no nearer to each other than that.
    Why it matters:
        A step is as long as its gradient: the run is made by few batches. Nor can a limit tell a spike from the rest.
    Stays silent:
        On heavy tails, of which single norms are huge and most are not; on a norm that falls or rises steadily; before
        `window` samples.
    Settings:
        times: the factor that is not remarked on.
        window: samples that are judged.
    Default response:
        None; it is advisory. Larger batches, gradient clipping at the median norm, a normalization of the inputs.
    """
    if history.newest.step % EVERY != AT or METRIC not in history.newest.values:
        return
    seen = history.statistics(METRIC, window)
    if seen.num >= window and seen.is_log and seen.spread > log(times):
        message = f"grad_norm fluctuates by a factor of {exp(seen.spread):.3g} about {seen.level:.3g} from step to step"
        yield Breach(metric="grad_norm_spread", value=exp(seen.spread), limit=times, message=message)
