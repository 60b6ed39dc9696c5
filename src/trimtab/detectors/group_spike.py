"""One group's gradients far above all they have been, while the others are not."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trimtab.detectors import detector
from trimtab.history import Column, History
from trimtab.types import Breach

METRIC = "group_grad_norm"

RECURRENCES = 4
"""How often a norm has to come for it to be usual: one more than the drops that freeze a group."""


@detector("group-spike", severity="medium")
def find_group_spike(
    history: History, *, above: float = 0.0, times: float = 100.0, window: int = 500, warmup: int = 16
) -> Iterator[Breach]:
    """The gradient norm of one group is far above all it has been.

    What it sees:
        For each group by itself, a gradient norm above `times` what is usual: what it has reached four times in the
        newest `window` steps, rejected ones included. Where all groups rise together, only what stands out by as much
        against the median group counts: the total is judged by gradient-spike. With `above`, also any norm above it.
    Why it matters:
        The total norm averages a small group's trouble away; clipping the total for one group's trouble takes the
        update of all the others.
    Stays silent:
        On heads and experts that are used now and then, once they were four times; until `warmup` samples are in; on
        groups that had no gradient yet; and on norms that are not finite, which nonfinite finds.
    Settings:
        above: an absolute limit in the unit of the norm; 0 for none. The preset `three-tier` sets 1e4.
        times: how many times its usual norm a group's norm may be; 0 for no relative limit.
        window: steps that are looked at.
        warmup: samples below which the relative limit does not hold.
    Default response:
        Clip that group down to its usual norm, keeping its direction; no other group is touched.
    """
    yield from judge_groups(history, above, times, window, warmup)


def judge_groups(history: History, above: float, times: float, window: int, warmup: int) -> Iterator[Breach]:
    """The groups whose newest gradient norm is beyond an absolute limit, or one relative to what is usual for it.

    Args:
        history: the measurements.
        above: the absolute limit; 0 for none.
        times: the relative limit, in multiples of a group's usual norm; 0 for none.
        window: steps that are looked at.
        warmup: samples below which the relative limit does not hold.
    """
    norms = history.newest.values.get(METRIC)
    if not isinstance(norms, tuple) or not norms:
        return
    is_high = above > 0 and not max(norms) <= above
    if not is_high and (times == 0 or not history.has_risen(METRIC, times)):
        return
    now = np.asarray(norms, dtype=np.float64)
    limits = np.full(len(now), above if above > 0 else np.inf)
    usual = find_usual(history, window) if len(history.samples(METRIC, window)) >= min(warmup, window) else now * np.nan
    if times > 0:
        limits = np.fmin(limits, times * usual * max(_median_rise(now, usual), 1.0))
    for index in np.flatnonzero(np.isfinite(now) & ~(now <= limits)):
        group, norm, limit, most = history.groups[index], norms[index], float(limits[index]), float(usual[index])
        seen = f" (it is usual up to {most:.4g})" if np.isfinite(most) else ""
        message = f"gradient norm {norm:.4g} of {group} is above its limit {limit:.4g}{seen}"
        expected = most if np.isfinite(most) else None
        yield Breach(metric=METRIC, value=norm, limit=limit, expected=expected, message=message, groups=(group,))


def find_usual(history: History, window: int) -> Column:
    """The norm each group is known to have now and then; NaN where that is 0.

    It is the fourth largest of the rows before the newest, or the newest sample if that is larger. Rejected rows count,
    so that what keeps coming back is learned.
    """
    rows = history.column(METRIC)[:-1][-window:]
    rows = rows[np.isfinite(rows).all(axis=1)]
    if len(rows) < RECURRENCES:
        return np.full(len(history.groups), np.nan)
    largest = np.sort(rows, axis=0)[-RECURRENCES]
    usual: Column = np.maximum(largest, history.samples(METRIC, 1)[-1]).astype(np.float64)
    usual[usual == 0] = np.nan
    return usual


def _median_rise(now: Column, usual: Column) -> float:
    """How far the median group has risen, the lower one of two; 0 where none is known."""
    rises = np.sort((now / usual)[np.isfinite(now / usual)])
    return float(rises[(len(rises) - 1) // 2]) if len(rises) else 0.0
