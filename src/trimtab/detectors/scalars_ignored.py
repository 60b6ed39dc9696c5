"""Plain numbers that a model does not look at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from trimtab.detectors import detector
from trimtab.detectors.representing import (
    CEILING,
    CHANCE,
    CLEAR,
    RECALL,
    SCALAR,
    STRONG,
    Numbers,
    is_warming_up,
    measure_share,
    read_before,
    read_finite,
)
from trimtab.history import History
from trimtab.types import Breach, Value

METRIC = f"{SCALAR}_{RECALL}"


@detector("scalars-ignored", severity="medium", clocks=("review",), needs=METRIC)
def find_ignored_scalars(
    history: History, *, share: float = CLEAR, joint: float = STRONG, reviews: int = 10
) -> Iterator[Breach]:
    """Rows cannot be told by their plain numbers, while whole rows are told well.

    What it sees:
        `scalar_recall_at_1` below `share` of the way from chance to its ceiling, while `recall_at_1` is above `joint`
        of its own, at a review with `views={"joint": …, "scalar": …}`. The ceiling is the share of rows whose numbers
        are distinct, as far as `columns=` say. It is said when it becomes so.
    Why it matters:
        The model lives on its categories and texts; what the numbers say is lost.
    Stays silent:
        Before whole rows are told well. In the first `reviews` reviews, as long as the numbers' recall has never been
        above the limit and rises so fast that it will be within five more: numbers are learned after categories. Where
        few rows differ in their numbers, their ceiling is low, and they are held against that.
    Settings:
        share: the share below which the numbers are near chance.
        joint: the share from which whole rows are told well.
        reviews: how many reviews the warm-up takes at most.
    Default response:
        None; it is advisory. Encode numbers by quantiles or Fourier features, and weigh their loss by itself.
    """
    metrics, recalls = history.newest.values, read_finite(history, METRIC)
    if _is_so(metrics, recalls, share, joint, reviews) and not _is_so(
        read_before(history), recalls[:-1], share, joint, reviews
    ):
        value, whole = float(recalls[-1]), float(read_finite(history, RECALL)[-1])
        message = f"{METRIC} is {value:.3g}, near chance, while {RECALL} is {whole:.3g}: numbers are ignored"
        yield Breach(metric=METRIC, value=value, limit=share, message=message)


def _is_so(metrics: Mapping[str, Value], recalls: Numbers, share: float, joint: float, reviews: int) -> bool:
    """True of a review if numbers are ignored, and not on their way."""
    if not (measure_share(metrics, SCALAR) < share and measure_share(metrics) > joint):
        return False
    chance, ceiling = metrics[CHANCE], metrics[f"{SCALAR}_{CEILING}"]
    assert isinstance(chance, float)
    assert isinstance(ceiling, float)  # or there were no share
    return not is_warming_up(recalls, chance + share * (ceiling - chance), reviews)
