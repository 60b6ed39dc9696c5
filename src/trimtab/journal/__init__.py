"""The run folder: manifest, journal and events; written off the hot path, readable half-written.

    manifest.json    versions, groups, policy: what the run was started with
    journal.jsonl    dense: one line per step or review, the metrics that are one number
    groups.f32       dense: one row per step, the metrics with one number per group that are measured at every step
    sampled.f32      sparse: the other metrics with one number per group, a row where one of them was measured
    events.jsonl     sparse: findings, decisions and actions; faults, gaps, the end

A row of either `.f32` file is little-endian: as a uint32 each the line of `journal.jsonl` it belongs to, counted from
0, the step, and bits of which bit i says whether metric i was measured; then for each metric the manifest names for
the file (`group_metrics`, `sampled_metrics`), in its order, one float32 per group. Where none was measured there is no
row. Non-finite numbers are text in the JSON files: `"NaN"`, `"Infinity"`, `"-Infinity"`. The last line or row may be
cut short by a crash, and the last rows may belong to lines that were not written any more; reading stops before them.

What changes the layout of a file or the meaning of a name raises `FORMAT_VERSION`; one version reads one format.
"""

from trimtab.journal.follower import Follower, LineFollower, News, measure_age
from trimtab.journal.format import (
    EVENTS,
    FORMAT_VERSION,
    GROUPS,
    JOURNAL,
    MANIFEST,
    SAMPLED,
    TABLES,
    format_event,
    format_measurement,
    parse_action,
    parse_adjustment,
    parse_decision,
    row_dtypes,
    to_fields,
    to_json,
)
from trimtab.journal.manifest import describe_run, redact
from trimtab.journal.reader import RunLog, read_lines, read_manifest, read_run, read_table
from trimtab.journal.relay import Tracker
from trimtab.journal.writer import FLUSH_SECONDS, Journal, write_aside

__all__ = [
    "EVENTS",
    "FLUSH_SECONDS",
    "FORMAT_VERSION",
    "GROUPS",
    "JOURNAL",
    "MANIFEST",
    "SAMPLED",
    "TABLES",
    "Follower",
    "Journal",
    "LineFollower",
    "News",
    "RunLog",
    "Tracker",
    "describe_run",
    "format_event",
    "format_measurement",
    "measure_age",
    "parse_action",
    "parse_adjustment",
    "parse_decision",
    "read_lines",
    "read_manifest",
    "read_run",
    "read_table",
    "redact",
    "row_dtypes",
    "to_fields",
    "to_json",
    "write_aside",
]
