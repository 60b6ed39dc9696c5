"""What a curve looks like: its level, its noise, and whether it rose or fell by more than its noise."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from trimtab.detectors.reviewing import MEDIAN_ERROR, SHORT, measure_noise
from trimtab.detectors.unstable_training import ALTERNATES, LEAST_SWINGS, measure_swing
from trimtab.diagnosis.causes import RATE_RISE
from trimtab.diagnosis.evidence import Evidence, Series
from trimtab.diagnosis.zeros import find_zeros
from trimtab.history import GAUSSIAN_MAD

Numbers = NDArray[np.float64]

MOST_BLOCKS = 40
"""Blocks a curve is cut into; each is judged by its median."""

LEAST_PER_BLOCK, FEWER_PER_BLOCK = 8, 4
"""Numbers of a block; a median of fewer is noise. Of a short curve it has to be fewer."""

LEAST_BLOCKS = 8
"""Blocks from whose distances the noise of a level can be told."""

LEAST_ROWS = 12
"""Numbers below which a curve has no shape."""

SURE = 6.0
"""Standard errors beyond which a difference of levels is none of noise, the best of 40 blocks having been chosen."""


DESCENT = 3.0
"""Standard errors beyond which the first numbers are above the rest: rather a run that learned little is taken for
sound than a sound one for one that learned nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """The shape of a curve in blocks."""

    num: int
    """Numbers it rests on."""

    starts: NDArray[np.int64]
    """The first step of each block."""

    levels: Numbers
    """The median of each block."""

    noise: float
    """Robust standard deviation of a single number about its neighbours."""

    level_noise: float
    """Standard error of a block's level: from the noise of single numbers, or from block to block if that is more."""

    start: float
    """The level of the very first numbers."""

    start_noise: float
    """Its standard error."""

    descent: float
    """By how many standard errors the first few numbers are above all others, at the scale where that is most."""

    @property
    def end(self) -> float:
        """The level at the end: that of the last block."""
        return float(self.levels[-1])

    @property
    def best(self) -> int:
        """The index of the lowest block."""
        return int(np.argmin(self.levels))

    @property
    def lowest(self) -> float:
        """The level of the lowest block."""
        return float(self.levels[self.best])

    @property
    def reach(self) -> float:
        """How far it fell from its start, or from its highest block before the lowest; 0 where it did not."""
        return max(float(max(self.start, self.levels[: self.best + 1].max())) - self.lowest, 0.0)

    @property
    def has_fallen(self) -> bool:
        """True if it fell by more than its noise, at the beginning or over the whole."""
        quarter = max(len(self.levels) // 4, 1)
        drop = float(np.median(self.levels[:quarter]) - np.median(self.levels[-quarter:]))
        error = self.level_noise * np.sqrt(2 / quarter)
        margin = 0.01 * abs(self.start)
        at_once = self.start - self.lowest > max(SURE * np.hypot(self.start_noise, self.level_noise), 2 * margin)
        return bool(at_once or self.descent > DESCENT or drop > max(SURE * error, margin))

    def flat_since(self, tolerance: float = 0.02) -> int:
        """The index of the block from which on the level no longer fell by more than noise and a share of the level."""
        limit = max(SURE * self.level_noise, tolerance * abs(self.end))
        away = np.flatnonzero(np.abs(self.levels - self.end) > limit)
        return int(away[-1]) + 1 if away.size else 0


def describe(series: Series) -> Shape | None:
    """The shape of a curve; None if it is too short to have one."""
    finite = series.finite
    num = len(finite)
    if num < LEAST_ROWS:
        return None
    num_blocks = int(np.clip(num // (LEAST_PER_BLOCK if num >= SHORT else FEWER_PER_BLOCK), 3, MOST_BLOCKS))
    edges = np.linspace(0, num, num_blocks + 1).astype(int)
    levels = np.array([np.median(finite.values[a:b]) for a, b in pairwise(edges.tolist())])
    noise = measure_noise(finite.values)
    by_noise = MEDIAN_ERROR * noise / np.sqrt(num / num_blocks)
    second = np.diff(levels, 2)
    by_blocks = GAUSSIAN_MAD * float(np.median(np.abs(second))) / np.sqrt(6) if len(levels) >= LEAST_BLOCKS else 0.0
    num_first = max(min(10, num // 20), 1)
    first = finite.values[:num_first]
    return Shape(
        num,
        finite.steps[edges[:-1]],
        levels,
        noise,
        max(by_noise, by_blocks),
        float(np.median(first)),
        MEDIAN_ERROR * noise / np.sqrt(num_first),
        _measure_descent(finite.values, noise),
    )


def _measure_descent(values: Numbers, noise: float) -> float:
    """By how many standard errors the first numbers are above the rest: of the first 3, 6, 12 and so on, the most.

    Losses that follow each other are not independent; three of them count as one. Less than 1 % of the level is none.
    """
    most = 0.0
    for num in (3 * 2**power for power in range(20)):
        if num > len(values) // 2:
            break
        rest = float(np.median(values[num:]))
        drop = float(np.median(values[:num])) - rest
        error = max(MEDIAN_ERROR * noise * np.sqrt(3 / num), 0.01 * abs(rest) / DESCENT)
        most = max(most, drop / error if error > 0 else 0.0)
    return most


def describe_loss(evidence: Evidence) -> Shape | None:
    """The shape of the loss of the steps whose update went ahead, without stretches in which it was none."""
    return evidence.ask(_describe_loss)


def _describe_loss(evidence: Evidence) -> Shape | None:
    losses = evidence.loss
    for each in evidence.ask(find_zeros):
        losses = losses.take((losses.steps < each.first) | (losses.steps > each.last))
    return describe(losses)


def median_between(series: Series, first: float, last: float) -> float:
    """The median of what is finite from one step to another; NaN where there is nothing."""
    values = series.finite.between(first, last).values
    return float(np.median(values)) if len(values) else float("nan")


WIDE = 0.2
"""How wide they swing, relative to their level, for it to matter."""


@dataclass(frozen=True, slots=True)
class Swing:
    """A loss that is high and low in turns."""

    step: int
    """The first step that was looked at."""

    num: int
    """How many records were."""

    level: float
    """The level they swing about."""

    width: float
    """Their standard deviation."""

    correlation: float
    """The correlation of successive ones, from -1 to 1."""


def find_swing(evidence: Evidence) -> Swing | None:
    """The swings of the second half of the loss; None where it does not swing from one record to the next."""
    losses = evidence.loss.take(slice(len(evidence.loss) // 2, None)).take(slice(-100_000, None))
    if len(losses) < LEAST_SWINGS:
        return None
    level, width, correlation = measure_swing(losses.values)
    if correlation >= ALTERNATES or width <= WIDE * abs(level):
        return None
    return Swing(int(losses.steps[0]), len(losses), level, width, correlation)


@dataclass(frozen=True, slots=True)
class RateJump:
    """A learning rate that rose by more than a factor of two from one record to the next."""

    step: int
    """The step of the higher rate."""

    before: float
    """The rate before."""

    after: float
    """The rate after."""

    is_restart: bool
    """True if the rate has been as high before, or the loop said it meant it: a schedule that starts again."""


FIRST_RECORDS = 5
"""Records in which a warm-up from nearly nothing may double its rate."""


def find_rate_jumps(evidence: Evidence) -> tuple[RateJump, ...]:
    """Every jump of the learning rate, oldest first."""
    rates = evidence.metric("learning_rate").finite
    before, after = rates.values[:-1], rates.values[1:]
    rows = np.flatnonzero((before > 0) & (after > RATE_RISE * before))
    if not rows.size:
        return ()
    peaks = np.maximum.accumulate(rates.values)
    declared = set(evidence.metric("rate_declared").steps.tolist())
    return tuple(
        RateJump(
            int(rates.steps[row + 1]),
            float(before[row]),
            float(after[row]),
            bool(after[row] <= 1.05 * peaks[row]) or int(rates.steps[row + 1]) in declared,
        )
        for row in rows[:100].tolist()
        if row >= FIRST_RECORDS
    )
