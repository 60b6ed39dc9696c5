"""MLflow: a run as a run there."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

from trimtab.integrations.tracking import tell_record
from trimtab.integrations.within import ATTEMPT, WithinRun
from trimtab.types import Record

MOST = 1000
"""Metrics that MLflow takes at once."""

REFUSED = re.compile(r"[^\w\-. :/]", re.ASCII)
"""Characters that no name in MLflow has."""

MAX_TEXT = 4000
"""Characters of a tag; stores differ in how many they take."""


class MLflowTracker(WithinRun):
    """Writes a run to MLflow: curves, the per-group metrics now and then, and findings as tags.

    It writes into the run that is active in the thread that makes the supervisor, below `trimtab/` since the loop's own
    metrics have their names there, or into one that it starts and ends. The metric `trimtab/attempt` is the attempt
    that a step belongs to, which begins anew with each rollback; the tag `trimtab.attempt-2` says how that began.

    Args:
        every: steps from one that is written to the next; those with findings are all written.
        groups_every: the same for per-group metrics, each of which is a metric `groups/NAME/GROUP`.
        **options: those of `mlflow.start_run`; with any of them a run of its own is started beside one that is active.

    Raises:
        InputError: if the package mlflow-skinny is missing, or an option is out of range.
    """

    def __init__(self, *, every: int = 1, groups_every: int = 100, **options: Any) -> None:
        super().__init__("mlflow", options, every=every, groups_every=groups_every)
        self._client: Any = None
        self._run_id = ""
        self._waiting: list[Any] = []

    def find_active(self) -> bool:
        """Take the run that is active, if there is one."""
        active = self.tool.active_run()
        self._run_id = "" if active is None else active.info.run_id
        return active is not None

    def begin(self) -> float | None:
        """Start a run where none was active; returns the newest attempt in it."""
        if not self.prefix:  # an active run is one of its thread, so this is none of the training's
            self._run_id = self.tool.start_run(**self.options).info.run_id
        self._client = self.tool.MlflowClient()
        found: float | None = self._client.get_run(self._run_id).data.metrics.get(ATTEMPT)
        return found

    def take(self, record: Record, metrics: Mapping[str, float], groups: Mapping[str, tuple[float, ...]]) -> None:
        """Take the curves of a record, and each group's metrics as curves of their own."""
        now = time.time_ns() // 1_000_000
        taken = {**metrics, ATTEMPT: float(self.attempts.number)}
        for name, values in groups.items():
            taken |= {f"{name}/{group}": value for group, value in zip(self.groups, values, strict=True)}
        for name, value in taken.items():
            metric = self.tool.entities.Metric(REFUSED.sub("_", name), value, now, record.measurement.step)
            self._waiting.append(metric)

    def tell_findings(self, record: Record) -> None:
        """Take what was found as tags: the newest of all, and the newest of each detector."""
        title, story = tell_record(record)
        self._tag("newest-finding", f"{title}: {story}")
        for each in record.decision.findings:
            self._tag(f"found.{each.detector}", f"step {each.step}: {each.message}")

    def tell_attempt(self) -> None:
        """Say in a tag how an attempt began."""
        self._tag(f"attempt-{self.attempts.number}", self.attempts.why)

    def flush(self) -> None:
        """Send what was taken."""
        while self._waiting:
            batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
            self._client.log_batch(self._run_id, metrics=batch)

    def end(self) -> None:
        """End the run."""
        self.tool.end_run("FAILED" if self.has_failed else "FINISHED")

    def _tag(self, name: str, text: str) -> None:
        self._client.set_tag(self._run_id, f"trimtab.{name}", text[:MAX_TEXT])
