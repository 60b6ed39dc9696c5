"""A loss that has been rising for hundreds of steps, and what rose beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from trimtab.detectors import detector
from trimtab.detectors.reviewing import MEDIAN_ERROR, Numbers, measure_noise
from trimtab.history import History
from trimtab.types import Breach

Rows = NDArray[np.int64]

JUDGED_EVERY = 25
"""Steps from one judgement to the next."""

NUM_BLOCKS = 8
"""Parts of the window whose levels have to rise."""

MIN_CONCORDANCE = 20
"""Of the 28 pairs of parts, how many more are in rising than in falling order: by chance, once in 1000 (Mann 1945)."""

SURE = 8.0
"""Standard errors that the rise from the first quarter to the last has to have."""

RATE_RISE, NORM_RISE = 1.3, 3.0
"""How far a learning rate or a gradient norm has to rise along with the loss to be its reason."""

SAME_RATE = 1.05
"""A rate up to so many times an earlier one is that one."""

WEIGHT_CHANGE = 2.0
"""How far the weight norm of a group has to change, up or down, within the window to be its reason."""


@dataclass(frozen=True, slots=True)
class Trend:
    """A rise of the loss over the window."""

    since: int
    """The first step of the window."""

    before: float
    """The level of its first quarter."""

    after: float
    """The level of its last quarter."""

    least: float
    """The level above which the last one had to be."""


@detector("silent-divergence", severity="high")
def find_silent_divergence(history: History, *, window: int = 200, rise: float = 0.05) -> Iterator[Breach]:
    """The loss has been rising for hundreds of steps; it says what rose beside it.

    What it sees:
        At every 25th step, the medians of eight parts of the newest `window` accepted losses, in rising order but for
        a few (Mann's test of trend, once in 1000 by chance), and the last quarter above the first by 8 standard errors
        and by `rise` of the level, or of the distance the window's losses span if that is more. Then, in this order,
        a learning rate that rose by 1.3 times meanwhile; a group whose weight norm doubled or halved; a gradient norm
        that rose by 3 times; or none of these. Said again only after the window has passed.
    Why it matters:
        No step stands out, so no limit on a step finds it, and all that is learned is slowly lost.
    Stays silent:
        On a plateau, and on noise. While a schedule that starts again goes back to a rate it has had. On a rise that
        `loss-spike` has found, whose steps are not accepted. `drift` is faster, and does not look for a reason.
    Settings:
        window: accepted losses that are judged.
        rise: the rise that is not remarked on.
    Default response:
        None; it is advisory. From a checkpoint before it: learning rate ÷ 2; weight decay × 2 where the weights grew
        and ÷ 2 where they shrank. With ["reload+cool"] it does so itself.
    """
    if history.newest.step % JUDGED_EVERY or "loss" not in history.newest.values:
        return
    rows = history.accepted_rows("loss")
    losses = np.asarray(history.column("loss")[rows], dtype=np.float64)
    trend = find_trend(losses[-window:], history.steps[rows][-window:], rise) if len(rows) >= window else None
    if trend is None or _was_said(losses, history.steps[rows], window, rise) or _starts_again(history, trend.since):
        return
    message = f"the loss rose from {trend.before:.4g} to {trend.after:.4g} since step {trend.since}"
    yield Breach(
        metric="loss_trend",
        value=trend.after,
        limit=trend.least,
        expected=trend.before,
        since=trend.since,
        message=f"{message}: {name_reason(history, rows[-window:])}",
    )


def find_trend(losses: Numbers, steps: Rows, rise: float) -> Trend | None:
    """The rise of losses over a window; None where they do not rise for good.

    Args:
        losses: the losses, oldest first; shape (losses,).
        steps: their steps.
        rise: the share of the level that is none.
    """
    levels = np.array([np.median(part) for part in np.array_split(losses, NUM_BLOCKS)])
    concordance = sum(int(np.sign(later - earlier)) for earlier, later in combinations(levels.tolist(), 2))
    quarter = len(losses) // 4
    before, after = float(np.median(losses[:quarter])), float(np.median(losses[-quarter:]))
    error = MEDIAN_ERROR * measure_noise(losses) * float(np.sqrt(2 / quarter))
    least = before + max(SURE * error, rise * max(abs(before), float(np.ptp(levels[: NUM_BLOCKS // 2]))))
    if concordance < MIN_CONCORDANCE or not after > least:
        return None
    return Trend(int(steps[0]), before, after, least)


def name_reason(history: History, rows: Rows) -> str:
    """What rose beside the loss over some rows, and what to do about it, in words."""
    quarter = len(rows) // 4
    rate = _compare(history, "learning_rate", rows, quarter)
    if rate >= RATE_RISE:
        return f"the learning rate rose by {rate:.3g} times meanwhile (a warm-up that does not end?): learning rate ÷ 2"
    changes = _compare_groups(history, rows, quarter)
    if len(changes):
        group = int(np.argmax(np.abs(np.log(changes))))
        change = float(changes[group])
        if max(change, 1 / change) >= WEIGHT_CHANGE:
            remedy = "grew: weight decay × 2" if change > 1 else "shrank: weight decay ÷ 2"
            return f"the weights of {history.groups[group]} are {change:.3g} times what they were, they {remedy}"
    norm = _compare(history, "grad_norm", rows, quarter)
    if norm >= NORM_RISE:
        return f"the gradient norm rose by {norm:.3g} times meanwhile: learning rate ÷ 2"
    return "learning rate, weights and gradients did not change with it: look at the data from there on"


def _was_said(losses: Numbers, steps: Rows, window: int, rise: float) -> bool:
    """True if the same rise was there at an earlier judgement of which the losses are still at hand."""
    for back in range(JUDGED_EVERY, window, JUDGED_EVERY):
        end = len(losses) - back
        if end < window:
            return False
        if find_trend(losses[end - window : end], steps[end - window : end], rise) is not None:
            return True
    return False


def _starts_again(history: History, since: int) -> bool:
    """True if the learning rate rose since a step, and not beyond what it had been before."""
    if not history.has("learning_rate"):
        return False
    rates, is_new = history.column("learning_rate"), history.steps >= since
    if not is_new.any() or is_new.all():
        return False
    lowest, peak, earlier = map(float, (np.nanmin(rates[is_new]), np.nanmax(rates[is_new]), np.nanmax(rates[~is_new])))
    return peak > RATE_RISE * lowest and peak <= SAME_RATE * earlier


def _compare(history: History, metric: str, rows: Rows, quarter: int) -> float:
    """How many times a metric in the last quarter is what it was in the first; NaN where that is not known."""
    if not history.has(metric):
        return float("nan")
    values = history.column(metric)[rows]
    if history.has("rate_declared") and (history.column("rate_declared")[rows] == 1).any():
        return float("nan")
    before, after = float(np.nanmedian(values[:quarter])), float(np.nanmedian(values[-quarter:]))
    return after / before if before > 0 else float("nan")


def _compare_groups(history: History, rows: Rows, quarter: int) -> Numbers:
    """The same of the weight norm of each group, 1 where it was or is 0; empty where it is not known."""
    if not history.has("weight_norm"):
        return np.empty(0)
    norms = history.column("weight_norm")[rows].astype(np.float64)
    before, after = np.median(norms[:quarter], axis=0), np.median(norms[-quarter:], axis=0)
    is_known = np.isfinite(before) & np.isfinite(after) & (before > 0.1 * before.max(initial=0.0)) & (after > 0)
    return np.where(is_known, np.divide(after, before, where=is_known, out=np.ones_like(before)), 1.0)
