"""Plain numbers that drown all else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from trimtab.detectors import detector
from trimtab.detectors.representing import (
    CEILING,
    CLEAR,
    RECALL,
    SCALAR,
    STRONG,
    list_kinds,
    measure_share,
    read_before,
    read_finite,
)
from trimtab.history import History
from trimtab.types import Breach, Value

METRIC = f"{SCALAR}_{RECALL}"


@detector("scalars-dominate", severity="medium", clocks=("review",), needs=METRIC)
def find_dominant_scalars(history: History, *, share: float = CLEAR, scalar: float = STRONG) -> Iterator[Breach]:
    """Rows are told by their plain numbers, and by nothing else.

    What it sees:
        The recall of every other kind of column below `share` of the way from chance to its ceiling, while that of
        plain numbers is above `scalar` of its own, at a review with views of both. It is said when it becomes so.
    Why it matters:
        Numbers that are not normalized are larger than all embeddings beside them: a price in the thousands is the row.
    Stays silent:
        Where there is no other kind of column.
    Settings:
        share: the share below which a kind is near chance.
        scalar: the share from which numbers tell rows well.
    Default response:
        None; it is advisory. Standardize the numbers, or take their quantiles.
    """
    metrics = history.newest.values
    if _is_so(metrics, share, scalar) and not _is_so(read_before(history), share, scalar):
        others = ", ".join(each for each in list_kinds(metrics) if each != SCALAR)
        value, ceiling = (float(read_finite(history, each)[-1]) for each in (METRIC, f"{SCALAR}_{CEILING}"))
        message = f"{METRIC} is {value:.3g} of {ceiling:.3g}, while that of {others} is near chance: numbers dominate"
        yield Breach(metric=METRIC, value=value, limit=scalar, message=message)


def _is_so(metrics: Mapping[str, Value], share: float, scalar: float) -> bool:
    others = [measure_share(metrics, each) for each in list_kinds(metrics) if each != SCALAR]
    return measure_share(metrics, SCALAR) > scalar and bool(others) and all(each < share for each in others)
