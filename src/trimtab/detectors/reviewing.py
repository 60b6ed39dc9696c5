"""What the reviews of a run say: the curves of both losses, how far they fell, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trimtab.history import GAUSSIAN_MAD, History

Numbers = NDArray[np.float64]

TRAIN, EVALUATED, NORM, START = "train_loss", "val_loss", "train_grad_norm", "start_loss"
"""The metrics of a review: the training loss and the gradient norm since the review before, the loss on held-out data,
and at the first review the loss the run began with."""

LEAST_REVIEWS = 4
"""Reviews below which nothing is said."""

RISEN = 0.05
"""How far above its best, relative to it, an evaluation loss has to end; or a tenth of what was learned."""

APART = 2.5
"""An evaluation loss above so many times the training loss from the very first review on is another computation."""

STEADY = 1.25
"""How far above the first review the last ones are where the two merely differ; overfitting goes on rising."""

SHORT = 100
"""Numbers below which a curve is short: its trend is seen from one number to the next."""

MEDIAN_ERROR = 1.25
"""Standard error of a median of n normal numbers, in units of their standard deviation divided by √n."""


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Training and evaluation loss at every review."""

    steps: NDArray[np.int64]
    """The steps of the reviews."""

    train: Numbers
    """The median training loss of the records before each review, since the review before."""

    evaluated: Numbers
    """The evaluation loss."""

    noise: float
    """Robust standard deviation of the evaluation loss about its trend."""

    @property
    def best(self) -> int:
        """The index of the lowest evaluation loss."""
        return int(np.argmin(self.evaluated))

    @property
    def end(self) -> float:
        """The evaluation loss at the end: the median of the last three."""
        return float(np.median(self.evaluated[-3:]))

    @property
    def has_risen(self) -> bool:
        """True if the evaluation loss has been above its best for three reviews, by 5 % and 5 times its noise."""
        best = self.best
        lowest = float(self.evaluated[best])
        learned = max(float(self.evaluated[: best + 1].max()) - lowest, 0.0)
        least = max(RISEN * abs(lowest), 0.1 * learned, 5 * self.noise)
        is_above = len(self.steps) - 1 - best >= 3 and float(self.evaluated[-3:].min()) > lowest + least / 2
        return is_above and self.end - lowest > least

    @property
    def has_learned_on(self) -> bool:
        """True if the training loss fell on since the evaluation loss was lowest."""
        return bool(self.train[-1] <= self.train[self.best] - 0.02 * abs(self.train[self.best]))

    @property
    def differs_from_start(self) -> bool:
        """True where the evaluation was far above the training at all reviews, and got neither better nor worse."""
        ratios = self.evaluated / np.maximum(self.train, 1e-12)
        first = float(self.evaluated[0])
        is_steady = self.evaluated.min() > 0.8 * first and self.end < STEADY * first
        return bool(ratios.min() > APART and is_steady and (self.train > 0).all())

    def list_earlier(self, num: int) -> Iterator[Pairs]:
        """What was known at each of so many reviews before the newest one."""
        for end in range(len(self.steps) - 1, max(len(self.steps) - 1 - num, LEAST_REVIEWS - 1), -1):
            yield make_pairs(self.steps[:end], self.train[:end], self.evaluated[:end])


def make_pairs(steps: NDArray[np.int64], train: Numbers, evaluated: Numbers) -> Pairs:
    """Training and evaluation side by side; the noise is taken from second differences, which no trend is in."""
    second = np.diff(evaluated, 2)
    noise = GAUSSIAN_MAD * float(np.median(np.abs(second))) / np.sqrt(6) if len(second) else 0.0
    return Pairs(steps, train, evaluated, noise)


def read_pairs(history: History) -> Pairs | None:
    """Training and evaluation at the reviews at hand; None where there are too few, or the newest lacks one of both."""
    found = read_curves(history, TRAIN, EVALUATED)
    if found is None or len(found[0]) < LEAST_REVIEWS:
        return None
    steps, (train, evaluated) = found
    return make_pairs(steps, train, evaluated)


def read_curves(history: History, *metrics: str) -> tuple[NDArray[np.int64], tuple[Numbers, ...]] | None:
    """The steps of the reviews that have all of some metrics, finite, and those; None if the newest is not among them.

    Args:
        history: the reviews.
        *metrics: metrics with one number a review.
    """
    if not all(metric in history.newest.values for metric in metrics):
        return None
    table = np.array([history.column(metric) for metric in metrics], dtype=np.float64)
    kept: NDArray[np.bool_] = np.asarray(np.isfinite(table).all(axis=0))
    if not kept[-1]:
        return None
    return history.steps[kept], tuple(table[:, kept])


def measure_noise(values: Numbers) -> float:
    """Robust standard deviation of numbers about their neighbours, whatever slow trend they follow.

    From successive differences; of a short curve, whose trend is in them, from second ones where they say less.
    """
    if len(values) < 4:
        return 0.0
    by_first = GAUSSIAN_MAD * float(np.median(np.abs(np.diff(values)))) / np.sqrt(2)
    if len(values) >= SHORT:
        return float(by_first)
    by_second = GAUSSIAN_MAD * float(np.median(np.abs(np.diff(values, 2)))) / np.sqrt(6)
    return float(min(by_first, by_second))


def measure_scale(values: Numbers) -> float:
    """What a change of a loss is held against: its level, or how far it has been from it, if that is more.

    So a share of it means something too where a loss is negative, or passes 0. Never below 0.
    """
    return max(abs(float(np.median(values[-3:]))), float(np.ptp(values)))


def measure_fall(values: Numbers) -> tuple[float, float]:
    """How far a curve fell from its first third to its last, and the standard error of that."""
    num = max(len(values) // 3, 1)
    fall = float(np.median(values[:num]) - np.median(values[-num:]))
    return fall, MEDIAN_ERROR * measure_noise(values) * float(np.sqrt(2 / num))


def has_learned(values: Numbers, share: float = 0.01) -> bool:
    """True if a loss ever was below its first number by more than a share of its scale and five times its noise."""
    return bool(values[0] - values.min() > max(share * measure_scale(values), 5 * measure_noise(values)))


def read_start(history: History) -> float | None:
    """The loss the run began with; None where that is not known."""
    if not history.has(START):
        return None
    column = history.column(START)
    known = column[np.isfinite(column)]
    return float(known[0]) if len(known) else None
