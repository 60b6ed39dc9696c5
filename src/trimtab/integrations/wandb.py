"""Weights & Biases: a run as a run there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from trimtab.integrations.tracking import (
    Attempts,
    Cadence,
    find_severity,
    import_extra,
    is_good_end,
    list_groupwise,
    name_metrics,
    tell_record,
    validate_every,
)
from trimtab.journal import Tracker
from trimtab.types import Record

STEP = "trimtab/step"
"""The metric that curves are drawn over, since a step of Weights & Biases never goes back."""

ATTEMPT = "trimtab/attempt"
"""The metric that is the attempt a point belongs to."""

LEVELS = {"low": "INFO", "medium": "INFO", "high": "WARN", "critical": "ERROR"}
"""Weights & Biases' names for how much is at stake."""

GRAVE = ("high", "critical")
"""The severities that are an alert, whatever was done."""


class WandbTracker(Tracker):
    """Writes a run to Weights & Biases: curves, histograms over the groups, and findings as alerts.

    It writes into the run that is active when the training begins, below `trimtab/` since the loop's own metrics have
    their names there, or into one that it starts and finishes. Curves are drawn over the metric `trimtab/step`, and
    `trimtab/attempt` is the attempt that a point belongs to, which begins anew with each rollback.

    Args:
        every: steps from one that is written to the next; those with findings are all written.
        histograms_every: the same for the histograms.
        **options: those of `wandb.init`; with any of them a run of its own is started beside one that is active.

    Raises:
        InputError: if the package wandb is missing, or an option is out of range.
    """

    def __init__(self, *, every: int = 1, histograms_every: int = 100, **options: Any) -> None:
        validate_every("WandbTracker", every=every, histograms_every=histograms_every)
        self._wandb = import_extra("wandb", who="WandbTracker")
        self._cadence, self._options = Cadence(every, histograms_every), options
        self._attempts = Attempts()
        self._run: Any = None
        self._is_begun, self._prefix, self._exit_code = False, "", 0

    def open(self, manifest: Mapping[str, Any]) -> None:
        """Look for the run that is active."""
        self._run = None if self._options else self._wandb.run
        self._prefix = "" if self._run is None else "trimtab/"
        self._is_begun = False

    def write(self, record: Record) -> None:
        """Take one step or review."""
        if not self._is_begun:
            self._begin()
        self._attempts.count(record)
        if not self._cadence.is_due(record):
            return
        row: dict[str, Any] = {self._prefix + name: value for name, value in name_metrics(record).items()}
        row |= {STEP: record.measurement.step, ATTEMPT: self._attempts.number}
        for name, values in list_groupwise(record).items() if self._cadence.are_groups_due(record) else ():
            finite = [each for each in values if math.isfinite(each)]
            if finite:
                row[f"{self._prefix}groups/{name}"] = self._wandb.Histogram(finite)
        self._run.log(row)
        self._alert(record)

    def write_event(self, event: str, **fields: Any) -> None:
        """Note how the run ends."""
        if event == "end":
            self._exit_code = int(not is_good_end(fields["status"]))

    def close(self) -> None:
        """Finish the run, if it is one of ours."""
        if self._is_begun and not self._prefix:
            self._run.finish(exit_code=self._exit_code)

    def _begin(self) -> None:
        """Start a run where none was active, see which attempts are in it already, and have our step as its axis."""
        if self._run is None:
            self._run = self._wandb.init(**{"reinit": "create_new", **self._options})
        self._is_begun = True
        self._attempts.follow(self._run.summary.get(ATTEMPT))
        for name in (STEP, ATTEMPT):
            self._run.define_metric(name, hidden=name == STEP)
        self._run.define_metric(f"{self._prefix}*", step_metric=STEP)

    def _alert(self, record: Record) -> None:
        severity = find_severity(record)
        if severity is None:
            return
        title, story = tell_record(record)
        for each in record.decision.findings:
            self._run.summary[f"findings/{each.detector}"] = f"step {each.step}: {each.message}"
        if severity in GRAVE or record.decision.responses:
            self._run.alert(title, story, level=LEVELS[severity])
