"""Tables as text: their encoding, their separator, their header, and the lines that do not fit."""

from __future__ import annotations

import codecs
import csv
import io
from collections import Counter
from collections.abc import Iterator
from typing import Any

from trimtab.errors import InputError
from trimtab.tabular.columns import MISSING, Table, make_texts, name_columns
from trimtab.tabular.numbers import parse_numbers

SEPARATORS = ",;\t|"
"""What may stand between two fields."""

NUM_SNIFFED = 200
"""Lines by which the separator is told."""

MOST_RAGGED = 0.1
"""The share of lines with too many or too few fields from which the table is not read."""

NAMED = 5
"""Lines that are named at most."""

MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
"""How a file begins that says its own encoding."""

MOST_BLOCK = 2**30
"""The most bytes of a file that are parsed at a time; a record may not be longer."""


def read_delimited(data: bytes, source: str) -> Table:
    """Read a table that is text, every column of it as texts.

    Args:
        data: the file.
        source: what it is called in messages.

    Raises:
        InputError: if it is no table.
    """
    if not data.strip():
        raise InputError(f"{source} is empty; a table has a header and a row for each thing that is to be embedded")
    text, notes = _decode(data, source)
    separator = _choose_separator(text)
    first = next(_read_records(text, separator))[1]
    rows, skipped = _parse(text, separator, len(first), source)
    if rows.num_rows + skipped and skipped / (rows.num_rows + skipped) > MOST_RAGGED:
        number, num_fields = next(_list_ragged(text, separator, len(first)))
        raise InputError(
            f"{source}: line {number} has {num_fields} fields and the first has {len(first)}, and so it is with "
            f"{skipped} lines; write each row with as many fields as the header, and quote what holds a {separator!r}"
        )
    if skipped:
        ragged = [f"line {number} has {num}" for number, num in _list_ragged(text, separator, len(first))]
        rest = f" and {len(ragged) - NAMED} more lines" if len(ragged) > NAMED else ""
        notes.append(f"{', '.join(ragged[:NAMED])} fields where {len(first)} were expected{rest}: left out")
    return _build(rows, first, source, notes)


def _decode(data: bytes, source: str) -> tuple[str, list[str]]:
    mark = next((each for each in MARKS if data.startswith(each)), None)
    if mark is not None:
        return data.decode(MARKS[mark], "replace"), []
    if b"\0" in data[:10_000]:
        raise InputError(f"{source} is no text; a table is CSV, TSV or Parquet")
    try:
        return data.decode("utf-8"), []
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        text = data.decode("cp1252", "replace")
        return text, [f"line {line} is not UTF-8: the file was read as Windows-1252; save it as UTF-8 if that is wrong"]


def _choose_separator(text: str) -> str:
    """The separator by which the most of the first lines have the same number of fields, above one."""
    head = "".join(text[:500_000].splitlines(keepends=True)[:NUM_SNIFFED])

    def rate(separator: str) -> tuple[float, int]:
        counts = Counter(len(record) for _, record in _read_records(head, separator))
        if not counts:
            return 0.0, 0
        num_fields, num_lines = counts.most_common(1)[0]
        return (num_lines / counts.total(), num_fields) if num_fields > 1 else (0.0, 0)

    return max(SEPARATORS, key=rate)


def _read_records(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """The records that are not blank, each with the number of the line it begins at."""
    csv.field_size_limit(MOST_BLOCK)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=False)
    begins = 1
    for record in reader:
        if record:
            yield begins, record
        begins = reader.line_num + 1


def _list_ragged(text: str, separator: str, num_fields: int) -> Iterator[tuple[int, int]]:
    """Line and number of fields of the records that do not fit."""
    for number, record in _read_records(text, separator):
        if len(record) != num_fields:
            yield number, len(record)


def _parse(text: str, separator: str, num_fields: int, source: str) -> tuple[Any, int]:
    """All records that fit, as a table of Arrow with a dictionary for each column, and how many do not."""
    from pyarrow import ArrowInvalid, csv as arrow_csv, dictionary, int32, string

    num_skipped = 0

    def pass_over(_: Any) -> str:
        nonlocal num_skipped
        num_skipped += 1
        return "skip"

    kind = dictionary(int32(), string())
    data = text.encode("utf-8", "replace")
    try:
        rows = arrow_csv.read_csv(
            io.BytesIO(data),
            read_options=arrow_csv.ReadOptions(
                autogenerate_column_names=True, use_threads=False, block_size=min(len(data) + 1, MOST_BLOCK)
            ),
            parse_options=arrow_csv.ParseOptions(
                delimiter=separator, newlines_in_values=True, invalid_row_handler=pass_over
            ),
            convert_options=arrow_csv.ConvertOptions(
                column_types={f"f{index}": kind for index in range(num_fields)}, strings_can_be_null=False
            ),
        )
    except ArrowInvalid as error:
        raise InputError(f"{source} cannot be read as a table: {' '.join(str(error).split())}") from error
    return rows, num_skipped


def _build(rows: Any, first: list[str], source: str, notes: list[str]) -> Table:
    has_header = _has_header(rows, first)
    names = name_columns(first if has_header else [""] * len(first))
    if not has_header:
        notes.append(f"the first line has values and no names: the columns are called {names[0]} to {names[-1]}")
    elif any(not each.strip() for each in first) or len({each.strip() for each in first}) < len(first):
        notes.append("some columns had no name, or that of another one: they are named by their place")
    if rows.num_rows - has_header < 1:
        raise InputError(f"{source} has a header and no rows; a table has a row for each thing that is to be embedded")
    columns = []
    for name, column in zip(names, rows.columns, strict=True):
        whole = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        codes = whole.indices.to_numpy(zero_copy_only=False)[1 if has_header else 0 :]
        columns.append(make_texts(name, codes, whole.dictionary.to_pylist()))
    return Table(tuple(columns), source, tuple(notes))


def _has_header(rows: Any, first: list[str]) -> bool:
    """False if a field of the first line is a number, as are those below it; a line of years is one of names."""
    numbers = parse_numbers([each.strip() for each in first], "plain")
    if not any(each == each for each in numbers):
        return True
    if all(each == each and 1000 <= each <= 2999 for each, name in zip(numbers, first, strict=True) if name.strip()):
        return True
    below = [[str(column[row]).strip() for row in range(1, min(20, rows.num_rows))] for column in rows.columns]
    for each, name, values in zip(numbers, first, below, strict=True):
        held = [value for value in values if value.lower() not in MISSING]
        if each == each and name.strip() and held and not any(other != other for other in parse_numbers(held, "plain")):
            return False
    return True
