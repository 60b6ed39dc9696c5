"""From a log or plain values to evidence: columns are built once, and the record is put right."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from trimtab.diagnosis.evidence import Evidence, Repairs, Series
from trimtab.policy import Judge, Policy
from trimtab.types import PER_GROUP, Action, Decision, Finding, Measurement, Record, Value

Rows: TypeAlias = NDArray[np.int64]

GAP = 3.0
"""A distance above so many times the usual one is a gap."""

MOST_NAMED = 5
"""Gaps and restarts that are listed."""


class Columns:
    """Builds the series of one clock, a record at a time."""

    def __init__(self) -> None:
        self._steps = array("q")
        self._rows: dict[str, array[int]] = defaultdict(lambda: array("q"))
        self._values: dict[str, array[float]] = defaultdict(lambda: array("d"))
        self._wide: dict[str, list[tuple[float, ...]]] = defaultdict(list)

    def add(self, step: int, values: Mapping[str, Value]) -> None:
        """Take one record."""
        row = len(self._steps)
        self._steps.append(step)
        for name, value in values.items():
            self._rows[name].append(row)
            if isinstance(value, tuple):
                self._wide[name].append(value)
            else:
                self._values[name].append(value)

    def extend(self, records: Sequence[dict[str, Any]]) -> None:
        """Take many records at once: each its step and its numbers by name, those that are not finite as text."""
        first = len(self._steps)
        self._steps.extend([record["step"] for record in records])
        for name in dict.fromkeys(chain.from_iterable(records)):
            if name in ("step", "clock"):
                continue
            values = [record.get(name) for record in records]
            rows: Sequence[int] = range(first, first + len(values))
            if None in values:
                rows = [row for row, value in zip(rows, values, strict=True) if value is not None]
                values = [value for value in values if value is not None]
            self._rows[name].extend(rows)
            self._values[name].frombytes(np.array(values, dtype=np.float64).tobytes())

    def build(self) -> tuple[dict[str, Series], Repairs]:
        """The series in the order of their steps, each step once, and what had to be put right for that."""
        steps = np.frombuffer(self._steps, dtype=np.int64) if self._steps else np.empty(0, dtype=np.int64)
        kept = find_kept(steps)
        series: dict[str, Series] = {}
        num_repeated = 0
        for name, row_list in self._rows.items():
            rows = np.frombuffer(row_list, dtype=np.int64)
            values = (
                np.array(self._wide[name], dtype=np.float64) if name in self._wide else np.array(self._values[name])
            )
            rows, values = rows[kept[rows]], values[kept[rows]]
            is_last = np.append(steps[rows][1:] != steps[rows][:-1], True)
            num_repeated = max(num_repeated, int((~is_last).sum()))
            series[name] = Series(steps[rows[is_last]], values[is_last])
        return series, _tell_repairs(steps, kept, num_repeated)


def find_kept(steps: Rows) -> NDArray[np.bool_]:
    """Which records count: where the steps went back, what was recorded before from there on does not."""
    if not len(steps):
        return np.empty(0, dtype=np.bool_)
    lowest = np.minimum.accumulate(steps[::-1])[::-1]
    is_same = steps[:-1] == steps[1:]
    return np.append((steps[:-1] < lowest[1:]) | (is_same & (steps[:-1] == lowest[1:])), True)


def _tell_repairs(steps: Rows, kept: NDArray[np.bool_], num_repeated: int) -> Repairs:
    back = np.flatnonzero(np.diff(steps) < 0)
    restarts = tuple((int(steps[row]), int(steps[row + 1])) for row in back[:MOST_NAMED])
    sorted_steps = steps[kept]
    sorted_steps = sorted_steps[np.flatnonzero(np.diff(sorted_steps, append=sorted_steps[-1:] + 1))]
    moves = np.diff(sorted_steps).astype(np.float64)
    if len(moves) < 4:
        return Repairs(num_repeated, restarts, num_records=len(steps))
    usual = float(np.median(moves))
    at = np.flatnonzero(moves > GAP * usual)
    gaps = tuple((int(sorted_steps[row]), int(sorted_steps[row + 1])) for row in at[:MOST_NAMED])
    num_missing = int(np.sum(np.round(moves[at] / usual) - 1))
    return Repairs(num_repeated, restarts, gaps, num_missing, len(steps))


def gather_values(
    measurements: Sequence[Measurement],
    decided: Sequence[tuple[Decision, Action]] = (),
    events: Sequence[Mapping[str, Any]] = (),
    manifest: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> Evidence:
    """The evidence in plain values.

    Args:
        measurements: what was seen, in the order of its recording.
        decided: the decisions with findings and what was done; where there are none, nothing is taken as found yet.
        events: the other events of a run.
        manifest: what is known of how the run was started; `groups` names the parameter groups.
        notes: what the reader of the log had to say.
    """
    manifest = manifest or {}
    of_steps, of_reviews = Columns(), Columns()
    for each in measurements:
        (of_steps if each.clock == "step" else of_reviews).add(each.step, each.values)
    metrics, repairs = of_steps.build()
    reviews, _ = of_reviews.build()
    return Evidence(
        metrics,
        reviews,
        tuple(manifest.get("groups", ())),
        tuple(finding for decision, _ in decided for finding in decision.findings),
        tuple(decided),
        events,
        manifest,
        tuple(notes),
        repairs,
    )


@np.errstate(over="ignore", invalid="ignore")
def replay_detectors(evidence: Evidence) -> Evidence:
    """The evidence of another tool's log with what Trimtab's detectors find in it.

    Records are counted in place of steps, so that a log of every tenth step is judged as closely as one of each.
    """
    metrics = evidence.metrics
    steps = np.unique(np.concatenate([each.steps for each in metrics.values()])) if metrics else np.empty(0, np.int64)
    judge = Judge(Policy.observe(), evidence.groups or ("model",))
    rows: list[dict[str, Value]] = [{} for _ in steps]
    for name, each in metrics.items():
        is_per_group = name in PER_GROUP or each.values.ndim > 1  # another tool's one number is that of one group
        if is_per_group and each.values.ndim > 1 and each.values.shape[1] != max(len(evidence.groups), 1):
            continue
        for place, value in zip(np.searchsorted(steps, each.steps).tolist(), each.values.tolist(), strict=True):
            values = value if isinstance(value, list) else [value]
            rows[place][name] = tuple(values) if is_per_group else values[0]
    findings: list[Finding] = []
    for row, seen in enumerate(rows, 1):
        measurement = Measurement(row, seen)
        decision = judge.judge(measurement)
        judge.settle(Record(measurement, decision, Action(row)))
        findings += decision.findings
    return replace(evidence, findings=tuple(_renumber(findings, steps)))


def _renumber(findings: Iterable[Finding], steps: Rows) -> Iterable[Finding]:
    """Findings with the steps of the log in place of the numbers of its records."""
    for each in findings:
        since = None if each.since is None else int(steps[each.since - 1])
        yield replace(each, step=int(steps[each.step - 1]), since=since)
