"""What was seen: the newest measurements in memory, each metric a column."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from trimtab.types import STATE_STEP, Measurement

Column: TypeAlias = NDArray[np.float32] | NDArray[np.float64]

CAPACITY = 512
"""Rows kept. Every statistic reads within it, so it is part of the contract: replay uses the same number."""

REBASE_AFTER = 25
"""Consecutive rejected rows after which their values are taken for the new level: longer than a burst of bad batches
(10 in the demo), shorter than the skips a policy allows in a row (50), so that a change of task ends in a new level
rather than in a halt."""

RECENT = 8
"""Rows looked at first for a sample as large as the newest number: of falling or flat numbers, all but one in nine."""

GAUSSIAN_MAD = 1.4826
"""Standard deviation of a normal distribution in units of its median absolute deviation."""


MAX_EXPONENT = 700.0
"""The largest exponent whose power of e is finite in float64, rounded down."""

TREND_SAMPLES = 16
"""Samples from which a trend is told from noise; with fewer, deviations are taken from the level."""

NEAR_ZERO = 1e-6
"""Samples below this share of the largest one count as this share on log scale, so that an exact 0 has a logarithm."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Robust level and spread of a metric over a window of samples."""

    num: int
    """How many samples they rest on."""

    level: float
    """Median, in the metric's unit; NaN without samples."""

    spread: float
    """Robust standard deviation: of the natural logarithm where `is_log`, otherwise in the metric's unit."""

    largest: float
    """The largest sample; NaN without samples."""

    is_log: bool
    """True if no sample is negative and one is positive: then the spread is taken on log scale."""

    def limit_above(self, sigmas: float, factor: float, margin: float, ceiling: float = math.inf) -> float:
        """The limit above which a value does not belong to these samples, in the metric's unit.

        The largest of three: `sigmas` spreads above the level; `factor` times the level, so that a very quiet metric
        is not judged by its rounding; `margin` times the largest sample, so that what comes back every now and then
        (a harder domain, a heavy tail) is learned once. Where a metric may be negative, the last two are distances
        of `factor - 1` times the level's magnitude and `margin - 1` times the largest sample's distance from it.

        Where no sample is negative, the first of the three is at most `ceiling` times the largest sample: a window
        with a step in it has a huge spread, which must not let everything pass.

        Returns:
            The limit; infinite where the samples are all 0 and so say nothing of scale.
        """
        if self.is_log:
            by_spread = self.level * math.exp(min(sigmas * self.spread, MAX_EXPONENT))
            return max(min(by_spread, ceiling * self.largest), factor * self.level, margin * self.largest)
        if self.level == 0 and self.largest == 0:
            return math.inf
        by_spread = self.level + max(sigmas * self.spread, (factor - 1) * abs(self.level))
        return max(by_spread, self.largest + (margin - 1) * (self.largest - self.level))


class History:
    """A ring of measurement rows, each metric a column, the columns NumPy views.

    A row becomes a *sample* for window statistics when it is accepted. Rejected rows are left out, as are the rows
    that a rollback abandoned. After `REBASE_AFTER` consecutive rejected rows these become the samples instead, so
    that no reference goes stale; rows with a number that is not finite do not count among them. All of it is a
    function of the rows and of what was decided on them.

    Args:
        groups: names of the parameter groups, the width of every per-group metric.
        capacity: number of rows kept.
    """

    def __init__(self, groups: Sequence[str] = (), capacity: int = CAPACITY) -> None:
        self.groups = tuple(groups)
        self.capacity = capacity
        self.newest = Measurement(step=0, values={})
        self._end = 0
        self._steps = np.zeros(2 * capacity, dtype=np.int64)
        self._streaks = np.zeros(2 * capacity, dtype=np.int64)
        self._is_sample = np.zeros(2 * capacity, dtype=np.bool_)
        self._was_accepted = np.zeros(2 * capacity, dtype=np.bool_)
        self._columns: dict[str, Column] = {}
        self._statistics: dict[tuple[str, int], Statistics] = {}

    def __len__(self) -> int:
        return min(self._end, self.capacity)

    def append(self, measurement: Measurement) -> None:
        """Add a row; it is judged before it can become a sample."""
        if self._end == 2 * self.capacity:
            self._compact()
        row = self._end
        for metric, value in measurement.values.items():
            if metric not in self._columns:
                self._columns[metric] = self._new_column(value)
            self._columns[metric][row] = value
        self._steps[row] = measurement.step
        self._is_sample[row] = self._was_accepted[row] = False
        self._streaks[row] = 0
        self._end = row + 1
        self.newest = measurement
        self._statistics.clear()

    def close(self, accepted: bool) -> bool:
        """Say what became of the newest row: accepted rows are samples from now on.

        Returns:
            True if the level is re-based: so many rejected rows in a row are the samples now.
        """
        row = self._end - 1
        self._is_sample[row] = self._was_accepted[row] = accepted
        self._statistics.clear()
        if accepted:
            return False
        before = int(self._streaks[row - 1]) if row else 0
        values = self.newest.values.values()
        is_finite = all(math.isfinite(value) for value in values if isinstance(value, float))
        streak = before + is_finite
        if streak < REBASE_AFTER:
            self._streaks[row] = streak
            return False
        accepted_before = np.flatnonzero(self._streaks[:row] == 0)
        first = int(accepted_before[-1]) + 1 if accepted_before.size else 0
        self._is_sample[: self._end] = False
        self._is_sample[first : self._end] = True
        return True

    def abandon(self, after_step: int) -> None:
        """Leave out every row that measured a later state than that after a step, to which the run was set back."""
        kept = self.state_steps <= after_step
        self._is_sample[self._start : self._end] &= kept
        self._was_accepted[self._start : self._end] &= kept
        self._statistics.clear()

    def has(self, metric: str) -> bool:
        """True if some row may have the metric."""
        return metric in self._columns

    def column(self, metric: str) -> Column:
        """View of a metric, oldest row first: shape (rows,) or (rows, groups); NaN where it was not measured.

        Raises:
            KeyError: if no row has the metric.
        """
        return self._columns[metric][self._start : self._end]

    @property
    def steps(self) -> NDArray[np.int64]:
        """View of the steps of the rows, oldest first; shape (rows,)."""
        return self._steps[self._start : self._end]

    @property
    def was_accepted(self) -> NDArray[np.bool_]:
        """View of which rows were accepted, and not abandoned since, oldest first; shape (rows,)."""
        return self._was_accepted[self._start : self._end]

    @property
    def state_steps(self) -> NDArray[np.float64]:
        """For each row, the step whose update is the last one in the state it measured; shape (rows,).

        That is the step before, unless `STATE_STEP` was measured.
        """
        states: NDArray[np.float64] = self.steps.astype(np.float64) - 1
        if self.has(STATE_STEP):
            told = self.column(STATE_STEP)
            np.copyto(states, told, where=np.isfinite(told))
        return states

    def samples(self, metric: str, window: int) -> Column:
        """The newest finite values of a metric that are samples, oldest first; at most `window` of them.

        The newest row is never among them: it is the one being judged.
        """
        column = self._columns.get(metric)
        if column is None:
            return np.empty(0)
        values = column[self._start : self._end][self._is_sample[self._start : self._end]]
        finite = np.isfinite(values)
        kept = values[finite if values.ndim == 1 else finite.all(axis=1)]
        return kept[max(len(kept) - window, 0) :]

    def accepted_rows(self, metric: str) -> NDArray[np.int64]:
        """The rows of `column` that were accepted, and not abandoned since, with a finite value of a scalar metric.

        Rejected rows are never among them, whatever became the level since.
        """
        kept: NDArray[np.int64] = np.flatnonzero(self.was_accepted & np.isfinite(self.column(metric)))
        return kept

    def measured(self, metric: str, num: int) -> Column:
        """The newest rows in which a per-group metric was measured for some group, rejected ones included.

        Args:
            metric: a metric with one number per group.
            num: the most rows to take.

        Returns:
            The rows, oldest first; shape (rows, groups). None of them where no row has the metric.
        """
        if metric not in self._columns:
            return np.empty((0, len(self.groups)))
        column = self.column(metric)
        rows = np.flatnonzero(np.isfinite(column).any(axis=1))
        return column[rows[max(len(rows) - num, 0) :]]

    def count_newest(self, metric: str, value: float) -> int:
        """How many of the newest rows, without a break, have exactly this value of a scalar metric."""
        others = np.flatnonzero(self.column(metric) != value)
        return len(self) - (int(others[-1]) + 1 if len(others) else 0)

    def is_within(self, metric: str, window: int) -> bool:
        """True if the newest number of a metric is not above the largest of its newest samples.

        No limit of `Statistics.limit_above` is below the largest sample, so this spares the statistics of most steps.
        """
        value = self.newest.values.get(metric)
        if not isinstance(value, float):
            return False
        row = self._end - 1
        for num_rows in (RECENT, window):  # a sample among these rows is one of the newest samples
            recent = slice(max(row - min(num_rows, window), self._start), row)
            samples = self._columns[metric][recent][self._is_sample[recent]]
            if len(samples) and value <= samples.max() < math.inf:
                return True
        samples = self.samples(metric, window)
        return len(samples) > 0 and value <= float(samples.max())

    def has_risen(self, metric: str, times: float) -> bool:
        """True if the newest number of any group is above so many times its newest sample: cheap, to be asked first.

        False without a sample, or where the newest row or that sample lacks the metric.
        """
        row = self._end - 1
        before = row - 1
        while before >= self._start and not self._is_sample[before]:
            before -= 1
        if before < self._start or metric not in self.newest.values:
            return False
        column = self._columns[metric]
        return bool((column[row] > times * column[before]).any())

    def statistics(self, metric: str, window: int) -> Statistics:
        """Robust level and spread of a scalar metric's newest samples, computed once per step for all detectors.

        The level is the median. The spread is the larger of two robust standard deviations, each 1.4826 times the
        median of absolute values: of the deviations from the window's trend, which see slow swings, and of successive
        differences divided by the square root of 2, which see noise.

        Args:
            metric: a metric with one number per row.
            window: the number of samples to use, at most `capacity`.
        """
        key = (metric, window)
        if key not in self._statistics:
            self._statistics[key] = compute_statistics(self.samples(metric, window))
        return self._statistics[key]

    def state_dict(self) -> dict[str, Any]:
        """Everything it remembers, as numbers, text and NumPy arrays."""
        kept = slice(self._start, self._end)
        return {
            "groups": list(self.groups),
            "capacity": self.capacity,
            "newest": {"step": self.newest.step, "values": dict(self.newest.values), "clock": self.newest.clock},
            "steps": self._steps[kept].copy(),
            "streaks": self._streaks[kept].copy(),
            "is_sample": self._is_sample[kept].copy(),
            "was_accepted": self._was_accepted[kept].copy(),
            "columns": {metric: column[kept].copy() for metric, column in self._columns.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what another history of the same groups remembered."""
        self.capacity = state["capacity"]
        self.newest = Measurement(**state["newest"])
        self._end = len(state["steps"])
        self._steps = self._with_room(state["steps"])
        self._streaks = self._with_room(state["streaks"])
        self._is_sample = self._with_room(state["is_sample"])
        self._was_accepted = self._with_room(state["was_accepted"])
        self._columns = {metric: self._with_room(kept) for metric, kept in state["columns"].items()}
        self._statistics.clear()

    @property
    def _start(self) -> int:
        return max(self._end - self.capacity, 0)

    def _new_column(self, value: float | tuple[float, ...]) -> Column:
        if isinstance(value, tuple):
            return np.full((2 * self.capacity, len(value)), np.nan, dtype=np.float32)
        return np.full(2 * self.capacity, np.nan)

    def _with_room(self, kept: NDArray[Any]) -> NDArray[Any]:
        """The rows kept, in an array with room for as many more as ever, where nothing is measured yet."""
        array = np.full((2 * self.capacity, *kept.shape[1:]), _nothing(kept), dtype=kept.dtype)
        array[: len(kept)] = kept
        return array

    def _compact(self) -> None:
        for array in (self._steps, self._streaks, self._is_sample, self._was_accepted, *self._columns.values()):
            array[: self.capacity] = array[self.capacity :]
            array[self.capacity :] = _nothing(array)
        self._end = self.capacity


def _nothing(array: NDArray[Any]) -> float:
    """What stands for nothing measured in an array."""
    return np.nan if array.dtype.kind == "f" else 0


def compute_statistics(samples: Column) -> Statistics:
    """Robust level and spread of samples in their order; shape (samples,)."""
    num = len(samples)
    if num == 0:
        return Statistics(num=0, level=math.nan, spread=0.0, largest=math.nan, is_log=False)
    largest = float(samples.max())
    is_log = bool(samples.min() >= 0) and largest > 0
    scaled = np.log(np.maximum(samples, NEAR_ZERO * largest)) if is_log else samples
    level = _median(scaled)
    flat = _remove_trend(scaled) if num >= TREND_SAMPLES else scaled - level
    deviation = _median(np.abs(flat))
    difference = _median(np.abs(scaled[1:] - scaled[:-1])) / math.sqrt(2) if num > 1 else 0.0
    spread = GAUSSIAN_MAD * max(deviation, difference)
    return Statistics(num, math.exp(level) if is_log else level, spread, largest, is_log)


def _remove_trend(values: Column) -> Column:
    """Distances from the line through the medians of both halves: what a steady rise or fall leaves of a window."""
    middle = len(values) // 2
    slope = (_median(values[middle:]) - _median(values[:middle])) / (len(values) - middle)
    flat = values - slope * np.arange(len(values))
    distances: Column = flat - _median(flat)
    return distances


def _median(values: Column) -> float:
    """The upper median: the middle value, or the larger of the two middle ones."""
    middle = len(values) // 2
    return float(np.partition(values, middle)[middle])
