"""Constructed logs: curves with the noise that training has, and the faults that befall it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from trimtab.types import Measurement, Value

Numbers: TypeAlias = NDArray[np.float64]
Rng: TypeAlias = np.random.Generator
Make: TypeAlias = Callable[[Rng], "Draft"]

NUM = 400
"""Records of a log, if nothing else is said."""


@dataclass
class Draft:
    """A log in the making: columns of steps and of reviews, NaN as a value, and what is known of the run."""

    columns: dict[str, Numbers]
    reviews: dict[str, Numbers] = field(default_factory=dict)
    review_steps: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    manifest: Mapping[str, Any] = field(default_factory=dict)
    steps: NDArray[np.int64] | None = None
    sampled: dict[str, tuple[NDArray[np.int64], Numbers]] = field(default_factory=dict)

    @property
    def num(self) -> int:
        return len(self.columns["loss"])

    def measurements(self) -> list[Measurement]:
        """The log as measurements, the reviews behind the step they belong to."""
        steps = np.arange(1, self.num + 1) if self.steps is None else self.steps
        reviews = {
            int(step): {name: float(column[row]) for name, column in self.reviews.items()}
            for row, step in enumerate(self.review_steps)
        }
        sampled: dict[int, dict[str, Value]] = {}
        for name, (at, values) in self.sampled.items():
            for step, value in zip(at.tolist(), values.tolist(), strict=True):
                sampled.setdefault(step, {})[name] = tuple(value) if isinstance(value, list) else value
        made = []
        for row, step in enumerate(steps.tolist()):
            seen: dict[str, Value] = {name: float(column[row]) for name, column in self.columns.items()}
            made.append(Measurement(step, {**seen, **sampled.get(step, {})}))
            if step in reviews:
                made.append(Measurement(step, reviews[step], "review"))
        return made


def noise(rng: Rng, num: int, size: float, slow: float = 0.3) -> Numbers:
    """Multiplicative noise: white, with a slow part, as batches of different difficulty make it."""
    white = rng.normal(size=num)
    drift = np.zeros(num)
    moves = rng.normal(size=num)
    for row in range(1, num):
        drift[row] = 0.9 * drift[row - 1] + 0.44 * moves[row]
    return np.exp(size * ((1 - slow) * white + slow * drift))


def fall(
    rng: Rng, num: int = NUM, start: float = 2.5, end: float = 0.6, speed: float = 6.0, size: float = 0.06
) -> Numbers:
    """A loss that falls as it should."""
    times = np.linspace(0, 1, num)
    return (end + (start - end) * np.exp(-speed * times)) * noise(rng, num, size)


def rest(rng: Rng, num: int = NUM, level: float = 1.0, size: float = 0.06) -> Numbers:
    """A loss that rests at a level."""
    return level * noise(rng, num, size)


def norms(rng: Rng, num: int = NUM, level: float = 1.5, size: float = 0.25) -> Numbers:
    """Gradient norms as they are: log-normal, somewhat falling."""
    return level * (1 + np.exp(-4 * np.linspace(0, 1, num))) * noise(rng, num, size)


def cosine(num: int = NUM, peak: float = 1e-3, warmup: float = 0.05, end: float = 0.1) -> Numbers:
    """A learning rate that warms up and falls along a cosine to a share of its peak."""
    times = np.linspace(0, 1, num)
    rises = np.minimum((times + 1 / num) / warmup, 1.0)
    falls = end + (1 - end) * 0.5 * (1 + np.cos(np.pi * np.maximum(times - warmup, 0) / (1 - warmup)))
    return peak * rises * falls


def healthy(rng: Rng, num: int = NUM, **changes: Any) -> Draft:
    """A run as it should be: loss, gradient norm, rate, seconds."""
    columns = {
        "loss": fall(rng, num),
        "grad_norm": norms(rng, num),
        "learning_rate": cosine(num),
        "step_seconds": 0.1 * noise(rng, num, 0.1),
    }
    return Draft({**columns, **{name: value for name, value in changes.items() if value is not None}})


def with_reviews(draft: Draft, rng: Rng, evaluated: Numbers, size: float = 0.02, **more: Numbers) -> Draft:
    """The same with reviews at even distances."""
    num = len(evaluated)
    draft.review_steps = np.linspace(draft.num / num, draft.num, num).astype(np.int64)
    draft.reviews = {"val_loss": evaluated * np.exp(size * rng.normal(size=num)), **more}
    return draft


def draw(name: str, make: Make, seed: int) -> Draft:
    """A log of a kind; its noise depends on the kind's name and on the seed alone."""
    return make(np.random.default_rng([crc32(name.encode()), seed]))
