"""Running statistics of norms that lag behind the weights."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trimtab.detectors import detector
from trimtab.detectors.reviewing import measure_scale
from trimtab.history import History
from trimtab.types import Breach

METRIC, BY_BATCH = "eval_mode_loss", "batch_norm_loss"


@detector("batch-norm-lag", severity="medium", needs=BY_BATCH)
def find_batch_norm_lag(history: History, *, gap: float = 0.25, samples: int = 3) -> Iterator[Breach]:
    """The loss of a training batch is far higher in eval mode, for the running statistics of the norms.

    What it sees:
        The loss of a step's own samples in eval mode, above that of the same samples by their own statistics with
        everything else in eval mode, by more than `gap` of the scale of the loss (its level, or how far it has come),
        at each of the newest `samples` sampled steps from 102 on. It is said once, when it becomes so. Measured by a
        supervisor with `compute_loss` that is given the batches, as in `fit`.
    Why it matters:
        A validation, and whoever uses the model, has the running statistics. The training loss shows nothing of it.
        The usual causes are a momentum far below 0.1, weights that change faster than the statistics follow, and
        statistics of other data, such as of another domain in the same layers.
    Stays silent:
        On statistics that catch up within 200 steps; on norms that are in eval mode on purpose; where the loss by the
        statistics of the batch is the higher one, as it often is of small batches.
    Settings:
        gap: the distance that is not remarked on, as a share of the scale of the loss.
        samples: sampled steps in a row it takes.
    Default response:
        None; it is advisory. A momentum of 0.1, or the statistics taken anew before each validation:
        `torch.optim.swa_utils.update_bn(loader, model)`; LayerNorm or GroupNorm where batches are small.
    """
    by_batch = history.newest.values.get(BY_BATCH)
    usual = history.newest.values.get(METRIC)
    if not isinstance(by_batch, float) or not isinstance(usual, float):
        return
    losses = np.asarray(history.column("loss")[history.accepted_rows("loss")], dtype=np.float64)
    rows = np.flatnonzero(np.isfinite(history.column(BY_BATCH)) & (history.steps > samples))
    if len(rows) < samples or not len(losses):
        return
    least = gap * max(measure_scale(losses), abs(by_batch))
    distances = history.column(METRIC)[rows] - history.column(BY_BATCH)[rows]
    is_above: list[bool] = (distances > least).tolist()
    if all(is_above[-samples:]) and not any(is_above[-samples - 1 : -samples]):
        message = (
            f"the loss of the batch is {usual:.4g} in eval mode, and {by_batch:.4g} by the statistics of the batch: "
            "the running ones of the norms lag behind the weights"
        )
        yield Breach(metric=METRIC, value=usual, limit=by_batch + least, expected=by_batch, message=message)
