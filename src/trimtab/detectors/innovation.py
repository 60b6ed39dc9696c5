"""A state that a second measurement finds worse than expected."""

from __future__ import annotations

from collections.abc import Iterator
from math import exp, isfinite, log

import numpy as np
from numpy.typing import NDArray

from trimtab.detectors import detector
from trimtab.history import Column, History, compute_statistics
from trimtab.types import STATE_STEP, Breach

METRIC = "probe_loss"

NEAR = 5
"""Newest samples whose median is the level that the next measurement is expected at: enough that one lucky sample does
not set it, few enough that it follows a falling loss and one that rises for good."""

FIRST_SAMPLES = 4
"""Below this even the order of magnitude is unknown."""

MARGIN = 1.25
"""A measurement below 1.25 times the largest of the newest `warmup` accepted ones is never a breach: without this
bound, a heavy-tailed probe is an alarm every time."""

SHIFTED = 1.25
"""A state that was accepted, is measured again and is above so many times the level shows that the level is stale; less
is noise, such as that of a function that draws its samples."""


@detector("innovation", severity="high", needs=METRIC)
def find_innovation(
    history: History,
    *,
    sigmas: float = 6.0,
    tolerance: float = 0.25,
    window: int = 32,
    warmup: int = 12,
    coarse: float = 3.0,
    alpha: float = 0.0,
    epsilon: float = 0.0,
) -> Iterator[Breach]:
    """The probe finds the state worse than what it has accepted lately.

    What it sees:
        The innovation, which is the probe's measurement minus what was expected. By default the level expected is the
        median of the newest 5 accepted measurements, and the limit the larger of `sigmas` robust standard deviations
        (on log scale, of the distances from the trend of the newest `window` ones) and `tolerance` of the level above
        it, but at most `coarse` times the level; and never less than 1.25 times the largest of the newest `warmup`.
        So a falling loss, a noisy probe and a plateau need no tuning, and no accepted state is worse than the level,
        or the worst accepted lately, by more than that. With `alpha`, it is Algorithm 1 of arXiv
        2601.17483 instead: what is expected is the exponentially weighted mean of the accepted measurements, and the
        limit is `epsilon` above it.
    Why it matters:
        The last update has hurt the weights, whatever batch loss and gradients say. A measurement that is not finite
        is always a breach.
    Stays silent:
        Until 4 measurements are accepted; until `warmup` are, only what is above `coarse` times the level is found.
        On a state that was accepted before, as a restored one was. Where it is far above the level, it is the level
        that is stale, since the probe has changed, as growing targets and a change of task do: probe-shift says so, and
        what was accepted earlier counts no more.
    Settings:
        sigmas: robust standard deviations over the level.
        tolerance: share of the level above it that is always accepted.
        window: accepted measurements that the spread rests on.
        warmup: accepted measurements below which the coarse limit holds.
        coarse: how many times the level the limit is at most.
        alpha: weight of the newest accepted measurement in the mean, as published; 0 for the robust form.
        epsilon: how far above that mean a measurement may be, in its own unit.
    Default response:
        Roll back to the newest state the probe has accepted; if the next breaches too, cool as well; then reload an
        older state from disk; then halt.
    """
    value = history.newest.values[METRIC]
    assert isinstance(value, float)
    if alpha > 0:
        yield from _judge_published(history, value, alpha, epsilon)
        return
    if isfinite(value) and is_known(history):
        return
    if not isfinite(value):
        yield _describe(value, float("nan"), None)
        return
    found = find_limit(list_accepted(history), sigmas, tolerance, window, warmup, coarse)
    if found is None:
        return
    level, limit = found
    if not value <= limit:
        yield _describe(value, limit, level)


def find_limit(
    accepted: Column,
    sigmas: float = 6.0,
    tolerance: float = 0.25,
    window: int = 32,
    warmup: int = 12,
    coarse: float = 3.0,
) -> tuple[float, float] | None:
    """What the next measurement is expected to be, and its limit; None where too few were accepted.

    Args:
        accepted: the accepted measurements, oldest first.
        sigmas: as of `find_innovation`, and so are the others.
        tolerance: share of the level above it that is always accepted.
        window: accepted measurements that the spread rests on.
        warmup: accepted measurements below which the coarse limit holds.
        coarse: how many times the level the limit is at most.
    """
    accepted = accepted[-window:]
    if len(accepted) < FIRST_SAMPLES:
        return None
    level = float(np.median(accepted[-NEAR:]))
    limit = coarse_limit = level + (coarse - 1) * abs(level)
    if len(accepted) >= warmup:
        largest = float(accepted[-warmup:].max())
        limit = min(_limit_above(accepted, level, sigmas, tolerance), coarse_limit)
        limit = max(limit, largest + (MARGIN - 1) * abs(largest))
    return level, limit


def list_accepted(history: History) -> Column:
    """The accepted measurements since the level was last found stale, oldest first, without the newest row."""
    rows = history.accepted_rows(METRIC)
    values: Column = history.column(METRIC)
    told = history.column(STATE_STEP) if history.has(STATE_STEP) else values * np.nan
    for row in np.flatnonzero(np.isfinite(told) & np.isfinite(values))[::-1]:
        if _is_stale_at(history, rows, int(row)):
            rows = rows[rows >= row]
            break
    accepted: Column = values[rows]
    return accepted


def can_judge(history: History) -> bool:
    """True if the newest measurement can be judged: its state was accepted before, or enough others were."""
    return is_known(history) or len(list_accepted(history)) >= FIRST_SAMPLES


def is_known(history: History) -> bool:
    """True if the newest row measured a state that was accepted before, as after a rollback or a skip."""
    rows = history.accepted_rows(METRIC)
    return bool((history.state_steps[rows] == history.state_steps[-1]).any())


def find_shift(history: History) -> tuple[float, float] | None:
    """The level and the newest measurement, if that is of a state accepted before and far above the level; or None."""
    rows, value = history.accepted_rows(METRIC), history.newest.values[METRIC]
    if not isinstance(value, float) or not _is_stale_at(history, rows, len(history) - 1):
        return None
    return _find_level(history, rows), value


def _is_stale_at(history: History, rows: NDArray[np.int64], row: int) -> bool:
    """True if a row measured a state that was accepted in one of some rows before it, and is far above their level."""
    before, states = rows[rows < row], history.state_steps
    if not (states[before] == states[row]).any():
        return False
    level = _find_level(history, before)
    return bool(history.column(METRIC)[row] - level > (SHIFTED - 1) * abs(level))


def _find_level(history: History, rows: NDArray[np.int64]) -> float:
    return float(np.median(history.column(METRIC)[rows[-NEAR:]]))


def _limit_above(accepted: Column, level: float, sigmas: float, tolerance: float) -> float:
    seen = compute_statistics(accepted)
    if seen.is_log:
        return level * exp(max(sigmas * seen.spread, log(1 + tolerance)))
    return level + max(sigmas * seen.spread, tolerance * abs(level))


def _judge_published(history: History, value: float, alpha: float, epsilon: float) -> Iterator[Breach]:
    """Algorithm 1 of arXiv 2601.17483: accepted if the innovation is at most epsilon."""
    accepted = history.column(METRIC)[history.accepted_rows(METRIC)]
    if len(accepted) == 0 and isfinite(value):
        return
    weights = alpha * (1 - alpha) ** np.arange(len(accepted))[::-1]
    weights[:1] /= alpha
    expected = float(weights @ accepted) if len(accepted) else float("nan")
    if not value - expected <= epsilon:
        yield _describe(value, expected + epsilon, expected)


def _describe(value: float, limit: float, level: float | None) -> Breach:
    if not isfinite(value):
        message = "the probe's measurement is not finite"
    else:
        message = f"the probe measures {value:.4g}, above its limit {limit:.4g} (expected {level:.4g})"
    return Breach(metric=METRIC, value=value, limit=limit, expected=level, message=message, in_state=True)
