"""What the steps since the review before say, for the review to be judged by."""

from __future__ import annotations

import numpy as np

from trimtab.history import History

FIRST = 5
"""Losses that a run is said to have begun with."""

FEWEST = 16
"""Steps that a median is taken of, if there are as many."""

SHARE = 3
"""The newest one in so many of the steps since the review before is what a review is held against."""


def summarize_steps(history: History, since: int) -> dict[str, float]:
    """`train_loss` and `train_grad_norm`: the medians of the newest third of the steps since a step, 16 at least.

    Only accepted steps count; absent where there are none. At the first review also `start_loss`, the median of the
    first losses of the run, where they are still at hand.

    Args:
        history: the newest measurements of steps.
        since: the step of the review before; 0 without one.
    """
    found = {}
    for name, metric in (("train_loss", "loss"), ("train_grad_norm", "grad_norm")):
        if history.has(metric):
            rows = history.accepted_rows(metric)
            rows = rows[history.steps[rows] > since]
            if len(rows):
                found[name] = float(np.median(history.column(metric)[rows[-max(len(rows) // SHARE, FEWEST) :]]))
    if since == 0 and "train_loss" in found and history.steps[0] == 1:
        found["start_loss"] = float(np.median(history.column("loss")[history.accepted_rows("loss")[:FIRST]]))
    return found
