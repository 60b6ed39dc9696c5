"""The lines and rows of a run folder: values to text and bytes, and back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from trimtab.types import Action, Adjustment, Change, Decision, Finding, Measurement, Record, Response

FORMAT_VERSION = 2
"""The version of the run folder's format; a reader refuses any other."""

MANIFEST, JOURNAL, EVENTS = "manifest.json", "journal.jsonl", "events.jsonl"

GROUPS, SAMPLED = "groups.f32", "sampled.f32"

TABLES = {GROUPS: "group_metrics", SAMPLED: "sampled_metrics"}
"""The files of rows with one number per group, and where the manifest names the metrics of each."""


def row_dtypes(manifest: Mapping[str, Any]) -> dict[str, np.dtype[Any]]:
    """The layout of one row of each table: line, step, bits of the metrics measured, each metric's numbers by group."""
    num_groups = len(manifest["groups"])
    head = [("line", "<u4"), ("step", "<u4"), ("present", "<u4")]
    return {
        name: np.dtype([*head, *((metric, "<f4", (num_groups,)) for metric in manifest[listed])])
        for name, listed in TABLES.items()
    }


def to_json(value: Any) -> Any:
    """A value as JSON can hold it: non-finite numbers as text, tuples as lists, keys as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): to_json(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(each) for each in value]
    return value


def format_measurement(measurement: Measurement) -> str:
    """One line of `journal.jsonl`: the step, the clock if it is a review, and every metric that is one number."""
    line: dict[str, Any] = {"step": measurement.step}
    if measurement.clock != "step":
        line["clock"] = measurement.clock
    line.update((name, value) for name, value in measurement.values.items() if not isinstance(value, tuple))
    try:
        return json.dumps(line, allow_nan=False) + "\n"
    except ValueError:
        return json.dumps(to_json(line)) + "\n"


def format_event(event: Record | Mapping[str, Any]) -> str:
    """One line of `events.jsonl`; empty for a record without findings."""
    if not isinstance(event, Record):
        return json.dumps(to_json(event)) + "\n"
    if not event.decision.findings:
        return ""
    fields = {"decision": to_fields(event.decision), "action": to_fields(event.action)}
    return json.dumps(to_json({"event": "decision", "step": event.decision.step, **fields})) + "\n"


def to_fields(value: Any) -> Any:
    """A value of `trimtab.types` as a mapping of the fields that differ from their defaults."""
    if not is_dataclass(value):
        return [to_fields(each) for each in value] if isinstance(value, tuple) else value
    pairs = ((each, getattr(value, each.name)) for each in fields(value))
    return {each.name: to_fields(held) for each, held in pairs if held != each.default}


def parse_decision(held: Mapping[str, Any]) -> Decision:
    """A decision from an event's fields."""
    responses = tuple(Response(**_parse_fields(each)) for each in held.get("responses", ()))
    findings = tuple(Finding(**_parse_fields(each)) for each in held.get("findings", ()))
    return Decision(**{**held, "responses": responses, "findings": findings})


def parse_action(held: Mapping[str, Any]) -> Action:
    """An action from an event's fields."""
    changes = tuple(Change(**_parse_fields(each)) for each in held.get("changes", ()))
    return Action(**{**held, "changes": changes})


def parse_adjustment(held: Mapping[str, Any]) -> Adjustment:
    """An adjustment from the fields of a state."""
    return Adjustment(**_parse_fields(held))


NUMBERS = {"value", "limit", "expected", "factor", "before", "after"}
"""The fields that are a number, and so may be text in JSON where it is not finite."""


def _parse_fields(held: Mapping[str, Any]) -> dict[str, Any]:
    """Fields as they were: lists were tuples, and what is a number may be text."""
    return {
        name: tuple(value) if isinstance(value, list) else float(value) if name in NUMBERS else value
        for name, value in held.items()
    }
