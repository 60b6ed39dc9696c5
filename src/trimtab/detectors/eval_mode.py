"""Training in eval mode."""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.detectors import detector
from trimtab.history import History
from trimtab.types import Breach

METRIC = "eval_mode"


@detector("eval-mode", severity="medium", needs=METRIC)
def find_eval_mode(history: History) -> Iterator[Breach]:
    """The model is trained in eval mode.

    What it sees:
        `model.training` is False at a check, and the model has dropout, or norms with running statistics, in eval mode.
    Why it matters:
        A validation that does not end with `model.train()` leaves dropout off and the running statistics of BatchNorm
        as they are: the training loss looks better than before, and what is learned is worse.
    Stays silent:
        While the model as a whole is in training mode, whatever single layers are in; on models on which the mode has
        no effect.
    Settings:
        None.
    Default response:
        None; it is advisory. Call `model.train()` after each validation; to keep the statistics of BatchNorm fixed on
        purpose, call `eval()` on those layers alone.
    """
    num = history.newest.values.get(METRIC)
    if isinstance(num, float) and history.count_newest(METRIC, num) == 1:
        message = f"the model is trained in eval mode, in which {num:.0f} of its modules do something else"
        yield Breach(metric=METRIC, value=num, limit=0.0, message=message)
