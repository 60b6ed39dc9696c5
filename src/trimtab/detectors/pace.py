"""What sets the pace of a run: its data, its device, something else it waits for, or nothing, since it hangs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from trimtab.detectors.stalled_step import is_hung
from trimtab.history import History

Bound = Literal["data-bound", "device-bound", "host-bound", "hung", "not known"]

WINDOW = 64
"""Steps whose median is the pace of now."""

LEAST = 16
"""Steps below which nothing is said."""

MOST_DATA = 0.4
"""The share of a step spent on waiting for data from which the loader sets the pace."""

LEAST_WAITING = 0.01
"""Seconds of waiting below which it is no matter, whatever its share: small steps are mostly overhead."""

BUSY = 0.8
"""The share of the device, or of a core where the processor is the device, from which it sets the pace."""

SAMPLES = 3
"""Readings of the device's utilization whose median counts."""


@dataclass(frozen=True, slots=True)
class Pace:
    """The pace of a run, and what sets it."""

    bound: Bound
    """`data-bound`: it waits for the loader. `device-bound`: the device is busy. `host-bound`: neither, so it waits for
    the host, a disk, a lock or another process. `hung`: no step for too long."""

    step_seconds: float
    """The time of a usual step; NaN where too few are known."""

    data_share: float | None = None
    """The share of it that is spent on waiting for data; None where the loop does not say."""

    used: float | None = None
    """How much of the device is used, from 0 to 1; of a processor, how many of its cores, which may be more."""

    message: str = ""
    """All that in a few words."""


def judge_pace(history: History, waited: float = 0.0) -> Pace:
    """What sets the pace of a run, from its newest 64 steps: a pure function, live or over a record.

    Args:
        history: the measurements of steps.
        waited: seconds since its newest step, for who watches a run from outside.
    """
    step = _take_median(history, "step_seconds", WINDOW, LEAST)
    if step is None:
        return Pace("not known", float("nan"), message="too few steps to tell its pace")
    if is_hung(waited, step):
        return Pace("hung", step, message=f"no step for {waited:.3g} s, where {step:.3g} s is usual")
    waiting = _take_median(history, "data_seconds", WINDOW, LEAST)
    share = None if waiting is None or not step > 0 else waiting / step
    used, told = _measure_use(history, step)
    if share is not None and share > MOST_DATA and waiting is not None and waiting >= LEAST_WAITING:
        return Pace("data-bound", step, share, used, f"{share:.0%} of a step of {step:.3g} s is waiting for data")
    if used is None:
        return Pace("not known", step, share, used, f"a step takes {step:.3g} s; nothing tells how busy the device is")
    return Pace("device-bound" if used >= BUSY else "host-bound", step, share, used, told)


def _measure_use(history: History, step: float) -> tuple[float | None, str]:
    """How much of the device is used, and in words; of a processor by the time the process computed."""
    used = _take_median(history, "device_utilization", SAMPLES, 1)
    if used is not None:
        return used, f"{used:.0%} of the device is used"
    cpu = _take_median(history, "cpu_seconds", WINDOW, LEAST)
    if cpu is None or not step > 0:
        return None, ""
    return cpu / step, f"the process computes for {cpu / step:.0%} of a step, all cores together"


def _take_median(history: History, metric: str, num: int, least: int) -> float | None:
    """The median of the newest numbers of a metric; None where there are too few."""
    if not history.has(metric):
        return None
    column = history.column(metric)
    known = column[np.isfinite(column)][-num:]
    return float(np.median(known)) if len(known) >= least else None
