"""Is it too slow? Where the time of a step goes, against what was expected."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trimtab.detectors.pace import BUSY, LEAST_WAITING, MOST_DATA
from trimtab.detectors.slow_steps import SLOWER
from trimtab.detectors.stalled_step import STALL_SECONDS, STALL_TIMES
from trimtab.diagnosis.advice import ask_for_waiting
from trimtab.diagnosis.evidence import Evidence, Series
from trimtab.diagnosis.findings import tell_findings
from trimtab.diagnosis.tree import Answer, Cause, Exclusion, cause

SECONDS = ("step_seconds", "step_time", "time_per_step")
DATA_SECONDS = ("data_seconds", "data_time", "data_loading_seconds", "dataloader_seconds")
UTILIZATION = ("device_utilization", "gpu_utilization", "gpu_util")

LATER = 1.5
"""How many times the expected time of an epoch is too slow."""

LEAST_RECORDS = 40
"""Records below which nothing is said."""


def _read_seconds(evidence: Evidence) -> Series:
    """How long each step took; nothing where too few are known."""
    seconds = evidence.metric(*SECONDS).finite
    return seconds if len(seconds) >= LEAST_RECORDS else seconds.take(slice(0, 0))


@cause("data-bound", question="speed", detectors=("data-bound",))
def find_data_bound(evidence: Evidence) -> Iterator[Answer]:
    """The device waits for data.

    What it sees:
        More than 40 % of the time of a usual step spent on waiting for the loader, and 10 ms of it.
    Fix:
        More workers, pinned memory, decoding ahead of time.
    """
    seconds, waited = _read_seconds(evidence), evidence.review(*DATA_SECONDS).finite
    if not len(seconds):
        return
    usual = float(np.median(seconds.values))
    if not len(waited):
        yield ask_for_waiting(evidence)
        return
    waiting = float(np.median(waited.values))
    share = waiting / usual if usual > 0 else 0.0
    if share <= MOST_DATA or waiting < LEAST_WAITING:
        yield Exclusion(f"{share:.0%} of a step is spent on waiting for data")
        return
    yield Cause(
        confidence=0.85,
        step=int(waited.steps[0]),
        evidence=(f"{share:.0%} of the {usual:.3g} s of a step is spent on waiting for data",),
        fix="`DataLoader(data, num_workers=8, pin_memory=True, persistent_workers=True)`, with half as many workers as "
        "there are cores; decode and resize ahead of time",
    )


@cause("idle-device", question="speed", detectors=("idle-device",))
def find_idle_device(evidence: Evidence) -> Iterator[Answer]:
    """The device is idle for much of the time, and does not wait for data: the host sets the pace.

    What it sees:
        A finding of idle-device: less than 80 % of it is used at three samples in a row.
    Fix:
        Larger batches, a compiled model, no number fetched within a step.
    """
    yield from tell_findings(
        evidence,
        "idle-device",
        0.7,
        "`torch.compile(model)`, larger batches, and no `.item()` or `print(tensor)` within a step; see where the host "
        "is with `torch.profiler.profile()` over ten steps",
        "another process that holds the cores",
    )


@cause("slowed-down", question="speed", detectors=("slow-steps",))
def find_slowdown(evidence: Evidence) -> Iterator[Answer]:
    """The steps take longer and longer.

    What it sees:
        Steps of the last quarter that take three times as long as those of the first quarter, by the median.
    Fix:
        Look for what grows: a list that keeps graphs alive, a log, a cache; or for another job on the machine.
    """
    seconds = _read_seconds(evidence)
    if not len(seconds):
        return
    num = len(seconds)
    before, after = float(np.median(seconds.values[: num // 4])), float(np.median(seconds.values[-(num // 4) :]))
    if after > SLOWER * before > 0:
        yield Cause(
            confidence=0.7,
            step=int(seconds.steps[-(num // 4)]),
            evidence=(f"a step took {before:.3g} s in the first quarter and takes {after:.3g} s in the last quarter",),
            fix="look for what grows, such as `losses.append(loss)` in place of `losses.append(loss.item())`",
            alternative="another job on the machine, or a device that has become hot",
        )


@cause("stalls", question="speed", detectors=("stalled-step",))
def find_stalls(evidence: Evidence) -> Iterator[Answer]:
    """Single steps hang.

    What it sees:
        Steps that take more than 50 times the usual and more than 30 seconds.
    Fix:
        Look for what the job waits for: a worker, a file system, another rank.
    """
    seconds = _read_seconds(evidence)
    if not len(seconds):
        return
    usual = float(np.median(seconds.values))
    hung = np.flatnonzero((seconds.values > STALL_TIMES * usual) & (seconds.values > STALL_SECONDS))
    if hung.size:
        at = int(hung[0])
        yield Cause(
            confidence=0.75,
            step=int(seconds.steps[at]),
            evidence=(
                f"step {int(seconds.steps[at])} took {seconds.values[at]:.4g} s, where {usual:.3g} s is usual; "
                f"{hung.size} steps did so",
            ),
            fix="see what it waits for while it hangs: `py-spy dump --pid PID`; usual ones are a loader's worker, a "
            "network file system, another rank",
        )


@cause("slower-than-expected", question="speed")
def find_slow_epochs(evidence: Evidence) -> Iterator[Answer]:
    """An epoch takes longer than was expected.

    What it sees:
        The time of a usual step, times the steps of an epoch, beyond 1.5 times the `expected_epoch_seconds` the run
        was started with.
    Fix:
        That of the bound: the device where its utilization is above 80 %, else what it waits for.
    """
    seconds = _read_seconds(evidence)
    expected = evidence.manifest.get("expected_epoch_seconds")
    num_steps = evidence.manifest.get("steps_per_epoch")
    if not len(seconds) or not expected or not num_steps:
        return
    takes = float(np.median(seconds.values)) * float(num_steps)
    if takes <= LATER * float(expected):
        return
    used = evidence.metric(*UTILIZATION).finite.values
    is_device = bool(len(used)) and float(np.median(used)) > (100 * BUSY if used.max() > 1 else BUSY)
    bound = f"the device is used to {float(np.median(used)):.3g}" if len(used) else "its utilization is not known"
    yield Cause(
        confidence=0.7,
        step=int(seconds.steps[0]),
        evidence=(f"an epoch takes {takes:.4g} s, where {float(expected):.4g} s was expected", bound),
        fix="device-bound: `torch.autocast`, `torch.compile(model)`, larger batches"
        if is_device
        else "look at what the device waits for: `torch.profiler.profile()` over ten steps",
    )
