"""JSON: a file of records or of columns, or a record in each line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from trimtab.errors import InputError
from trimtab.readers import Log, reader
from trimtab.readers.building import build_log
from trimtab.readers.gathering import Entry
from trimtab.readers.sources import Notes, read_head, read_source, strip_name

HOLDERS = ("log_history", "history", "metrics", "logs", "records", "data", "rows", "steps")
"""Under what name a JSON file may hold its records, where it holds other things too."""

DEPTH = 6
"""How deep the numbers of a record may lie; beyond are settings, and not measurements."""


def is_lines(path: Path) -> bool:
    """True if the first line, or the second after a line cut short, is a record of its own."""
    lines = [line for line in read_head(path).split("\n") if line.strip()][:2]
    is_record = any(isinstance(_parse_or_none(line), dict) for line in lines)
    return is_record and (len(lines) > 1 or strip_name(path).endswith(("l", ".ndjson", ".log")))


def is_object(path: Path) -> bool:
    """True for a file whose name says it, or that begins like JSON and is no lines of it."""
    if strip_name(path).endswith(".json"):
        return path.is_file() and not is_lines(path)
    return read_head(path).lstrip().startswith(("[{", "[\n", '{"', "{\n")) and not is_lines(path)


@reader("jsonl", recognizes=is_lines, turn=1)
def read_jsonl(path: Path, names: Mapping[str, str]) -> Log:
    """A JSON object in each line, such as many scripts write; numbers may lie deeper, as in `{"train": {"loss": 2}}`.

    NaN and Infinity may stand bare or as text. Lines that are no JSON are noted by number.
    """
    entries, notes = parse_lines(path)
    return build_log(path, "jsonl", entries, names, notes=notes)


@reader("json", recognizes=is_object, turn=1)
def read_json(path: Path, names: Mapping[str, str]) -> Log:
    """A JSON file that holds a list of records, or columns such as Keras's history."""
    entries, notes = parse_object(path)
    return build_log(path, "json", entries, names, notes=notes)


def parse_lines(path: Path) -> tuple[Iterator[Entry], Notes]:
    """The records of a file with one in each line, and the notes, which are whole after the last."""
    source = read_source(path)
    notes = Notes(source.notes)

    def walk() -> Iterator[Entry]:
        unreadable: list[int] = []
        number = 0
        for number, line in source.lines:
            found = _parse_or_none(line)
            if isinstance(found, dict):
                yield number, flatten(found)
            else:
                unreadable.append(number)
        if unreadable and unreadable[-1] == number and source.is_cut_short:
            notes.append(f"line {unreadable.pop()}, the last, is cut short; it is left out")
            notes.num_skipped += 1
        notes.leave_out(unreadable, "no JSON objects")

    return walk(), notes


def parse_object(path: Path) -> tuple[Iterable[Entry], list[str]]:
    """The records of a JSON file, and the notes.

    Raises:
        InputError: if it is damaged, or holds neither records nor columns.
    """
    source = read_source(path)
    try:
        content = json.loads(source.text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"log: {str(path)!r} is damaged JSON: {error}") from error
    records = find_records(content)
    if records is None:
        raise InputError(f"log: {str(path)!r} holds neither a list of records nor columns of numbers")
    return list(enumerate((flatten(each) for each in records), 1)), list(source.notes)


def find_records(content: Any) -> list[dict[str, Any]] | None:
    """The records in what a JSON file holds, wherever tools put them; None where there are none."""
    if isinstance(content, list):
        records = [each for each in content if isinstance(each, dict)]
        return records if len(records) * 2 > len(content) else None
    if not isinstance(content, dict):
        return None
    for name in HOLDERS:
        if (found := find_records(content.get(name))) is not None:
            return found
    columns = {name: each for name, each in content.items() if isinstance(each, (list, dict)) and each}
    return _transpose(columns) if columns and all(map(_is_column, columns.values())) else None


def flatten(record: Mapping[str, Any], before: str = "", depth: int = DEPTH) -> dict[str, Any]:
    """A record whose numbers all lie at the top, the names joined by slashes."""
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if not isinstance(value, dict):
            flat[before + name] = value
        elif depth and "_type" not in value:  # with that key it is a picture or a histogram of Weights & Biases
            flat.update(flatten(value, f"{before}{name}/", depth - 1))
    return flat


def _parse_or_none(line: str) -> Any:
    try:
        return json.loads(line) if line.lstrip().startswith("{") else None
    except (ValueError, RecursionError):
        return None


def _is_column(column: Any) -> bool:
    """True for a list of cells, or for cells by row number, as pandas writes a column."""
    if isinstance(column, dict):
        return all(name.isdigit() and not isinstance(cell, (dict, list)) for name, cell in column.items())
    return not any(isinstance(cell, (dict, list)) for cell in column)


def _transpose(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Columns as records."""
    records: dict[int, dict[str, Any]] = {}
    for name, column in columns.items():
        cells = column.items() if isinstance(column, dict) else enumerate(column)
        for row, cell in cells:
            records.setdefault(int(row), {})[name] = cell
    return [records[row] for row in sorted(records)]
