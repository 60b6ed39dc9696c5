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
"""A gradient norm above 30 times its level, or its mean in a whole record, is what the few hardest batches of
long-tailed data give."""

RATE_RISE = 2.0
"""A learning rate that more than doubles within a step is a discontinuity; steep warm-ups rise by a few percent."""

RATE_STEPS = 8
"""Records that a change of the learning rate takes to show in the loss."""

JUMP = 4.0
"""A group whose weight norm changes by 4 times as much as it ever did in the window has jumped."""

SETTLED = 10
"""Updates that have to be known before one can be told from them."""

REPEAT_STEPS = 50
"""Steps within which a batch that comes again is a repeat of the loader."""


def name_causes(history: History) -> Iterator[str]:
    """The likely causes of a loss that is too high or not finite at the newest row, each in a sentence.

    None where the measurements show none.
    """
    named = [*_judge_gradient(history), *_judge_rate(history), *_judge_batch(history)]
    yield from named or _judge_weights(history)


def _is_number(history: History) -> bool:
    """True if the newest loss is a number: what is not finite may be the computation's own doing."""
    loss = history.newest.values.get("loss")
    return isinstance(loss, float) and isfinite(loss)


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


def _judge_weights(history: History) -> Iterator[str]:
    """Whether the weights made it or the batch: a loss that jumps after updates like all others is the batch's.

    Told at the first step of an episode alone: after it, updates are missing or were undone.
    """
    if not history.has("weight_norm") or not history.was_accepted[-2:-1].all() or not _is_number(history):
        return
    norms = history.column("weight_norm")[-WINDOW - 1 :].astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        changes = np.abs(np.diff(np.log(norms), axis=0))
    before, recent = changes[:-RATE_STEPS], changes[-RATE_STEPS:]
    if len(before) < SETTLED or not np.isfinite(changes).all():
        return
    most = before.max(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        times = np.where(recent.max(axis=0) > 0, recent.max(axis=0) / most, 0.0)
    group = int(times.argmax())
    if times[group] > JUMP:
        step = int(history.steps[-RATE_STEPS:][int(recent[:, group].argmax())])
        yield (
            f"cause: the weights, those of {history.groups[group]} changed {times[group]:.3g} times as much as ever "
            f"before step {step}"
        )
    else:
        yield "cause: the batch, as far as the norms of the weights tell, which changed before it as they always do"
