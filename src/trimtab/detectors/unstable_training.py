"""A loss that swings to and fro."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trimtab.detectors import detector
from trimtab.detectors.reviewing import EVALUATED, Numbers, measure_noise, measure_scale, read_curves
from trimtab.history import History
from trimtab.types import Breach

EVERY, AT = 100, 2
"""Steps are judged at the sampled ones, 102, 202 and so on."""

WINDOW = 256
"""Losses of steps that are judged."""

ALTERNATES = -0.4
"""Correlation of successive losses below which they swing to and fro: of noise it is within 3/√n of 0."""

LEAST_SWINGS = 64
"""Losses that a statement on swings rests on."""

LATE = 0.1
"""The share of what has been learned within which swings are those of late fine-tuning."""

IN_TURNS = -0.6
"""The same of reviews, which are fewer: of 20 that are noise, one window in 300 is below it."""


@detector("unstable-training", severity="low", clocks=("step", "review"))
def find_unstable_training(
    history: History, *, width: float = 0.2, swing: float = 0.3, reviews: int = 20
) -> Iterator[Breach]:
    """The loss swings to and fro, widely.

    What it sees:
        At every hundredth step, successive losses of the newest 256 with a correlation below -0.4, which swing by more
        than `width` of their level: each step overshoots. At a review, `val_loss` moved by more than `swing`
        of its scale (its level, or what was learned if that is more) from one of the newest `reviews` to the next, by
        the median, up and down in turns. Said once per `reviews` reviews, and once
        per 500 steps.
    Why it matters:
        A learning rate at the edge of what is stable wastes updates, and a little more of it diverges.
    Stays silent:
        Late in a run, where swings are small beside what was learned: some oscillation at the bottom is normal. On
        noise, however large, from step to step: it does not alternate.
    Settings:
        width: swings from step to step that are not remarked on, relative to their level.
        swing: swings from review to review that are not remarked on, relative to their scale.
        reviews: reviews that are judged.
    Default response:
        None; it is advisory. The learning rate ÷ 2, or a larger batch.
    """
    if history.newest.clock == "review":
        yield from _judge_reviews(history, swing, reviews)
    elif history.newest.step % EVERY == AT and history.has("loss"):
        yield from _judge_steps(history, width)


def _judge_steps(history: History, width: float) -> Iterator[Breach]:
    rows = history.accepted_rows("loss")
    values = np.asarray(history.column("loss"), dtype=np.float64)
    newest = values[rows[-WINDOW:]]
    if len(newest) < LEAST_SWINGS or history.newest.step % (5 * EVERY) != AT + EVERY:
        return
    level, spread, correlation = measure_swing(newest)
    learned = measure_scale(np.array([np.median(each) for each in np.array_split(values[rows], 8)]))
    if correlation < ALTERNATES and spread > max(width * abs(level), LATE * learned):
        message = (
            f"the loss swings by {spread:.3g} about {level:.4g} from one step to the next (correlation "
            f"{correlation:.2f}): learning rate ÷ 2"
        )
        yield Breach(metric="loss_swing", value=spread, limit=width * abs(level), message=message)


def _judge_reviews(history: History, swing: float, reviews: int) -> Iterator[Breach]:
    found = read_curves(history, EVALUATED)
    if found is None or len(found[0]) < reviews or len(found[0]) % reviews:
        return
    (values,) = found[1]
    newest = values[-reviews:]
    share = float(np.median(np.abs(np.diff(newest)))) / max(measure_scale(values), np.finfo(float).tiny)
    line = np.polyfit(np.arange(reviews), newest, 1)
    _, _, correlation = measure_swing(newest - np.polyval(line, np.arange(reviews)))
    if share > swing and correlation < IN_TURNS:
        message = f"val_loss moves up and down by {share:.0%} from one review to the next: learning rate ÷ 2"
        yield Breach(metric=EVALUATED, value=share, limit=swing, message=message)


def measure_swing(values: Numbers) -> tuple[float, float, float]:
    """The level of losses, how widely they swing about it, and the correlation of successive ones, from -1 to 1."""
    level = float(np.median(values))
    scale = 5 * measure_noise(values)
    away = np.clip(values - level, -scale, scale)
    variance = float((away**2).mean())
    correlation = float((away[1:] * away[:-1]).mean()) / variance if variance > 0 else 0.0
    return level, float(np.sqrt(variance)), correlation
