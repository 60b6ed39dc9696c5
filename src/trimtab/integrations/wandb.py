"""Weights & Biases: a run as a run there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from trimtab.integrations.tracking import find_severity, tell_record
from trimtab.integrations.within import ATTEMPT, WithinRun
from trimtab.types import Record

STEP = "trimtab/step"
"""The metric that curves are drawn over, since a step of Weights & Biases never goes back."""

LEVELS = {"low": "INFO", "medium": "INFO", "high": "WARN", "critical": "ERROR"}
"""Weights & Biases' names for how much is at stake."""

GRAVE = ("high", "critical")
"""The severities that are an alert, whatever was done."""


class WandbTracker(WithinRun):
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
        super().__init__("wandb", options, every=every, histograms_every=histograms_every)
        self._run: Any = None

    def find_active(self) -> bool:
        """Take the run that is active, if there is one."""
        self._run = self.tool.run
        return self._run is not None

    def begin(self) -> float | None:
        """Start a run where none was active, and have our step as its axis; returns the newest attempt in it."""
        if not self.prefix:
            self._run = self.tool.init(**{"reinit": "create_new", **self.options})
        for name in (STEP, ATTEMPT):
            self._run.define_metric(name, hidden=name == STEP)
        self._run.define_metric(f"{self.prefix}*", step_metric=STEP)
        found: float | None = self._run.summary.get(ATTEMPT)
        return found

    def take(self, record: Record, metrics: Mapping[str, float], groups: Mapping[str, tuple[float, ...]]) -> None:
        """Take the curves of a record, and its per-group metrics as histograms."""
        row: dict[str, Any] = {**metrics, STEP: record.measurement.step, ATTEMPT: self.attempts.number}
        for name, values in groups.items():
            finite = [each for each in values if math.isfinite(each)]
            if finite:
                row[name] = self.tool.Histogram(finite)
        self._run.log(row)

    def tell_findings(self, record: Record) -> None:
        """Take what was found: the newest of each detector into the summary, and as an alert what is grave."""
        severity = find_severity(record)
        title, story = tell_record(record)
        for each in record.decision.findings:
            self._run.summary[f"findings/{each.detector}"] = f"step {each.step}: {each.message}"
        if severity is not None and (severity in GRAVE or record.decision.responses):
            self._run.alert(title, story, level=LEVELS[severity])

    def end(self) -> None:
        """Finish the run."""
        self._run.finish(exit_code=int(self.has_failed))
