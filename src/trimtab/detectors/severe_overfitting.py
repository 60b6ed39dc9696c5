"""The training loss falls while the validation loss rises."""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.detectors import detector
from trimtab.detectors.reviewing import EVALUATED, Pairs, read_pairs
from trimtab.history import History
from trimtab.types import Breach

SAID_WITHIN = 10
"""Reviews after which it is said again, if it has not been so in between."""


@detector("severe-overfitting", severity="high", clocks=("review",), needs=EVALUATED)
def find_severe_overfitting(history: History) -> Iterator[Breach]:
    """The validation loss has been rising for a while, and the training loss falls on.

    What it sees:
        A `val_loss` above its best at each of the last three reviews, by 5 %, a tenth of what had been learned and 5
        times its own noise, whichever is most, while the training loss fell on by 2 %. It is said once, when it
        becomes so.
    Why it matters:
        What is still learned is the training data itself: every further epoch makes the model worse.
    Stays silent:
        While both losses fall, however far apart; on a validation loss that swings as it always has, as that of a
        small set does; where both rise, which is no overfitting; without a training loss.
    Settings:
        None.
    Default response:
        None; it is advisory. Go back to the best review and stop; then more data, dropout 0.1 to 0.3, weight decay
        × 10.
    """
    pairs = read_pairs(history)
    if pairs is None or not is_severe(pairs):
        return
    if any(is_severe(each) for each in pairs.list_earlier(SAID_WITHIN)):
        return
    best = pairs.best
    lowest, step = float(pairs.evaluated[best]), int(pairs.steps[best])
    message = (
        f"val_loss rose from {lowest:.4g} at step {step} to {pairs.end:.4g}, and train_loss fell from "
        f"{pairs.train[best]:.4g} to {pairs.train[-1]:.4g}: go back to step {step}"
    )
    yield Breach(metric=EVALUATED, value=pairs.end, limit=lowest, message=message, since=step)


def is_severe(pairs: Pairs) -> bool:
    """True if the evaluation loss rose for good while the training loss fell on, at the last three reviews too."""
    fell_on = pairs.has_learned_on and bool(pairs.train[-3:].max() < pairs.train[pairs.best])
    return pairs.has_risen and fell_on and not pairs.differs_from_start
