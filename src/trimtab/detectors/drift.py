"""A slow rise that no single step gives away."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trimtab.detectors import detector
from trimtab.history import Column, History, compute_statistics
from trimtab.types import Breach

METRICS = ("loss", "probe_loss")

JUDGED_EVERY = 8
"""Steps from one judgement to the next; a slow rise can wait, and the statistics are paid for by all of them."""

LARGEST = 4.0
"""No single innovation counts for more spreads than these, so that a few spikes are no drift."""

ALLOWANCE = 1.0
"""Spreads that each innovation may lie above the level before it counts."""

FLOOR = 1e-3
"""The least spread, on log scale or relative to the level: an exact plateau is not judged by its rounding."""


@detector("drift", severity="medium")
def find_drift(history: History, *, threshold: float = 12.0, window: int = 64, warmup: int = 96) -> Iterator[Breach]:
    """The loss or the probe has been rising for a while, too slowly for any step to stand out.

    What it sees:
        A cumulative sum (CUSUM, Page 1954) over the newest `window` accepted numbers: of their distances from the
        level, in robust spreads, less one spread each, never below 0. Level and spread are those of the `window`
        accepted numbers before. It is judged every 8th step, and found once, when the sum passes `threshold`.
    Why it matters:
        A learning rate that ramps too far, targets or data that drift, an optimizer that no longer gets anywhere:
        each step is a little worse than the last, and a limit that follows the level follows them.
    Stays silent:
        On noise: of independent normal numbers, one in 10^11 is a false alarm with the default (Siegmund's
        approximation), and in 120 healthy runs of small image and language models the sum stayed below 3, where ramps
        and drifts reached 14 to 192. On a rise that is found as a spike. While a loss falls, a rise counts only from
        where it passes the level of `window` steps ago.
    Settings:
        threshold: the sum that is a finding, in spreads.
        window: numbers that are judged, and as many before them that they are judged by.
        warmup: numbers below which nothing is judged.
    Default response:
        None; it is advisory. Where it is the learning rate, ["reload+cool"] helps; where it is the data, nothing that
        can be done to the weights does.
    """
    if history.newest.step % JUDGED_EVERY == 0:
        for metric in METRICS:
            yield from _judge(history, metric, threshold, window, warmup)


def _judge(history: History, metric: str, threshold: float, window: int, warmup: int) -> Iterator[Breach]:
    if not history.has(metric):
        return
    values = history.column(metric)
    rows = history.accepted_rows(metric)
    if np.isfinite(values[-1]):
        rows = np.append(rows, len(values) - 1)
    num_new = min(window, len(rows) - window)
    if len(rows) < warmup or num_new < JUDGED_EVERY:
        return
    newest = rows[-num_new:]
    before = values[rows[:-num_new]][-window:]
    sums, _ = compute_sums(before, values[newest])
    num_since = int(np.searchsorted(history.steps[newest], history.newest.step - JUDGED_EVERY, side="right"))
    was_beyond = num_since > 0 and sums[num_since - 1] > threshold
    if sums[-1] <= threshold or was_beyond:
        return
    at_zero = np.flatnonzero(sums == 0)
    since = int(history.steps[newest[int(at_zero[-1]) + 1 if at_zero.size else 0]])
    level = float(np.median(before))
    recent = float(np.median(values[newest[-JUDGED_EVERY:]]))
    message = (
        f"{metric} has been rising since step {since}, from {level:.4g} to {recent:.4g} "
        f"(cumulative sum {sums[-1]:.3g}, threshold {threshold:g})"
    )
    yield Breach(metric=metric, value=recent, limit=level, expected=level, message=message, since=since)


def compute_sums(before: Column, newest: Column) -> tuple[Column, Column]:
    """The cumulative sum after each number, and each one's distance from the level in spreads.

    Args:
        before: the numbers that level and spread rest on, oldest first; shape (before,).
        newest: the numbers that are judged, oldest first; shape (newest,).

    Returns:
        Two arrays of shape (newest,).
    """
    seen = compute_statistics(before)
    if seen.is_log:
        spread = max(seen.spread, FLOOR)
        distances = (np.log(np.maximum(newest, np.finfo(float).tiny)) - np.log(seen.level)) / spread
    else:
        spread = max(seen.spread, FLOOR * abs(seen.level))
        distances = (newest - seen.level) / spread if spread > 0 else np.zeros(len(newest))
    steps = np.cumsum(np.minimum(distances, LARGEST) - ALLOWANCE)
    lowest = np.minimum.accumulate(np.minimum(steps, 0.0))
    return steps - lowest, distances
