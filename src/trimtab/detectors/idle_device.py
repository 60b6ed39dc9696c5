"""A device that is idle for much of the time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trimtab.detectors import detector
from trimtab.detectors.pace import judge_pace
from trimtab.history import History
from trimtab.types import Breach

METRIC = "device_utilization"


@detector("idle-device", severity="low", needs=METRIC)
def find_idle_device(
    history: History, *, limit: float = 0.8, samples: int = 3, least_seconds: float = 0.05
) -> Iterator[Breach]:
    """The GPU is idle for much of the time, and not for want of data.

    What it sees:
        A utilization below `limit` at each of the newest `samples` sampled steps (2, 102, 202 and so on), of a run
        whose steps take `least_seconds` or more and that does not wait for its data. It is said when it becomes so.
    Why it matters:
        The host sets the pace: Python between the kernels, copies that wait, numbers fetched at every step.
    Stays silent:
        On short steps, such as those of small models, which are overhead by nature; where `data-bound` says more; where
        the utilization cannot be read.
    Settings:
        limit: the utilization that is not remarked on.
        samples: sampled steps in a row it takes.
        least_seconds: the time of a step from which it matters.
    Default response:
        None; it is advisory. Larger batches, `torch.compile(model)`, no `.item()` within a step.
    """
    used = history.newest.values.get(METRIC)
    if not isinstance(used, float):
        return
    column = history.column(METRIC)
    is_low = (column[np.isfinite(column)] < limit).tolist()
    if len(is_low) < samples or not all(is_low[-samples:]) or any(is_low[-samples - 1 : -samples]):
        return
    pace = judge_pace(history)
    if pace.bound != "data-bound" and pace.step_seconds >= least_seconds:
        message = f"{used:.0%} of the device is used, in steps of {pace.step_seconds:.3g} s: it waits for the host"
        yield Breach(metric=METRIC, value=used, limit=limit, message=message)
