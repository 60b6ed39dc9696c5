"""What became of the runs: figures of each, what it has told, and the table of all."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.bench.judging import RECOVERED
from trimtab.bench.processes.cases import ProcessCase
from trimtab.bench.processes.parts import RUN
from trimtab.faults import faults
from trimtab.journal import EVENTS, read_lines
from trimtab.report.page import Rows

SIGNS: Mapping[str, tuple[str, ...]] = {
    "corrupted-checkpoint": ("is damaged", "PytorchStreamReader"),
    "killed-process": ("resumed",),
    "leaking-worker": ("child processes", "data-loader worker"),
    "out-of-memory": ("memory ran out", "out of memory"),
}
"""Phrases that name a fault, beside the signs it is registered with."""

HEAD = ("fault", "contestant", "seed", "finished", "above twin", "starts", "steps twice", "named", "told", "seconds")
"""The columns of the table."""

LEGEND = (
    "above twin: the final held-out loss against the same run without the fault; starts: of its process, at most 3; "
    "steps twice: optimizer steps made again; named: something in the run's events or log names the fault; seconds: "
    "with all starts"
)
"""What the columns are."""


@dataclass(frozen=True, slots=True)
class ProcessOutcome:
    """What became of a run."""

    case: ProcessCase
    """The run."""

    is_finished: bool
    """True if it came to its end within `NUM_STARTS` starts."""

    final_loss: float
    """The loss of the samples held out; infinite for a broken model, or one that was not finished."""

    excess: float
    """The final loss above the twin's, as a share of it."""

    is_same: bool
    """True if every bit of its weights is the twin's."""

    num_starts: int
    """How often it was started."""

    num_twice: int
    """The optimizer steps that were made again, since what they had led to was lost."""

    told: str
    """What it told that names the fault, in its events or its log; empty if nothing does."""

    seconds: float
    """How long it took, with all starts."""

    @property
    def is_detected(self) -> bool:
        """True if something that it told names the fault."""
        return bool(self.told)

    @property
    def is_recovered(self) -> bool:
        """True if it was finished, and its final loss is within 2 % of the twin's."""
        return self.is_finished and self.excess <= RECOVERED


def find_told(case: ProcessCase, folder: Path) -> str:
    """The first that a run has told, in its events or else in its log, that names the fault; paths are left out."""
    signs = (*SIGNS.get(case.fault, ()), *faults[case.fault].signs)
    for told in _list_told(folder):
        if any(sign in told for sign in signs):
            return told.replace(f"{folder}/", "")
    return ""


def _list_told(folder: Path) -> Iterator[str]:
    for event in read_lines(folder / RUN / EVENTS):
        if event["event"] == "decision":
            for finding in event["decision"]["findings"]:
                yield f"{finding['detector']} at step {event['step']}: {finding['message']}"
        else:
            yield f"{event['event']} at step {event['step']}: {event.get('message', '')}".rstrip(": ")
    for log in sorted(folder.glob("log-*.txt")):
        lines = log.read_text(errors="replace").splitlines()
        yield from (line for line in lines if not line.startswith(" "))  # those of a trace are source code


def parse_outcome(fields: Mapping[str, Any]) -> ProcessOutcome:
    """The outcome of its fields, as a file has them: numbers that are not finite as text."""
    values = {**fields, "case": ProcessCase(**fields["case"])}
    return ProcessOutcome(**{**values, **{name: float(values[name]) for name in ("final_loss", "excess")}})


def to_rows(outcomes: Iterable[ProcessOutcome]) -> Rows:
    """The outcomes as a table for the page and the terminal."""
    return Rows("Faults of processes, files and ranks", HEAD, [_format(each) for each in outcomes])


def _format(outcome: ProcessOutcome) -> tuple[str, ...]:
    case = outcome.case
    return (
        case.fault,
        case.contestant,
        str(case.seed),
        "yes" if outcome.is_finished else "no",
        _format_excess(outcome),
        str(outcome.num_starts),
        str(outcome.num_twice),
        "yes" if outcome.is_detected else "no",
        textwrap.shorten(outcome.told, 120, placeholder=" …"),
        f"{outcome.seconds:.1f}",
    )


def _format_excess(outcome: ProcessOutcome) -> str:
    if outcome.is_same:
        return "0, bit for bit"
    if not outcome.is_finished:
        return "lost"
    return "broken" if math.isinf(outcome.excess) else f"{outcome.excess:+.2%}"
