"""What Weights & Biases exports: a chart's CSV from the page, or a run's history."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.readers import Log, reader
from trimtab.readers.building import build_log
from trimtab.readers.delimited import find_delimiter, is_delimited, parse_delimited
from trimtab.readers.gathering import Entry
from trimtab.readers.objects import is_lines, is_object, parse_lines, parse_object
from trimtab.readers.sources import list_some, read_head

BETWEEN = " - "
"""What stands between a run's name and a metric's in the header of a chart."""

RANGES = ("__MIN", "__MAX")
"""The ends of columns that say between what the numbers of a point of the chart lay."""

KEY = re.compile(r'"(_step|_runtime|_timestamp)"')


@dataclass(slots=True)
class Chart:
    """Whose columns of a chart are read."""

    run: str | None
    """The run; None where the columns name none."""

    others: Sequence[str]
    """The runs that are left out."""


def is_export(path: Path) -> bool:
    """True for a history with the columns that Weights & Biases adds, and for a chart with the ranges it adds."""
    head = read_head(path)
    if is_delimited(path):
        first = head.partition("\n")[0]
        names = {name.strip(' "') for name in first.split(find_delimiter(first))}
        return _has_own_columns(names) or any(name.endswith(RANGES) and BETWEEN in name for name in names)
    return bool(head) and _has_own_columns(set(KEY.findall(head))) and (is_lines(path) or is_object(path))


@reader("wandb", recognizes=is_export)
def read_wandb(path: Path, names: Mapping[str, str]) -> Log:
    """An export of Weights & Biases: the CSV of a chart, or a run's history as CSV, JSON or JSON lines.

    A chart of several runs is read for the first of them, or for the one that the mapping names.
    """
    entries, notes, header = _parse(path)
    chart = _choose_run(header, names)
    if chart.others:
        notes.append(
            f"the chart has several runs; {chart.run!r} is read, and left out are {list_some(map(repr, chart.others))}"
        )
    shortened = {_shorten(name, chart.run): ours for name, ours in names.items()}
    kept = _keep_run(entries, chart)
    return build_log(path, "wandb", kept, shortened, notes=notes, info={"tool": "Weights & Biases"})


def _has_own_columns(names: set[Any]) -> bool:
    return "_step" in names and bool(names & {"_runtime", "_timestamp"})


def _parse(path: Path) -> tuple[Iterable[Entry], list[str], Sequence[str]]:
    """The entries, the notes, and the header of a table."""
    if is_lines(path):
        return *parse_lines(path), ()
    if is_object(path):
        return *parse_object(path), ()
    table = parse_delimited(path)
    return table.entries, table.notes, table.header


def _choose_run(header: Sequence[str], names: Mapping[str, str]) -> Chart:
    runs = list(dict.fromkeys(name.rpartition(BETWEEN)[0] for name in header if BETWEEN in name))
    told = [run for run in runs if any(name.startswith(run + BETWEEN) for name in names)]
    run = next(iter(told or runs), None)
    return Chart(run, [each for each in runs if each != run])


def _shorten(name: str, run: str | None) -> str:
    return name if run is None else name.removeprefix(run + BETWEEN)


def _keep_run(entries: Iterable[Entry], chart: Chart) -> Iterator[Entry]:
    """Entries with the columns of one run and those of all, without the ranges."""
    others = tuple(each + BETWEEN for each in chart.others)
    for line, cells in entries:
        own = {
            _shorten(name, chart.run): cell
            for name, cell in cells.items()
            if not name.endswith(RANGES) and not (others and name.startswith(others))
        }
        if len(own) > 1 or chart.run is None:
            yield line, own
