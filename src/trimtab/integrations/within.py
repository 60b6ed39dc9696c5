"""What trackers share that write into a run of another tool: into the one that is active, or into one of their own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from trimtab.integrations.tracking import (
    Attempts,
    Cadence,
    import_extra,
    is_good_end,
    list_groupwise,
    name_metrics,
    validate_every,
)
from trimtab.journal import Tracker
from trimtab.types import Record

ATTEMPT = "trimtab/attempt"
"""The metric that is the attempt a point belongs to."""

WITHIN = "trimtab/"
"""What stands before our names in a run that was active already, since the loop's own metrics have theirs there."""


class WithinRun(Tracker):
    """Writes into the run that is active, below `trimtab/`, or into one that it begins and ends.

    Args:
        package: the tool's package.
        options: the tool's own options of a run; with any of them one is begun beside one that is active.
        every: steps from one that is written to the next; those with findings are all written.
        **groups_every: the same for per-group metrics, by the name that the tracker's option has.

    Attributes:
        tool: the package, imported.
        options: the options.
        attempts: which attempt is at hand.
        groups: the parameter groups.
        prefix: what stands before every name; empty in a run of its own.
        has_failed: True if the training ended as it was not meant to.

    Raises:
        InputError: if the package is missing, or a number of steps is out of range.
    """

    def __init__(self, package: str, options: Mapping[str, Any], *, every: int, **groups_every: int) -> None:
        who = type(self).__name__
        validate_every(who, every=every, **groups_every)
        self.tool = import_extra(package, who=who)
        self.options = dict(options)
        self.attempts = Attempts()
        self.groups: tuple[str, ...] = ()
        self.prefix, self.has_failed = "", False
        self._cadence = Cadence(every, *groups_every.values())
        self._is_begun = False

    @abstractmethod
    def find_active(self) -> bool:
        """Take the run that is active in this thread, if there is one; True if there is."""

    @abstractmethod
    def begin(self) -> float | None:
        """Begin a run where none was active; returns the newest attempt that is in it already."""

    @abstractmethod
    def take(self, record: Record, metrics: Mapping[str, float], groups: Mapping[str, tuple[float, ...]]) -> None:
        """Take the curves of a record by their names, and its per-group metrics where they are due."""

    @abstractmethod
    def tell_findings(self, record: Record) -> None:
        """Take what was found."""

    @abstractmethod
    def end(self) -> None:
        """End a run of its own."""

    def tell_attempt(self) -> None:
        """Say how an attempt began."""

    def open(self, manifest: Mapping[str, Any]) -> None:
        """Look for the run that is active."""
        self.groups = tuple(manifest["groups"])
        self.prefix = WITHIN if not self.options and self.find_active() else ""
        self._is_begun = False

    def write(self, record: Record) -> None:
        """Take one step or review."""
        if not self._is_begun:
            self.attempts.follow(self.begin())
            self._is_begun = True
        if self.attempts.count(record):
            self.tell_attempt()
        if not self._cadence.is_due(record):
            return
        metrics = {self.prefix + name: value for name, value in name_metrics(record).items()}
        groups = list_groupwise(record) if self._cadence.are_groups_due(record) else {}
        self.take(record, metrics, {f"{self.prefix}groups/{name}": values for name, values in groups.items()})
        if record.decision.findings:
            self.tell_findings(record)

    def write_event(self, event: str, **fields: Any) -> None:
        """Note how the run ends."""
        if event == "end":
            self.has_failed = not is_good_end(fields["status"])

    def close(self) -> None:
        """End the run, if it is one of ours."""
        if self._is_begun and not self.prefix:
            self.end()
