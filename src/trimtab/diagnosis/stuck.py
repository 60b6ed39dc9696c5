"""Whether a run learned anything at all."""

from __future__ import annotations

from trimtab.diagnosis.curves import describe_loss
from trimtab.diagnosis.evidence import Evidence
from trimtab.diagnosis.tree import State

LEAST_RECORDS = 50
"""Records below which a flat loss is that of a young run."""

QUIET, LONG = 0.1, 2000
"""The noise of a single loss, relative to it, up to which a flat loss is one that learned nothing; and the records from
which on more noise does not matter."""

LEAST_SPAN = 500
"""Steps over which fewer records say as much, as where every fiftieth step is logged."""

LEAST_REVIEWS = 4
"""Or reviews: a log with one record an epoch has few."""

LOW_LOSS = 0.3
"""A loss that begins below this has little left to learn, as that of a model that is fine-tuned."""

FINE_TUNING = 5e-5
"""Rates up to this are those of fine-tuning, whose loss may be flat from the start."""


def is_stuck(evidence: Evidence) -> bool:
    """True if the loss never fell by more than its noise, over long enough a time."""
    shape = describe_loss(evidence)
    if shape is None or evidence.is_adversarial or shape.has_fallen:
        return False
    is_in_steps = evidence.manifest.get("step_unit") != "sample"
    span = int(evidence.loss.steps[-1] - evidence.loss.steps[0]) if is_in_steps else 0
    has_reviews = len(evidence.review("val_loss", "eval_loss", "val_accuracy")) >= LEAST_REVIEWS
    return shape.num >= LEAST_RECORDS or span >= LEAST_SPAN or has_reviews


def is_clear(evidence: Evidence) -> bool:
    """True if the noise of the loss is small enough, or the run long enough, for a small fall to be seen in it."""
    shape = describe_loss(evidence)
    return shape is not None and (shape.noise <= QUIET * abs(shape.end) or shape.num >= LONG)


def grade(evidence: Evidence) -> State:
    """What became of trouble that keeps a run from learning: fatal where it did."""
    return "fatal" if evidence.ask(is_stuck) else "lasting"


def tell_flat(evidence: Evidence) -> str:
    """Where the loss began and ended, in words."""
    shape = describe_loss(evidence)
    assert shape is not None
    return (
        f"the loss was {shape.start:.4g} at the start and is {shape.end:.4g} at the end of {shape.num} records, with a "
        f"noise of {shape.noise:.2g}"
    )
