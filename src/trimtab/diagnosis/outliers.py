"""Single records far above what came before them, told from noise by the noise itself."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from trimtab.detectors.reviewing import measure_noise
from trimtab.diagnosis.evidence import Evidence, Series

WINDOW = 100
"""Records whose mean and standard deviation a spike is measured by."""

LEAST_WINDOW = 16
"""Records below which nothing is judged."""

SIGMAS, RECOVERED = 3.0, 0.5
"""Standard deviations over the mean at which a spike begins and at which it is over."""

PATIENCE = 50
"""Records it has to come down."""

STANDS_OUT = 10.0
"""Robust spreads above the level from which a single record may be a spike."""

JUMP = 6.0
"""How many times its mean a move from one record to the next is where a loss that falls steeply may hide a spike."""

STEEP = 5.0
"""Robust spreads that what a detector has found stands out by; a slow rise, which it finds too, does not."""

GAP = 3.0
"""How far spikes stand above the largest excursion that is none: of normal noise the largest is about 4 spreads."""

USUAL = 4.0
"""Excursions below so many spreads are in every noise."""

NEAR, AROUND, OFTEN = 150, 25, 4
"""In the 150 records before and after, each measured against the median of the 25 around it, half as high a rise that
comes 4 times, at two places at least, is usual for this curve."""

TIMES = 2.0
"""How many times as far as any other number of the curve a spike stands above what is before it."""

SHORT = 10
"""Records whose median is the level right before or after a spike; as many four times as far tell how it drifts."""

YOUNG = 32
"""Records in which the noise of a curve is not known well enough to tell by it alone."""

MOST_SPIKES = 20
"""Excursions that may be spikes without being the noise themselves; and at most one record in a hundred."""

ENDED = 3
"""Records up to the end, all high, from which a spike at the very end is the end of the run."""


def roll(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of the `WINDOW` numbers before each one; NaN for the first few."""
    centred = values - values[0]
    sums = np.concatenate(([0.0], np.cumsum(centred)))
    squares = np.concatenate(([0.0], np.cumsum(centred**2)))
    ends = np.arange(len(values))
    firsts = np.maximum(ends - WINDOW, 0)
    num = np.maximum(ends - firsts, 1)
    means = (sums[ends] - sums[firsts]) / num
    deviations = np.sqrt(np.maximum((squares[ends] - squares[firsts]) / num - means**2, 0.0))
    means[:LEAST_WINDOW] = np.nan
    return means + values[0], deviations


def select_rows(
    evidence: Evidence, losses: Series, means: NDArray[np.float64], deviations: NDArray[np.float64]
) -> list[int]:
    """The rows that are spikes: what a detector found, and what stands far above all other excursions of the curve."""
    moves = np.abs(np.diff(losses.values, prepend=losses.values[0]))
    with np.errstate(invalid="ignore"):
        is_high = losses.values > means + SIGMAS * deviations
        is_jump = (moves > JUMP * roll(moves)[0]) & (losses.values > means)
    candidates = np.flatnonzero(is_high | is_jump)
    if len(candidates) > 4 * WINDOW:
        heights = ((losses.values - means) / np.maximum(deviations, 1e-300))[candidates]
        candidates = np.sort(candidates[np.argsort(-heights)[: 4 * WINDOW]])
    scores = {row: _score(losses.values, row) for row in candidates.tolist() if row >= YOUNG}
    stand_out = _find_outliers(scores, len(losses))
    found = {each.step for each in evidence.found_by("loss-spike", "persistent-spike")}
    since = {each.since for each in evidence.found_by("persistent-spike") if each.since is not None}
    told = np.array(sorted(found | since), dtype=np.int64)
    places = np.searchsorted(losses.steps, told)
    by_detector = {
        int(row)
        for row, step in zip(places, told, strict=True)
        if row < len(losses) and losses.steps[row] == step and row >= LEAST_WINDOW
        if _score(losses.values, int(row)) > STEEP or evidence.was_answered(int(step))
    }
    rows = sorted(by_detector | stand_out)
    answered = {row for row in rows if evidence.was_answered(int(losses.steps[row]))}
    doubted = [row for row in rows if row not in answered]
    limit = TIMES * _measure_habit(losses.values, means, rows) if doubted else 0.0
    kept = [row for row in doubted if _rise(losses.values, row) > limit and not _is_usual(losses.values, row)]
    return sorted([*answered, *kept])


def _rise(values: NDArray[np.float64], row: int) -> float:
    """How far a number is above the median of those before it: by its logarithm where none is negative."""
    level = float(np.median(values[max(row - AROUND, 0) : row]))
    is_log = values.min() > 0
    return float(np.log(values[row] / level)) if is_log else float(values[row]) - level


def _measure_habit(values: NDArray[np.float64], means: NDArray[np.float64], rows: list[int]) -> float:
    """How far the largest of all other numbers is above the mean of those before it, measured in the same way."""
    is_other = np.arange(len(values)) >= YOUNG
    for row in rows:
        is_other[max(row - AROUND, 0) : row + PATIENCE + 1] = False
    if not is_other.any():
        return 0.0
    others, levels = values[is_other], means[is_other]
    rises = np.log(others / levels) if values.min() > 0 else others - levels
    return max(float(np.nanmax(rises)), 0.0)


def _score(values: NDArray[np.float64], row: int) -> float:
    """How many robust spreads a number stands above the level before it, in a single step; 0 for a slow rise."""
    before = values[max(row - WINDOW, 0) : row]
    level = float(np.median(before[-25:]))
    rise = float(values[row]) - level
    at_once = float(values[row] - np.median(before[-3:]))
    spread = max(measure_noise(before), 1e-3 * abs(level))
    return rise / spread if spread > 0 and at_once > rise / 2 else 0.0


def _is_usual(values: NDArray[np.float64], row: int) -> bool:
    """True where what stands half as far above its surroundings is there again and again: a harder domain, a tail."""
    first = max(row - NEAR, 0)
    near = values[first : row + NEAR + 1]
    if len(near) < 2 * AROUND:
        return False
    padded = np.pad(near, AROUND // 2, mode="edge")
    levels = np.median(sliding_window_view(padded, AROUND), axis=1)
    before = float(np.median(values[max(row - AROUND, 0) : row]))
    if near.min() > 0:
        near, levels, before, value = np.log(near), np.log(levels), float(np.log(before)), float(np.log(values[row]))
    else:
        value = float(values[row])
    high = np.flatnonzero(near - levels > 0.5 * (value - before)) + first
    others = high[np.abs(high - row) > AROUND // 2]
    num_apart = int((np.diff(others) > AROUND // 2).sum()) + 1 if others.size else 0
    return others.size >= OFTEN and num_apart >= OFTEN // 2


def is_step(values: NDArray[np.float64], first: int, last: int) -> bool:
    """True where the level after is above that before, by more than it moves in the records before and after."""
    before, after = values[max(first - SHORT, 0) : first], values[last + 1 : last + 1 + SHORT]
    if len(after) < ENDED:
        return True
    jump = float(np.median(after) - np.median(before))
    earlier = values[max(first - 5 * SHORT, 0) : max(first - 4 * SHORT, 1)]
    later = values[last + 1 + 4 * SHORT : last + 1 + 5 * SHORT]
    drift = float(np.median(before) - np.median(earlier))
    drift = max(drift, float(np.median(later) - np.median(after)) if len(later) else 0.0)
    goes_on = float(np.median(values[-max(len(values) // 10, ENDED) :]) - np.median(after))
    return jump >= max(drift, goes_on) and jump >= 0.5 * (float(values[first]) - float(np.median(before)))


def _find_outliers(scores: Mapping[int, float], num: int) -> set[int]:
    """The rows whose scores are separated from all others by a wide gap; none where there is no such gap."""
    peaks = [max(episode, key=lambda row: scores[row]) for episode in group(sorted(scores))]
    ranked = sorted(peaks, key=lambda row: -scores[row])
    most = min(MOST_SPIKES, max(num // 100, 1))
    best = 0
    for index, row in enumerate(ranked[:most], 1):
        following = scores[ranked[index]] if index < len(ranked) else 0.0
        if scores[row] >= STANDS_OUT and scores[row] >= GAP * max(following, USUAL):
            best = index
    return set(ranked[:best])


def group(rows: list[int], apart: int = PATIENCE) -> list[list[int]]:
    """Rows into episodes: those not more than so many apart belong together."""
    episodes: list[list[int]] = []
    for row in rows:
        if episodes and row - episodes[-1][-1] <= apart:
            episodes[-1].append(row)
        else:
            episodes.append([row])
    return episodes
