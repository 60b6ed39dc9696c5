"""The run folder: manifest, journal and events; written off the hot path, readable half-written.

    manifest.json    versions, groups, policy: what the run was started with
    journal.jsonl    dense: one line per step or review, the metrics that are one number
    groups.f32       dense: one row per step, the metrics with one number per group
    events.jsonl     sparse: findings, decisions and actions; faults, gaps, the end

A row of `groups.f32` is little-endian: the step as a uint32; a uint32 whose bit i says whether metric i was measured
at this step; then for each metric the manifest names, in its order, one float32 per group. Non-finite numbers are
text in the JSON files: `"NaN"`, `"Infinity"`, `"-Infinity"`. The last line or row may be cut short by a crash;
reading stops before it.
"""

from trimtab.journal.format import (
    EVENTS,
    FORMAT_VERSION,
    GROUPS,
    JOURNAL,
    MANIFEST,
    format_event,
    format_measurement,
    parse_action,
    parse_adjustment,
    parse_decision,
    row_dtype,
    to_fields,
    to_json,
)
from trimtab.journal.manifest import describe_run, redact
from trimtab.journal.reader import RunLog, read_groups, read_lines, read_manifest, read_run
from trimtab.journal.writer import FLUSH_SECONDS, Journal, write_aside

__all__ = [
    "EVENTS",
    "FLUSH_SECONDS",
    "FORMAT_VERSION",
    "GROUPS",
    "JOURNAL",
    "MANIFEST",
    "Journal",
    "RunLog",
    "describe_run",
    "format_event",
    "format_measurement",
    "parse_action",
    "parse_adjustment",
    "parse_decision",
    "read_groups",
    "read_lines",
    "read_manifest",
    "read_run",
    "redact",
    "row_dtype",
    "to_fields",
    "to_json",
    "write_aside",
]
