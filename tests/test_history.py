"""The history: columns as views, samples, re-basing, statistics, and a state that is all it remembers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from trimtab.history import (
    GAUSSIAN_MAD,
    NEAR_ZERO,
    REBASE_AFTER,
    TREND_SAMPLES,
    History,
    Statistics,
    compute_statistics,
)
from trimtab.types import Measurement, Value

NAN, INF = math.nan, math.inf


def make_history(values: Sequence[float], capacity: int = 512) -> History:
    """A history of one metric, `x`, every row accepted."""
    history = History(capacity=capacity)
    for step, value in enumerate(values, 1):
        history.append(Measurement(step, {"x": value}))
        history.close(accepted=True)
    return history


def reject(history: History, values: Sequence[float]) -> None:
    """Append rows of `x` that are rejected."""
    for step, value in enumerate(values, history.newest.step + 1):
        history.append(Measurement(step, {"x": value}))
        history.close(accepted=False)


@pytest.mark.parametrize(
    ("num_rows", "kept"),
    [
        pytest.param(1, [1], id="one-row"),
        pytest.param(4, [1, 2, 3, 4], id="just-full"),
        pytest.param(5, [2, 3, 4, 5], id="oldest-row-falls-out"),
        pytest.param(8, [5, 6, 7, 8], id="the-arrays-are-full"),
        pytest.param(9, [6, 7, 8, 9], id="rows-moved-to-the-front"),
        pytest.param(103, [100, 101, 102, 103], id="many-times-round"),
    ],
)
def test_ring_keeps_the_newest_rows(num_rows: int, kept: list[int]) -> None:
    """A history of capacity 4 holds its 4 newest rows, oldest first, however often it wrapped around."""
    history = make_history(range(1, num_rows + 1), capacity=4)
    assert len(history) == len(kept)
    assert history.steps.tolist() == history.column("x").tolist() == kept
    assert history.samples("x", 3).tolist() == kept[-3:]


def test_column_is_a_view() -> None:
    """A column and the steps are views of the history's own arrays; nothing is copied to look at them."""
    history = make_history([1.0, 2.0])
    assert np.shares_memory(history.column("x"), history.column("x"))
    assert np.shares_memory(history.steps, history.steps)


def test_column_has_nan_where_a_metric_was_not_measured() -> None:
    """A metric that begins late or pauses is NaN in the other rows, and a number per group is one float32 column."""
    history = History(groups=("a", "b"))
    measured: list[dict[str, Value]] = [{"x": 1.0}, {"x": 2.0, "y": (0.1, INF)}, {"y": (0.2, 0.3)}]
    for step, values in enumerate(measured, 1):
        history.append(Measurement(step, values))
    np.testing.assert_array_equal(history.column("x"), [1.0, 2.0, NAN])
    np.testing.assert_array_equal(history.column("y"), np.array([[NAN, NAN], [0.1, INF], [0.2, 0.3]], dtype=np.float32))
    assert [history.column(metric).dtype.name for metric in ("x", "y")] == ["float64", "float32"]


def test_unknown_metric_has_no_column_and_no_samples() -> None:
    """Asking for the column of a metric no row has is a KeyError; its samples are none."""
    history = make_history([1.0])
    with pytest.raises(KeyError, match="'y'"):
        history.column("y")
    assert history.samples("y", 10).tolist() == []
    assert history.statistics("y", 10).num == 0


@pytest.mark.parametrize(
    ("story", "samples"),
    [
        pytest.param("1+ 2+ 3+", [1, 2, 3], id="accepted"),
        pytest.param("1+ 2- 3+", [1, 3], id="rejected-row-left-out"),
        pytest.param("1+ 2+ 3?", [1, 2], id="newest-row-is-being-judged"),
        pytest.param("1?", [], id="first-row-is-being-judged"),
        pytest.param("1+ 2+ 3+ 4- ↶1 5+", [1, 2, 5], id="rows-a-rollback-abandoned-left-out"),
        pytest.param("1+ 2+ ↶0 3+", [1, 3], id="rollback-to-the-beginning"),
        pytest.param("1+ 2+ ↶2 3+", [1, 2, 3], id="rollback-that-loses-no-row"),
        pytest.param("1+ nan+ inf+ -inf+ 5+", [1, 5], id="nonfinite-is-never-a-sample"),
        pytest.param("1+ 2+ 3+ 4+ 5+ 6+", [3, 4, 5, 6], id="window-of-the-newest-four"),
        pytest.param("1+ 2+ 3+ 4- 5- 6+", [1, 2, 3, 6], id="window-counts-samples-not-rows"),
    ],
)
def test_samples_are_the_accepted_rows(story: str, samples: list[float]) -> None:
    """Samples are accepted rows (`+`), not rejected (`-`), unjudged (`?`) or abandoned ones.

    `↶` sets back to the state after a step, which is the state that the row after it measured.
    """
    history = History()
    for word in story.split():
        if word.startswith("↶"):
            history.abandon(int(word[1:]))
            continue
        history.append(Measurement(history.newest.step + 1, {"x": float(word[:-1])}))
        if not word.endswith("?"):
            history.close(accepted=word.endswith("+"))
    assert history.samples("x", 4).tolist() == samples


def test_samples_by_group_leave_out_rows_with_any_nonfinite_group() -> None:
    """A row is a sample of a per-group metric only where every group is finite."""
    history = History(groups=("a", "b"))
    for step, row in enumerate([(1.0, 2.0), (NAN, 2.0), (3.0, 4.0)], 1):
        history.append(Measurement(step, {"y": row}))
        history.close(accepted=True)
    assert history.samples("y", 10).tolist() == [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize(
    ("num_rejected", "samples"),
    [
        pytest.param(REBASE_AFTER - 1, [1.0, 1.0], id="one-short"),
        pytest.param(REBASE_AFTER, [9.0] * REBASE_AFTER, id="new-level"),
        pytest.param(REBASE_AFTER + 5, [9.0] * REBASE_AFTER, id="counting-starts-again"),
        pytest.param(2 * REBASE_AFTER, [9.0] * REBASE_AFTER, id="and-again"),
    ],
)
def test_rejected_rows_in_a_row_become_the_level(num_rejected: int, samples: list[float]) -> None:
    """After `REBASE_AFTER` consecutive rejected rows these, and nothing older, are the samples."""
    history = make_history([1.0, 1.0])
    reject(history, [9.0] * num_rejected)
    assert history.samples("x", 100).tolist() == samples


def test_an_accepted_row_starts_the_count_anew() -> None:
    """Rejected rows with one accepted row among them never re-base."""
    history = make_history([1.0])
    for _ in range(3):
        reject(history, [9.0] * (REBASE_AFTER - 1))
        history.append(Measurement(history.newest.step + 1, {"x": 1.0}))
        history.close(accepted=True)
    assert history.samples("x", 100).tolist() == [1.0] * 4


@pytest.mark.parametrize("capacity", [4, REBASE_AFTER - 5, REBASE_AFTER - 1, REBASE_AFTER, 512])
def test_rebasing_holds_for_every_capacity(capacity: int) -> None:
    """Re-basing keeps as many of the rejected rows as the ring holds, wherever in the ring it happens."""
    for num_before in range(2 * capacity % 61):
        history = make_history([1.0] * num_before, capacity)
        reject(history, [9.0] * REBASE_AFTER)
        assert history.samples("x", 512).tolist() == [9.0] * min(capacity, REBASE_AFTER)


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        pytest.param([], Statistics(0, NAN, 0.0, NAN, False), id="none"),
        pytest.param([2.0], Statistics(1, 2.0, 0.0, 2.0, True), id="one"),
        pytest.param([3.0] * 9, Statistics(9, 3.0, 0.0, 3.0, True), id="constant"),
        pytest.param([-3.0] * 9, Statistics(9, -3.0, 0.0, -3.0, False), id="constant-negative"),
        pytest.param([0.0] * 9, Statistics(9, 0.0, 0.0, 0.0, False), id="zeros-have-no-logarithm"),
        pytest.param(
            [1.0, math.e, math.e**2, math.e**3, math.e**4],
            Statistics(5, math.e**2, GAUSSIAN_MAD, math.e**4, True),
            id="positive-on-log-scale",
        ),
        pytest.param(
            [-1.0, 0.0, 1.0, 2.0, 3.0], Statistics(5, 1.0, GAUSSIAN_MAD, 3.0, False), id="negative-on-linear-scale"
        ),
        pytest.param([1.0, 2.0], Statistics(2, 2.0, GAUSSIAN_MAD * math.log(2), 2.0, True), id="upper-median"),
        pytest.param(
            [1.0, 2.0, 1.0] * 5, Statistics(15, 1.0, GAUSSIAN_MAD * math.log(2) / 2**0.5, 2.0, True), id="two-valued"
        ),
        pytest.param(
            [-1.0, 1.0] * 5, Statistics(10, 1.0, GAUSSIAN_MAD * 2, 1.0, False), id="differences-larger-than-deviations"
        ),
        pytest.param(
            [math.exp(-step) for step in range(20)],
            Statistics(20, math.exp(-9), GAUSSIAN_MAD / 2**0.5, 1.0, True),
            id="steady-fall-has-the-spread-of-its-steps",
        ),
        pytest.param(
            [math.exp(-step) for step in range(15)],
            Statistics(15, math.exp(-7), GAUSSIAN_MAD * 4, 1.0, True),
            id="too-few-samples-for-a-trend",
        ),
        pytest.param(
            [0.0, 4.0, 4.0],
            Statistics(3, 4.0, -GAUSSIAN_MAD * math.log(NEAR_ZERO) / 2**0.5, 4.0, True),
            id="exact-zero",
        ),
    ],
)
def test_statistics(samples: list[float], expected: Statistics) -> None:
    """Level and spread are robust: median, and the larger spread of deviations and successive differences."""
    found = compute_statistics(np.array(samples))
    assert (found.num, found.is_log) == (expected.num, expected.is_log)
    assert (found.level, found.spread, found.largest) == pytest.approx(
        (expected.level, expected.spread, expected.largest), rel=1e-12, nan_ok=True
    )


@pytest.mark.parametrize(
    ("samples", "limit"),
    [
        pytest.param([1.0, 1.0, 1.0], 1.5, id="quiet-so-by-factor"),
        pytest.param([1.0, 1.0, 1.0, 4.0], 5.0, id="largest-so-by-margin"),
        pytest.param([1.0, math.e, math.e**2], math.e ** (1 + 8 * GAUSSIAN_MAD), id="noisy-so-by-spread"),
        pytest.param([-2.0, -2.0, -2.0], -1.0, id="negative-so-by-distance"),
        pytest.param([-2.0, -2.0, -2.0, -2.0, 2.0], 3.0, id="largest-by-its-distance-from-the-level"),
        pytest.param([0.0, 0.0], INF, id="zeros-say-nothing-of-scale"),
        pytest.param([1e-300, 1.0, 1e300], INF, id="beyond-float64"),
        pytest.param([], NAN, id="none"),
    ],
)
def test_limit_above(samples: list[float], limit: float) -> None:
    """The limit is the largest of 8 spreads above the level, 1.5 times the level, 1.25 times the largest sample."""
    assert compute_statistics(np.array(samples)).limit_above(8.0, 1.5, 1.25) == pytest.approx(limit, nan_ok=True)


def test_statistics_follow_what_was_decided() -> None:
    """Statistics asked for before and after a row is closed or abandoned differ by that row."""
    history = make_history([1.0, 1.0, 5.0])
    assert history.statistics("x", 10).largest == 5.0
    history.abandon(after_step=1)
    assert history.statistics("x", 10).largest == 1.0
    history.append(Measurement(4, {"x": 3.0}))
    assert history.statistics("x", 10).num == 2
    history.close(accepted=True)
    assert history.statistics("x", 10).num == 3


Row: TypeAlias = tuple[int, Mapping[str, Value], bool]


@dataclass
class NaiveHistory:
    """What `History` promises, as a list of (step, values, is a sample) and without a thought for speed."""

    capacity: int
    rows: list[Row] = field(default_factory=list)
    num_rejected: int = 0
    num_in_streak: int = 0

    def append(self, measurement: Measurement) -> None:
        self.rows = [*self.rows, (measurement.step, measurement.values, False)][-self.capacity :]

    def close(self, accepted: bool) -> None:
        step, values, _ = self.rows[-1]
        self.rows[-1] = (step, values, accepted)
        is_finite = all(math.isfinite(value) for value in values.values() if isinstance(value, float))
        self.num_rejected = 0 if accepted else self.num_rejected + is_finite
        self.num_in_streak = 0 if not self.num_rejected else self.num_in_streak + 1
        if self.num_rejected == REBASE_AFTER:
            fresh = len(self.rows) - self.num_in_streak
            self.rows = [(step, values, index >= fresh) for index, (step, values, _) in enumerate(self.rows)]
            self.num_rejected = self.num_in_streak = 0

    def abandon(self, after_step: int) -> None:
        self.rows = [(step, values, kept and step <= after_step + 1) for step, values, kept in self.rows]

    def column(self, metric: str) -> list[Value]:
        return [values.get(metric, NAN) for _, values, _ in self.rows]

    def samples(self, metric: str, window: int) -> list[float]:
        found = [values.get(metric, NAN) for _, values, is_sample in self.rows if is_sample]
        return [value for value in found if isinstance(value, float) and math.isfinite(value)][-window:]

    def statistics(self, metric: str, window: int) -> Statistics:
        samples = self.samples(metric, window)
        if not samples:
            return Statistics(0, NAN, 0.0, NAN, False)
        is_log = min(samples) >= 0 and max(samples) > 0
        floor = NEAR_ZERO * max(samples)
        scaled = [math.log(max(value, floor)) for value in samples] if is_log else samples
        level = upper_median(scaled)
        flat = scaled
        if len(scaled) >= TREND_SAMPLES:
            middle = len(scaled) // 2
            slope = (upper_median(scaled[middle:]) - upper_median(scaled[:middle])) / (len(scaled) - middle)
            flat = [value - slope * index for index, value in enumerate(scaled)]
        spreads = [upper_median([abs(value - upper_median(flat)) for value in flat])]
        if len(scaled) > 1:
            spreads.append(upper_median([abs(after - before) for before, after in pairwise(scaled)]) / 2**0.5)
        level = math.exp(level) if is_log else level
        return Statistics(len(samples), level, GAUSSIAN_MAD * max(spreads), max(samples), is_log)


def upper_median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


numbers = st.one_of(
    st.floats(1e-6, 1e6),
    st.floats(-1e6, 1e6).filter(lambda number: number == 0 or abs(number) > 1e-6),
    st.sampled_from([0.0, NAN, INF, -INF, 1.0]),
)
runs = st.builds(lambda number, times: [number] * times, numbers, st.integers(0, 2 * REBASE_AFTER))
rows = st.tuples(st.lists(numbers, max_size=4) | runs, st.booleans())


@settings(deadline=None, max_examples=150)
@given(st.integers(2, REBASE_AFTER + 15), st.lists(rows | st.integers(0, 8) | st.none(), max_size=12))
def test_history_agrees_with_a_list(capacity: int, story: list[tuple[list[float], bool] | int | None]) -> None:
    """Appended and closed, abandoned (so many steps), saved and loaded (None): it tells what a plain list would."""
    history, naive, step = History(capacity=capacity), NaiveHistory(capacity), 0
    for word in story:
        if word is None:
            saved, history = history.state_dict(), History()
            history.load_state_dict(saved)
        elif isinstance(word, int):
            history.abandon(step - word)
            naive.abandon(step - word)
        else:
            for number in word[0]:
                step += 1
                measurement = Measurement(step, {"x": number, **({"y": float(step)} if step % 3 else {})})
                for each in (history, naive):
                    each.append(measurement)
                assert_same(history, naive, "x", step)
                for each in (history, naive):
                    each.close(word[1])
        assert history.newest.step == step
        np.testing.assert_array_equal(history.samples("x", 10), naive.samples("x", 10))
        np.testing.assert_array_equal(history.samples("y", capacity), naive.samples("y", capacity))


def assert_same(history: History, naive: NaiveHistory, metric: str, step: int) -> None:
    """Rows, column and statistics over a window that differs from step to step are those of the list."""
    assert history.steps.tolist() == [row[0] for row in naive.rows]
    np.testing.assert_array_equal(history.column(metric), naive.column(metric))
    window = 1 + step % naive.capacity
    found, expected = history.statistics(metric, window), naive.statistics(metric, window)
    assert (found.num, found.is_log) == (expected.num, expected.is_log)
    np.testing.assert_array_equal(found.largest, expected.largest)
    np.testing.assert_allclose(found.level, expected.level, rtol=1e-12)
    np.testing.assert_allclose(found.spread, expected.spread, rtol=1e-9, atol=1e-12)


def test_a_loaded_history_is_no_alias() -> None:
    """A history and the one it was saved to go their own ways: neither changes the other, nor the state between."""
    history = make_history([1.0, 2.0])
    state, other = history.state_dict(), History()
    other.load_state_dict(state)
    history.append(Measurement(3, {"x": 3.0}))
    history.abandon(after_step=0)
    other.abandon(after_step=-1)
    assert history.samples("x", 10).tolist() == [1.0]
    assert other.samples("x", 10).tolist() == []
    assert state["is_sample"].tolist() == [True, True]
