"""Whether a run has come to rest, and whether it is done: that only if the validation loss rests too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from trimtab.detectors.reviewing import measure_fall, measure_scale
from trimtab.diagnosis.branches.divergence import find_rise
from trimtab.diagnosis.curves import Shape, describe_loss, find_swing
from trimtab.diagnosis.evidence import Evidence

Verdict = Literal["done", "falls on", "rises", "too noisy", "not known"]

RESTS = 0.25
"""The share of a run over which its loss has to have been flat at its end."""

CLEAR = 0.015
"""The standard error of a level, relative to it, up to which it can be said to be flat."""

LEAST_REVIEWS = 6
"""Validations since the loss is flat that it takes to say whether they are flat too."""

SURE = 3.0
"""Standard errors by which a validation loss has to have moved to be moving."""

MOVES = 0.005
"""The share of its scale by which it has to have moved as well: `no-learning` says less of fifteen reviews."""


@dataclass(frozen=True, slots=True)
class Rest:
    """A training loss that is flat at the end of a run, and what the validation loss says of it."""

    since: int
    """The step from which on it is flat."""

    level: float
    """Its level at the end."""

    verdict: Verdict
    """`done` where the validation loss is flat too; what else it does; `not known` where there are too few of it."""

    moved: float = 0.0
    """How far the validation loss fell meanwhile, as a share of its scale; below 0 where it rose."""

    num_reviews: int = 0
    """The validations that rests on."""

    def __str__(self) -> str:
        """All that in one sentence."""
        flat = f"the loss has been flat at {self.level:.4g} since step {self.since}"
        told = f"by {abs(self.moved):.1%} in {self.num_reviews} reviews"
        return {
            "done": f"done: {flat}, and val_loss is flat too, in {self.num_reviews} reviews",
            "falls on": f"a plateau, and not done: {flat}, but val_loss falls on, {told}",
            "rises": f"a plateau, and past its best: {flat}, and val_loss rose {told}",
            "too noisy": f"a plateau: {flat}; val_loss is too noisy to say whether it is done",
            "not known": f"a plateau: {flat}; whether it is done is not known without val_loss since then",
        }[self.verdict]


def find_rest(evidence: Evidence) -> Rest | None:
    """The rest a run has come to; None where its loss falls on, rises, swings, never fell, or ends before."""
    shape = describe_loss(evidence)
    if shape is None or evidence.is_adversarial or evidence.is_halted or not shape.has_fallen:
        return None
    first = _find_flat(shape)
    if first is None or evidence.ask(find_rise) is not None or evidence.ask(find_swing) is not None:
        return None
    since = int(shape.starts[first])
    reviews = evidence.review("val_loss", "eval_loss").finite
    later = reviews.between(since, float("inf")).values
    if len(later) < LEAST_REVIEWS:
        return Rest(since, shape.end, "not known", num_reviews=len(later))
    scale = max(measure_scale(reviews.values), float(np.finfo(float).tiny))
    fall, error = measure_fall(later)
    return Rest(since, shape.end, _judge(fall, error, scale), fall / scale, len(later))


def _find_flat(shape: Shape) -> int | None:
    """The block from which on a curve is flat; None where that is less than its last quarter, or noise hides it."""
    first = shape.flat_since()
    scale = max(abs(shape.end), shape.reach)
    is_long = len(shape.levels) - first >= max(RESTS * len(shape.levels), 3)
    return first if is_long and shape.level_noise < CLEAR * scale else None


def _judge(fall: float, error: float, scale: float) -> Verdict:
    if abs(fall) > max(SURE * error, MOVES * scale):
        return "falls on" if fall > 0 else "rises"
    return "done" if SURE * error <= CLEAR * scale else "too noisy"
