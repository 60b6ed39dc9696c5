"""A loss far above its level."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite

import numpy as np

from trimtab.detectors import detector
from trimtab.history import History
from trimtab.types import Breach

FACTOR = 1.5
"""A loss below 1.5 times its level is never a spike, however quiet it was before."""

MARGIN = 1.25
"""A loss below 1.25 times the largest of the window is never a spike: without this bound, a batch in ten from a
harder domain was an alarm every time."""

CEILING = 100.0
"""No spread raises the limit above 100 times the largest of the window. A step down within the window has a huge
spread; with heavy-tailed targets, healthy losses reached 32 times the largest before them."""

DOUBTED_FACTOR = 1.25
"""Where the weights have jumped too, a loss has to be 1.25 times its level only."""

JUMP = 1.5
"""A group of weights whose norm is 1.5 times what it was one step before has jumped: no update of a sound run after
warm-up was seen to do that, a learning rate 1000 times too high and a corrupted moment do."""

GRACE = 50
"""Steps after a schedule has started again for which the coarse limit holds: the loss rises with the rate."""

RESTARTED = 2.0
"""A learning rate that more than doubles from one step to the next has jumped."""

ROUNDING = 0.01
"""A share by which a rate may be above what it was before and still be the same."""

FIRST_SAMPLES = 4
"""Below this even the order of magnitude is unknown: with heavy-tailed targets, the second loss of a healthy run can
be 60 times its first."""


@detector("loss-spike", severity="high")
def find_loss_spike(
    history: History,
    *,
    sigmas: float = 8.0,
    window: int = 100,
    warmup: int = 16,
    coarse: float = 10.0,
    plain: float = 0.0,
) -> Iterator[Breach]:
    """The loss of one step is far above its recent level.

    What it sees:
        A loss above the largest of: `sigmas` robust standard deviations over the median of the newest `window`
        samples (on log scale where the loss is never negative), 1.5 times that median, and 1.25 times the largest of
        these samples. Where the norm of some group of weights is 1.5 times what it was one step before, the first is
        half as far from the median, and the last two become 1.25 times the median. Rejected steps are no samples.
        With `plain`, a loss above their mean by so many of their standard deviations instead, as many loops do it
        with 3.
    Why it matters:
        The batch is not like the others, or the last update has hurt the weights: either way this update should not
        be made.
    Stays silent:
        On falling, flat and noisy losses, and for heavy tails and harder domains whose batches were seen during
        warm-up. Until `warmup` samples are in, and for 50 steps after a schedule has started again or the loop has
        announced other data, only a loss above `coarse` times their largest is found, and nothing before the fourth.
        While a loss falls, a spike that stays below 1.25 times the largest of the window is not found, and a harder
        domain that enters later is taken for faults as long as it comes now and then.
    Settings:
        sigmas: robust standard deviations over the level. With 8, 68 healthy runs of small models gave no false
            alarm; the three found were steps of a run that did diverge.
        window: samples that level and spread rest on.
        warmup: samples below which the coarse limit holds.
        coarse: how many times the largest sample the coarse limit is.
        plain: standard deviations over the mean that are a spike, once `warmup` samples are in; 0 for the robust form.
            With 3 a healthy loss with noise is a spike at every few hundredth step, and one spike that is let in
            hides the next.
    Default response:
        Skip the update; if the next batch breaches too, roll back once, then skip until it is over, then halt.
    """
    if plain > 0 and len(history.samples("loss", window)) >= min(warmup, window):
        yield from _judge_plain(history, plain, window)
    else:
        has_jumped = history.has_risen("weight_norm", JUMP)
        margins = (DOUBTED_FACTOR, 0.0, coarse) if has_jumped else (FACTOR, MARGIN, coarse)
        found = tuple(judge_spike(history, "loss", sigmas / (1 + has_jumped), window, min(warmup, window), margins))
        if found and has_restarted(history):
            found = tuple(judge_spike(history, "loss", sigmas, window, window + 1, (FACTOR, MARGIN, coarse)))
        yield from found


def _judge_plain(history: History, sigmas: float, window: int) -> Iterator[Breach]:
    value, samples = history.newest.values.get("loss"), history.samples("loss", window)
    if not isinstance(value, float) or not isfinite(value):
        return
    mean = float(samples.mean())
    limit = mean + sigmas * float(samples.std())
    if not value <= limit:
        message = f"loss {value:.4g} is above its limit {limit:.4g} (mean {mean:.4g} over {len(samples)} steps)"
        yield Breach(metric="loss", value=value, limit=limit, expected=mean, message=message)


def has_restarted(history: History) -> bool:
    """True if the learning rate has jumped up within the newest `GRACE` steps, to no more than it was before.

    That is a schedule that starts again; a rate that jumps to where it never was is not. Other data that the loop has
    announced are a new start too.
    """
    if history.has("data_declared") and bool(np.isfinite(history.column("data_declared")[-GRACE:]).any()):
        return True
    if not history.has("learning_rate"):
        return False
    rates = history.column("learning_rate")
    recent = rates[-GRACE:]
    jumps = np.flatnonzero(recent[1:] > RESTARTED * recent[:-1])
    if not len(jumps):
        return False
    row = len(rates) - len(recent) + int(jumps[-1]) + 1
    scheduled = history.newest.values.get("scheduled_rate")
    known = max(float(np.nanmax(rates[:row])), scheduled if isinstance(scheduled, float) else 0.0)
    return bool(rates[row] <= (1 + ROUNDING) * known)


def judge_spike(
    history: History, metric: str, sigmas: float, window: int, warmup: int, margins: tuple[float, float, float]
) -> Iterator[Breach]:
    """The breach of a metric that is far above its level, if it is.

    Args:
        history: the measurements.
        metric: a metric of one number.
        sigmas: robust standard deviations over the level.
        window: samples that level and spread rest on.
        warmup: samples below which the coarse limit holds.
        margins: how many times its level a number may always be; how many times the largest sample, 0 where that is
            no reason; and how many times that during warm-up.
    """
    value = history.newest.values.get(metric)
    if not isinstance(value, float) or not isfinite(value) or (margins[1] > 0 and history.is_within(metric, window)):
        return
    seen = history.statistics(metric, window)
    if seen.num < FIRST_SAMPLES:
        return
    factor, usual, coarse = margins
    margin = usual if seen.num >= warmup else coarse
    limit = seen.limit_above(sigmas, factor, margin, ceiling=CEILING)
    if not value <= limit:
        message = f"{metric} {value:.4g} is above its limit {limit:.4g} (level {seen.level:.4g} over {seen.num} steps)"
        yield Breach(metric=metric, value=value, limit=limit, expected=seen.level, message=message)
