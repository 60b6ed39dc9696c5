"""What made a loss spike, as far as the measurements tell."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite

import numpy as np

from trimtab.detectors.batch_repeat import is_all_there_is
from trimtab.history import History

WINDOW = 100
"""Accepted steps that the level of the gradient norm is taken from."""

LONG_TAIL = 30.0
"""A gradient norm above 30 times its level is what the few hardest batches of long-tailed data give."""

RATE_RISE = 2.0
"""A learning rate that more than doubles within a step is a discontinuity; steep warm-ups rise by a few percent."""

RATE_STEPS = 8
"""Steps that a change of the learning rate takes to show in the loss."""

REPEAT_STEPS = 50
"""Steps within which a batch that comes again is a repeat of the loader."""


def name_causes(history: History) -> Iterator[str]:
    """The likely causes of a spike at the newest row, each in a sentence; none where the measurements show none."""
    yield from _judge_gradient(history)
    yield from _judge_rate(history)
    yield from _judge_batch(history)


def _judge_gradient(history: History) -> Iterator[str]:
    norm = history.newest.values.get("grad_norm")
    samples = history.samples("grad_norm", WINDOW)
    if isinstance(norm, float) and isfinite(norm) and len(samples):
        level = float(np.median(samples))
        if norm > LONG_TAIL * level > 0:
            yield f"cause: a long-tail batch, its gradient norm is {norm / level:.3g} times its level"


def _judge_rate(history: History) -> Iterator[str]:
    if not history.has("learning_rate"):
        return
    rates = history.column("learning_rate")[-RATE_STEPS - 1 :]
    steps = history.steps[-len(rates) :]
    declared = history.column("rate_declared")[-len(rates) :] if history.has("rate_declared") else rates * np.nan
    for before, after, step, meant in zip(rates[:-1], rates[1:], steps[1:], declared[1:], strict=True):
        if after > RATE_RISE * before > 0 and meant != 1:
            yield f"cause: the schedule, the learning rate went from {before:.3g} to {after:.3g} at step {step}"
            return


def _judge_batch(history: History) -> Iterator[str]:
    fingerprint = history.newest.values.get("batch_fingerprint")
    if not isinstance(fingerprint, float):
        return
    recent = history.column("batch_fingerprint")[:-1][-REPEAT_STEPS:]
    rows = np.flatnonzero(recent == fingerprint)
    if rows.size and not is_all_there_is(recent[np.isfinite(recent)]):
        step = int(history.steps[:-1][-len(recent) :][rows[-1]])
        yield f"cause: the loader, the batch is that of step {step} again"
