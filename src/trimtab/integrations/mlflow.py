"""MLflow: a run as a run there."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

from trimtab.integrations.tracking import (
    Attempts,
    Cadence,
    import_extra,
    is_good_end,
    list_groupwise,
    name_metrics,
    tell_record,
    validate_every,
)
from trimtab.journal import Tracker
from trimtab.types import Record

ATTEMPT = "trimtab/attempt"
"""The metric that is the attempt a step belongs to."""

MOST = 1000
"""Metrics that MLflow takes at once."""

REFUSED = re.compile(r"[^\w\-. :/]", re.ASCII)
"""Characters that no name in MLflow has."""

MAX_TEXT = 4000
"""Characters of a tag; stores differ in how many they take."""


class MLflowTracker(Tracker):
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
        validate_every("MLflowTracker", every=every, groups_every=groups_every)
        self._mlflow = import_extra("mlflow", who="MLflowTracker")
        self._cadence, self._options = Cadence(every, groups_every), options
        self._attempts = Attempts()
        self._client: Any = None
        self._run_id, self._prefix, self._status = "", "", "FINISHED"
        self._groups: tuple[str, ...] = ()
        self._waiting: list[Any] = []

    def open(self, manifest: Mapping[str, Any]) -> None:
        """Look for the run that is active."""
        active = None if self._options else self._mlflow.active_run()
        self._client = None
        self._run_id = "" if active is None else active.info.run_id
        self._prefix = "" if active is None else "trimtab/"
        self._groups = tuple(manifest["groups"])

    def write(self, record: Record) -> None:
        """Take one step or review."""
        if self._client is None:
            self._begin()
        if self._attempts.count(record):
            self._tag(f"attempt-{self._attempts.number}", self._attempts.why)
        if not self._cadence.is_due(record):
            return
        metrics = {self._prefix + name: value for name, value in name_metrics(record).items()}
        for name, values in list_groupwise(record).items() if self._cadence.are_groups_due(record) else ():
            named = zip(self._groups, values, strict=True)
            metrics |= {f"{self._prefix}groups/{name}/{group}": value for group, value in named}
        self._take({**metrics, ATTEMPT: float(self._attempts.number)}, record.measurement.step)
        if record.decision.findings:
            title, story = tell_record(record)
            self._tag("newest-finding", f"{title}: {story}")
            for each in record.decision.findings:
                self._tag(f"found.{each.detector}", f"step {each.step}: {each.message}")

    def write_event(self, event: str, **fields: Any) -> None:
        """Note how the run ends."""
        if event == "end":
            self._status = "FINISHED" if is_good_end(fields["status"]) else "FAILED"

    def flush(self) -> None:
        """Send what was taken."""
        while self._waiting:
            batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
            self._client.log_batch(self._run_id, metrics=batch)

    def close(self) -> None:
        """End the run, if it is one of ours."""
        if self._client is not None and not self._prefix:
            self._mlflow.end_run(self._status)

    def _begin(self) -> None:
        """Start a run where none was active, and see which attempts are in it already."""
        if not self._run_id:  # an active run is one of its thread, so this is none of the training's
            self._run_id = self._mlflow.start_run(**self._options).info.run_id
        self._client = self._mlflow.MlflowClient()
        self._attempts.follow(self._client.get_run(self._run_id).data.metrics.get(ATTEMPT))

    def _take(self, metrics: Mapping[str, float], step: int) -> None:
        now = time.time_ns() // 1_000_000
        for name, value in metrics.items():
            self._waiting.append(self._mlflow.entities.Metric(REFUSED.sub("_", name), value, now, step))

    def _tag(self, name: str, text: str) -> None:
        self._client.set_tag(self._run_id, f"trimtab.{name}", text[:MAX_TEXT])
