"""Weights that jump within one step."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trimtab.detectors import detector
from trimtab.history import History
from trimtab.types import Breach

METRIC = "weight_norm"


@detector("weight-jump", severity="high")
def find_weight_jump(history: History, *, times: float = 10.0, warmup: int = 16) -> Iterator[Breach]:
    """The weights of a group are many times as large as one step before.

    What it sees:
        For each group, a weight norm above `times` that of the newest accepted step.
    Why it matters:
        No update of a sound run does that. Something has overwritten a weight, or one update was far too large, and a
        normalization may hide it from the loss.
    Stays silent:
        Until `warmup` samples are in, on groups whose norm was 0, and on norms that are not finite, which nonfinite
        finds.
    Settings:
        times: how many times the norm before a norm may be. After sixteen steps a healthy group that began at 0 grows
            by less than a tenth in a step.
        warmup: samples it needs.
    Default response:
        None; it is advisory. With the ladder ["rollback", "halt"] the run goes back to before the jump.
    """
    norms = history.newest.values.get(METRIC)
    if not isinstance(norms, tuple) or not history.has_risen(METRIC, times):
        return
    samples = history.samples(METRIC, warmup)
    if len(samples) < warmup:
        return
    now, before = np.asarray(norms, dtype=np.float64), samples[-1].astype(np.float64)
    for index in np.flatnonzero(np.isfinite(now) & (before > 0) & (now > times * before)):
        group, limit, expected = history.groups[index], float(times * before[index]), float(before[index])
        message = f"weight norm {norms[index]:.4g} of {group} was {expected:.4g} one step before"
        yield Breach(
            metric=METRIC,
            value=norms[index],
            limit=limit,
            expected=expected,
            message=message,
            groups=(group,),
            in_state=True,
        )
