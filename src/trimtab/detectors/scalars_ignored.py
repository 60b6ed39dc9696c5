"""Plain numbers that a model does not look at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from trimtab.detectors import detector
from trimtab.detectors.representing import CLEAR, RECALL, SCALAR, STRONG, measure_share, read_before, read_finite
from trimtab.history import History
from trimtab.types import Breach, Value

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
    if _is_so(metrics, share, joint) and not _is_so(read_before(history), share, joint):
        value, whole = (float(read_finite(history, each)[-1]) for each in (METRIC, RECALL))
        message = f"{METRIC} is {value:.3g}, near chance, while {RECALL} is {whole:.3g}: numbers are ignored"
        yield Breach(metric=METRIC, value=value, limit=share, message=message)


def _is_so(metrics: Mapping[str, Value], share: float, joint: float) -> bool:
    return measure_share(metrics, SCALAR) < share and measure_share(metrics) > joint
