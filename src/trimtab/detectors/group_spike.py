"""One group's gradients far above their level, while the others are not."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trimtab.detectors import detector
from trimtab.history import History
from trimtab.types import Breach

METRIC = "group_grad_norm"


@detector("group-spike", severity="medium")
def find_group_spike(
    history: History, *, above: float = 0.0, times: float = 100.0, window: int = 100, warmup: int = 16
) -> Iterator[Breach]:
    """The gradient norm of one group is far above its own level.

    What it sees:
        For each group by itself, a gradient norm above `times` its level: the larger of the median of its newest
        `window` samples and the newest of them. Where all groups rise together, only what stands out by as much
        against the median group counts: the total is judged by gradient-spike. With `above`, also any norm above it.
    Why it matters:
        The total norm averages a small group's trouble away; clipping the total for one group's trouble takes the
        update of all the others.
    Stays silent:
        Until `warmup` samples are in, on groups whose level is 0, and on norms that are not finite, which nonfinite
        finds. One number alone, such as a scalar temperature, may vary a thousandfold; give it a group with others.
    Settings:
        above: an absolute limit in the unit of the norm; 0 for none. The preset `three-tier` sets 1e4.
        times: how many times its level a group's norm may be; 0 for no relative limit.
        window: samples that the level rests on.
        warmup: samples below which the relative limit does not hold.
    Default response:
        Clip that group down to its level, keeping its direction; no other group is touched.
    """
    yield from judge_groups(history, above, times, window, warmup)


def judge_groups(history: History, above: float, times: float, window: int, warmup: int) -> Iterator[Breach]:
    """The groups whose newest gradient norm is beyond an absolute limit, or beyond one relative to their own level.

    Args:
        history: the measurements.
        above: the absolute limit; 0 for none.
        times: the relative limit, in multiples of a group's level; 0 for none.
        window: samples that a level rests on.
        warmup: samples below which the relative limit does not hold.
    """
    norms = history.newest.values.get(METRIC)
    if not isinstance(norms, tuple) or not norms:
        return
    is_high = above > 0 and not max(norms) <= above
    if not is_high and history.largest_rise(METRIC) <= max(times, 1.0):
        return
    now = np.asarray(norms, dtype=np.float64)
    limits, levels = np.full(len(now), above if above > 0 else np.inf), np.full(len(now), np.nan)
    samples = history.samples(METRIC, window)
    if len(samples) >= min(warmup, window):
        levels = np.maximum(np.median(samples, axis=0), samples[-1]).astype(np.float64)
        levels[levels == 0] = np.nan
        if times > 0:
            limits = np.fmin(limits, times * levels * max(_median_rise(now, levels), 1.0))
    for index in np.flatnonzero(np.isfinite(now) & ~(now <= limits)):
        group, norm, limit, level = history.groups[index], norms[index], float(limits[index]), float(levels[index])
        message = f"gradient norm {norm:.4g} of {group} is above its limit {limit:.4g} (level {level:.4g})"
        expected = level if np.isfinite(level) else None
        yield Breach(metric=METRIC, value=norm, limit=limit, expected=expected, message=message, groups=(group,))


def _median_rise(now: np.ndarray, levels: np.ndarray) -> float:
    """How far the median group has risen, the lower one of two; 0 where none has a level."""
    rises = np.sort((now / levels)[np.isfinite(now / levels)])
    return float(rises[(len(rises) - 1) // 2]) if len(rises) else 0.0
