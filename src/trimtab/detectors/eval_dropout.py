"""Dropout that is left on in eval mode."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trimtab.detectors import detector
from trimtab.history import History
from trimtab.types import Breach

METRIC, ONCE, AGAIN = "eval_dropouts", "eval_mode_loss", "eval_mode_loss_again"


@detector("eval-dropout", severity="medium", needs=METRIC)
def find_eval_dropout(history: History) -> Iterator[Breach]:
    """Dropout is active in eval mode, so that the same batch gives another loss each time.

    What it sees:
        Calls of a dropout that drops, while the model is in eval mode, at a sampled step (2, 102, 202 and so on), and
        a loss of the same samples that differs from one pass to the next. It is said once, when it becomes so.
        Measured by a supervisor with `compute_loss` that is given the batches, as in `fit`.
    Why it matters:
        Validation and predictions are made by a part of the network, drawn by chance: worse, and not to be repeated.
        The usual causes are `functional.dropout(x, p)`, which trains unless it is told otherwise, and dropout modules
        in a plain list, which `model.eval()` does not reach.
    Stays silent:
        On other random numbers in a loss, such as augmentation; on a rate of 0; on models that are compiled.
    Settings:
        None.
    Default response:
        None; it is advisory. `functional.dropout(x, p, training=self.training)`, `nn.ModuleList` in place of a list.
        Where dropout in eval mode is meant, switch it off: `[detectors.eval-dropout]` with `enabled = false`.
    """
    num, once, again = (history.newest.values.get(name) for name in (METRIC, ONCE, AGAIN))
    if not (isinstance(num, float) and isinstance(once, float) and isinstance(again, float)) or once == again:
        return
    column = history.column(METRIC)
    before = column[np.isfinite(column)][:-1]
    if num > 0 and not (len(before) and before[-1] > 0):
        message = (
            f"{num:.0f} call{'s' * (num > 1)} of dropout {'are' if num > 1 else 'is'} active in eval mode: the same "
            f"batch gives {once:.4g}, then {again:.4g}"
        )
        yield Breach(metric=METRIC, value=num, limit=0.0, message=message)
