"""Parameters that change outside the optimizer, and now far more than they used to."""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.detectors import detector
from trimtab.detectors.loss_spike import judge_spike
from trimtab.history import History
from trimtab.types import Breach

METRIC = "self_update_ratio"

FACTOR = 10.0
"""A move below 10 times the level is never a spike: rules that update themselves have quiet and busy times."""

MARGIN = 4.0
"""Nor is one below 4 times the largest of the window."""


@detector("self-update-spike", severity="high", needs=METRIC)
def find_self_update_spike(
    history: History, *, sigmas: float = 10.0, window: int = 100, warmup: int = 16, coarse: float = 100.0
) -> Iterator[Breach]:
    """Self-updating parameters moved far more in one step than they used to.

    What it sees:
        The largest ‖Δw‖ / ‖w‖ of the parameters declared `self_updating`, above the largest of: `sigmas` robust
        standard deviations (on log scale) over the median of the newest `window` samples, 10 times that median, and 4
        times the largest of these samples. Rejected steps are no samples.
    Why it matters:
        A Hebbian rule, a codebook or an average changes weights in the forward pass, where no gradient is clipped and
        no optimizer holds back.
    Stays silent:
        Where nothing is declared self-updating, and until 4 samples are in; until `warmup` are, only what is above
        `coarse` times their largest is found. A move that is not finite is found by nonfinite.
    Settings:
        sigmas: robust standard deviations over the level.
        window: samples that level and spread rest on.
        warmup: samples below which the coarse limit holds.
        coarse: how many times the largest sample the coarse limit is.
    Default response:
        Skip the update, which puts these parameters back; the same again if it recurs, then halt.
    """
    yield from judge_spike(history, METRIC, sigmas, window, min(warmup, window), (FACTOR, MARGIN, coarse))
