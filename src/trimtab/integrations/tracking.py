"""What all trackers share: the names that a record's numbers have there, attempts, words for a finding, export."""

from __future__ import annotations

from collections import deque
from importlib import import_module
from pathlib import Path
from typing import Any

from trimtab.errors import InputError
from trimtab.journal import Tracker, read_run
from trimtab.journal.recorder import tell_story
from trimtab.types import RESTORING, STATE_STEP, Action, Decision, Record, Severity

NAMES = {"loss": "train/loss", "learning_rate": "lr"}
"""What metrics of steps are called where it is not what we call them."""

PART = "part_"
"""What stands before the name of a part of the loss."""

HELD_OUT = ("val", "eval", "test")
"""The sets of data whose name stands before a review's metric."""

UNTOLD = (STATE_STEP, "batch_fingerprint", "rate_declared", "data_declared")
"""Metrics that are no curve."""

GOOD = ("finished", "stopped-early", "paused")
"""How the status of a run begins that has not failed."""

SEVERITIES: tuple[Severity, ...] = ("low", "medium", "high", "critical")
"""From the least to the most at stake."""


def import_extra(package: str, module: str = "", *, who: str) -> Any:
    """Import what a tracker needs.

    Args:
        package: the package, which is the name of our extra too.
        module: what is imported of it; the package itself if empty.
        who: the tracker.

    Raises:
        InputError: if it is not installed.
    """
    try:
        return import_module(module or package)
    except ImportError as error:
        raise InputError(f"{who}: it needs the package {package}: pip install trimtab[{package}]") from error


def validate_every(who: str, **numbers: object) -> None:
    """See that steps from one time to the next are whole numbers above 0.

    Raises:
        InputError: if one is not.
    """
    for name, number in numbers.items():
        if not isinstance(number, int) or number < 1:
            raise InputError(f"{who}: {name} is {number!r}; it has to be a whole number above 0")


def name_metrics(record: Record) -> dict[str, float]:
    """The curves of a record, by the names that users of trackers expect; per-group metrics are none."""
    name = name_step_metric if record.measurement.clock == "step" else name_review_metric
    values = record.measurement.values.items()
    return {name(metric): value for metric, value in values if isinstance(value, float) and metric not in UNTOLD}


def name_step_metric(metric: str) -> str:
    """What a metric of steps is called: `train/loss`, `train/` and a part of it, `grad_norm`, `lr`, else as it is."""
    part = metric.removeprefix(PART)
    return NAMES.get(metric, f"train/{part}" if part != metric else metric)


def name_review_metric(metric: str) -> str:
    """What a metric of reviews is called: `val/loss` for `val_loss`, and `review/` before those of no held-out data."""
    of, _, rest = metric.partition("_")
    return f"{of}/{rest}" if of in HELD_OUT and rest else f"review/{metric}"


def list_groupwise(record: Record) -> dict[str, tuple[float, ...]]:
    """The per-group metrics of a record, by name."""
    return {name: value for name, value in record.measurement.values.items() if isinstance(value, tuple)}


class Cadence:
    """Says which records are written, and which with their per-group metrics: those with findings always.

    Args:
        every: steps from one that is written to the next; reviews are all written.
        groups_every: the same for per-group metrics that are measured at every step.
    """

    def __init__(self, every: int, groups_every: int) -> None:
        self._every, self._groups_every = every, groups_every

    def is_due(self, record: Record) -> bool:
        """True if it is written."""
        is_step = record.measurement.clock == "step"
        return not is_step or record.measurement.step % self._every == 0 or bool(record.decision.findings)

    def are_groups_due(self, record: Record) -> bool:
        """True if its per-group metrics are written too."""
        return record.measurement.step % self._groups_every == 0 or bool(record.decision.findings)


class Attempts:
    """Numbers the attempts of a run from 1: after a rollback, and where a run goes on from an earlier step, the next.

    Attributes:
        number: the attempt that the newest record belongs to.
        why: how it began; empty for the first.
    """

    def __init__(self) -> None:
        self.number, self.why = 1, ""
        self._step = 0
        self._next = ""

    def follow(self, last: float | None) -> None:
        """Begin after an attempt that is there already; None for none. Only before the first record it counts."""
        if last is not None and not self._step:
            self.number = int(last) + 1

    def count(self, record: Record) -> bool:
        """Take a record in; True if it begins an attempt."""
        step, restored = record.measurement.step, record.action.restored_step
        if record.measurement.clock == "step" and step <= self._step:
            self._next = f"attempt {self.number + 1} goes on at step {step}, after step {self._step} was reached"
        begins = bool(self._next)
        if begins:
            self.number, self.why, self._next = self.number + 1, self._next, ""
        self._step = step
        if restored is not None:
            kind = record.action.verdict
            self._next = f"attempt {self.number + 1} begins after the {kind} at step {step} to step {restored}"
        return begins


def is_good_end(status: str) -> bool:
    """True for the status of a run that ended as it was meant to, or goes on later."""
    return status.startswith(GOOD)


def find_severity(record: Record) -> Severity | None:
    """How much is at stake at a record: that of its gravest finding, and more where the run was set back or halted."""
    if not record.decision.findings:
        return None
    gravest = max((each.severity for each in record.decision.findings), key=SEVERITIES.index)
    if record.action.verdict == "halt":
        return "critical"
    return max(gravest, "high", key=SEVERITIES.index) if record.action.verdict in RESTORING else gravest


def tell_record(record: Record) -> tuple[str, str]:
    """A record with findings as a title of a few words, and as the story of what was found and done."""
    decision, action = record.decision, record.action
    found = ", ".join(dict.fromkeys(each.detector for each in decision.findings))
    done = action.verdict if action.verdict != "proceed" or not decision.responses else decision.responses[0].kind
    title = found if done == "proceed" else f"{done}: {found}"
    return f"{title} at step {decision.step}", tell_story(decision, action)


def export_run(folder: str | Path, tracker: Tracker) -> None:
    """Hand a run folder on to a tracker, as if the run went by again.

    Args:
        folder: the run folder.
        tracker: the tracker, of which no run makes use.

    Raises:
        RunFormatError: if it is no run folder.
        Exception: whatever the tracker raises.
    """
    log = read_run(folder)
    decided = deque(log.decided)
    events = deque(event for event in log.events if event["event"] != "decision")
    tracker.open(log.manifest)
    for measurement in log.measurements:
        step, clock = measurement.step, measurement.clock
        while events and events[0]["step"] < step:
            tracker.write_event(**events.popleft())
        record = Record(measurement, Decision(step, clock=clock), Action(step))
        if decided and (decided[0][0].step, decided[0][0].clock) == (step, clock):
            record = Record(measurement, *decided.popleft())
        tracker.write(record)
    for event in events:
        tracker.write_event(**event)
    tracker.flush()
    tracker.close()
