"""Plain numbers that a model does not look at."""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.detectors import detector
from trimtab.detectors.representing import CLEAR, RECALL, SCALAR, STRONG, measure_share, read_finite
from trimtab.history import History
from trimtab.types import Breach

METRIC = f"{SCALAR}_{RECALL}"


@detector("scalars-ignored", severity="medium", clocks=("review",), needs=METRIC)
def find_ignored_scalars(history: History, *, share: float = CLEAR, joint: float = STRONG) -> Iterator[Breach]:
    """Rows cannot be told by their plain numbers, while whole rows are told well.

    What it sees:
        `scalar_recall_at_1` below `share` of the way from chance to its ceiling, while `recall_at_1` is above `joint`
        of its own, at a review with `views={"joint": …, "scalar": …}`. The ceiling is the share of rows whose numbers
        are distinct, as far as `columns=` say. It is said when it becomes so.
    Why it matters:
        The model lives on its categories and texts; what the numbers say is lost.
    Stays silent:
        Before whole rows are told well. Where few rows differ in their numbers, their ceiling is low, and they are held
        against that.
    Settings:
        share: the share below which the numbers are near chance.
        joint: the share from which whole rows are told well.
    Default response:
        None; it is advisory. Encode numbers by quantiles or Fourier features, and weigh their loss by itself.
    """
    metrics = history.newest.values
    scalar, whole = measure_share(metrics, SCALAR), measure_share(metrics)
    if not (scalar < share and whole > joint) or _was_found(history, share, joint):
        return
    value = float(read_finite(history, METRIC)[-1])
    message = f"{METRIC} is {value:.3g}, near chance, while {RECALL} is {metrics[RECALL]:.3g}: numbers are ignored"
    yield Breach(metric=METRIC, value=value, limit=share, message=message)


def _was_found(history: History, share: float, joint: float) -> bool:
    """True if the review before was the same."""
    if len(history) < 2:
        return False
    before = {name: float(history.column(name)[-2]) for name in history.newest.values if history.has(name)}
    return measure_share(before, SCALAR) < share and measure_share(before) > joint
