"""Not a number, or infinite."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite, nan

import numpy as np

from trimtab.detectors import detector
from trimtab.history import History
from trimtab.types import Breach, Value


@detector("nonfinite", severity="critical", clocks=("step", "review"))
def find_nonfinite(history: History, *, overflows: int = 4) -> Iterator[Breach]:
    """A loss, gradient, weight, running statistic or reviewed metric is NaN or infinite.

    What it sees:
        The loss and the gradient norm of every step, the gradient and weight norms of every group, the running
        statistics of BatchNorm and the like, and every metric of a review. Norms are taken in float32, so a
        weight above about 1e19 counts as infinite: its square is.
    Why it matters:
        One update with a NaN makes every weight it touches NaN for good; BatchNorm statistics keep one NaN batch
        for the rest of the run.
    Stays silent:
        Under a loss scaler, while gradients overflow with a finite loss: finding the scale is the scaler's business.
        At the start it may take as many steps as it needs; after the first finite step more than `overflows` in a
        row, or a scale below 1, are a finding.
    Settings:
        overflows: consecutive overflows under a loss scaler that are left to it. PyTorch's scaler halves its scale
            at each, so 4 in a row undo 16 times the scale that last worked.
    Default response:
        Skip the update; from a second step in a row on roll back once, then skip until it is over, then halt.
        Where weights are not finite, roll back at once and repair what no snapshot can restore. A review is recorded
        only: there is no update at hand to skip.
    """
    for metric, value in history.newest.values.items():
        if isinstance(value, float):
            if not isfinite(value) and not _is_another_matter(history, metric, overflows):
                groups = _nonfinite_groups(history, "group_grad_norm") if metric == "grad_norm" else ()
                yield Breach(metric=metric, value=value, limit=nan, groups=groups, message=_describe(metric, groups))
        elif metric == "weight_norm" and not all(map(isfinite, value)):
            groups = _nonfinite_groups(history, metric)
            worst = next(norm for norm in value if not isfinite(norm))
            message = _describe(metric, groups)
            moved = history.newest.values.get("self_update_ratio", 0.0)  # in this forward pass: a skip puts it back
            in_state = isinstance(moved, float) and isfinite(moved)
            yield Breach(metric=metric, value=worst, limit=nan, groups=groups, message=message, in_state=in_state)


def _is_another_matter(history: History, metric: str, overflows: int) -> bool:
    """True for what the loss scaler sees to, and for what innovation finds."""
    return metric == "probe_loss" or (metric == "grad_norm" and _is_left_to_scaler(history, overflows))


def _describe(metric: str, groups: tuple[str, ...]) -> str:
    where = f" in {', '.join(groups)}" if groups else ""
    return f"{metric} is not finite{where}"


def _nonfinite_groups(history: History, metric: str) -> tuple[str, ...]:
    norms: Value = history.newest.values.get(metric, ())
    assert isinstance(norms, tuple)
    return tuple(group for group, norm in zip(history.groups, norms, strict=False) if not isfinite(norm))


def _is_left_to_scaler(history: History, overflows: int) -> bool:
    values = history.newest.values
    scale, loss = values.get("loss_scale"), values.get("loss")
    if not isinstance(scale, float) or not isinstance(loss, float) or not isfinite(loss) or not scale >= 1:
        return False
    finite = np.flatnonzero(np.isfinite(history.column("grad_norm")))
    return finite.size == 0 or len(history) - 1 - int(finite[-1]) <= overflows
