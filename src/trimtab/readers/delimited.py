"""CSV files, and what tools write as CSV."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trimtab.readers import Log, reader
from trimtab.readers.building import build_log
from trimtab.readers.cells import parse_number
from trimtab.readers.gathering import Entry
from trimtab.readers.sources import Notes, list_some, read_head, read_source, strip_name

DELIMITERS = ",;\t|"
PROGRESS = re.compile(r"%\|.*\| *\d+/\d+ \[")
"""A progress bar, whose bars separate no cells."""

SPACE = " "
"""One space or several between the cells, where none of the delimiters is there."""

TENSORBOARD_HEADER = ["Wall time", "Step", "Value"]
"""What TensorBoard's page writes for one tag; the tag is in the file's name alone."""


@dataclass(slots=True)
class Delimited:
    """A table of text that was read."""

    header: list[str]
    """The columns' names, each once."""

    decimal_comma: bool
    """True if a single comma is the decimal point."""

    entries: Iterable[Entry]
    """Its lines; cells that are empty are absent."""

    notes: Notes
    """What was odd, a sentence each; whole after the last entry."""


def is_delimited(path: Path) -> bool:
    """True for a file whose name says it, or whose first two lines are a header and numbers."""
    if strip_name(path).endswith((".csv", ".tsv")):
        return path.is_file()
    lines = [line for line in read_head(path).split("\n") if line.strip() and not line.startswith("#")][:2]
    if len(lines) < 2 or lines[0].lstrip().startswith(("{", "[")) or any(PROGRESS.search(line) for line in lines):
        return False
    delimiter = find_delimiter(lines[0])
    names, cells = (_split(line, delimiter) for line in lines)
    if delimiter == SPACE and any(parse_number(cell) is None for cell in cells):
        return False
    are_names = len(names) > 1 and all(name.strip() and parse_number(name) is None for name in names)
    return are_names and len(cells) == len(names) and any(parse_number(cell) is not None for cell in cells)


@reader("csv", recognizes=is_delimited, turn=1)
def read_csv(path: Path, names: Mapping[str, str]) -> Log:
    """A table with a header and a line for each step, such as a plain CSV file or the logger of Lightning or Keras.

    Comma, semicolon, tab, bar or spaces between the cells. Lines of training and of validation may alternate, with
    empty cells; lines that a restart has appended, a header in the middle and lines cut short are seen to.
    """
    table = parse_delimited(path)
    if table.header == TENSORBOARD_HEADER:
        tag = re.sub(r"(?i).*-tag-|\.csv(\.gz)?$", "", path.name)
        table.entries = _rename(table.entries, "Value", tag)
    return build_log(path, "csv", table.entries, names, notes=table.notes, decimal_comma=table.decimal_comma)


def _rename(entries: Iterable[Entry], name: str, to: str) -> Iterator[Entry]:
    for line, cells in entries:
        yield line, {to if each == name else each: cell for each, cell in cells.items()}


def parse_delimited(path: Path) -> Delimited:
    """Read a table of text; its entries come one by one, and its notes are whole after the last."""
    source = read_source(path)
    lines = list(source.lines)
    start = next((place for place, (_, line) in enumerate(lines) if not line.startswith("#")), 0)
    delimiter = find_delimiter(lines[start][1])
    first = _split(lines[start][1], delimiter)
    notes = Notes(source.notes)
    if all(parse_number(cell) is not None for cell in first):
        header = _find_marked_header(lines[:start], delimiter, len(first))
        if not header:
            header = [f"column_{place}" for place in range(1, len(first) + 1)]
            notes.append("there is no header; the columns are called column_1, column_2 and so on")
    else:
        header, start = _name_columns(first, notes), start + 1
    cut_line = lines[-1][0] if source.is_cut_short else 0
    rows = _parse_rows(lines[start:], delimiter, header, cut_line, notes)
    return Delimited(header, delimiter == ";", rows, notes)


def find_delimiter(line: str) -> str:
    """What stands between the cells of a header: the most frequent of those that do, outside of quotes; else space."""
    bare = re.sub(r'"[^"]*"', "", line)
    best = max(DELIMITERS, key=bare.count)
    return best if best in bare else SPACE


def _split(line: str, delimiter: str) -> list[str]:
    """The cells of a line; a quoted one ends with its line, so that a lost quote costs no more than that."""
    if delimiter == SPACE:
        return line.split()
    if '"' not in line:
        return line.split(delimiter)
    try:
        return next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))
    except (csv.Error, StopIteration):
        return []


def _find_marked_header(comments: Sequence[tuple[int, str]], delimiter: str, width: int) -> list[str]:
    """The header that stands in a comment, as NumPy writes it; none if none is as wide as the table."""
    split = [_split(line.lstrip("# "), delimiter) for _, line in comments]
    return next(([name.strip() for name in names] for names in reversed(split) if len(names) == width), [])


def _name_columns(first: Sequence[str], notes: list[str]) -> list[str]:
    """The header with each name once."""
    names = [name.strip() or f"column_{place}" for place, name in enumerate(first, 1)]
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        notes.append(
            f"columns are there more than once; the first of each keeps its name: {list_some(map(repr, twice))}"
        )
    return [name if name not in names[:place] else f"{name} ({place + 1})" for place, name in enumerate(names)]


def _parse_rows(
    lines: Sequence[tuple[int, str]], delimiter: str, header: list[str], cut_line: int, notes: Notes
) -> Iterator[Entry]:
    ragged, headers, width = list[int](), list[int](), len(header)
    for number, line in lines:
        cells = _split(line, delimiter)
        if len(cells) > width and not any(cell.strip() for cell in cells[width:]):
            cells = cells[:width]
        if len(cells) == width:
            if cells[0].strip() == header[0] and [cell.strip() for cell in cells] == header:
                headers.append(number)
            else:
                yield number, {name: cell for name, cell in zip(header, cells, strict=True) if cell}
        elif number == cut_line:
            notes.append(f"line {number}, the last, is cut short; it is left out")
            notes.num_skipped += 1
        elif not line.startswith("#"):
            ragged.append(number)
    if headers:
        notes.append(f"the header stands again in line {list_some(headers)}, as where a run was started again")
    notes.leave_out(ragged, f"not {width} cells wide")
