"""A gradient norm far above its level."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from trimtab.detectors import detector
from trimtab.detectors.loss_spike import judge_spike
from trimtab.history import History
from trimtab.types import Breach

FACTOR = 4.0
"""A gradient norm below 4 times its level is never a spike, however quiet it was before."""

MARGIN = 4.0
"""A gradient norm below 4 times the largest of the window is never a spike: healthy recurrent networks reached 3.5
times, which clipping is for."""


@detector("gradient-spike", severity="medium")
def find_gradient_spike(
    history: History, *, sigmas: float = 10.0, window: int = 100, warmup: int = 16, coarse: float = 100.0
) -> Iterator[Breach]:
    """The gradient norm of one step is far above its recent level.

    What it sees:
        A total gradient norm, before clipping, above the largest of: `sigmas` robust standard deviations (on log
        scale) over the median of the newest `window` samples, 4 times that median, and 4 times the largest of these
        samples. It names the groups whose own norms rose most against their medians. Rejected steps are no samples.
    Why it matters:
        One large step can undo thousands, and an optimizer with momentum remembers it.
    Stays silent:
        On the noise of small batches and recurrent networks, which routine clipping is for. Until `warmup` samples
        are in, only a norm above `coarse` times their largest is found, and nothing before the fourth.
    Settings:
        sigmas: robust standard deviations over the level.
        window: samples that level and spread rest on.
        warmup: samples below which the coarse limit holds.
        coarse: how many times the largest sample the coarse limit is.
    Default response:
        Clip the gradients down to the level, keeping their direction.
    """
    for breach in judge_spike(history, "grad_norm", sigmas, window, min(warmup, window), (FACTOR, MARGIN, coarse)):
        yield replace(breach, groups=rank_groups(history, window))


def rank_groups(history: History, window: int, most: int = 3) -> tuple[str, ...]:
    """The groups whose gradient norm rose most against their own median, the most suspect first.

    Args:
        history: the measurements.
        window: samples that a group's median rests on.
        most: how many groups to name.
    """
    norms = history.newest.values.get("group_grad_norm")
    samples = history.samples("group_grad_norm", window)
    if not isinstance(norms, tuple) or samples.ndim < 2 or len(samples) == 0:
        return ()
    levels = np.asarray(np.median(samples, axis=0), dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        rises = np.where(levels > 0, np.asarray(norms) / levels, 0.0)
    return tuple(history.groups[index] for index in np.argsort(-rises)[:most] if rises[index] > FACTOR)
