"""Reading tables: what is nasty about a file is dealt with or named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.conftest import require
from tests.tabular.nasty import GOOD, REFUSED
from trimtab.errors import InputError
from trimtab.tabular.columns import Table
from trimtab.tabular.inference import infer_types
from trimtab.tabular.numbers import choose_style, parse_numbers
from trimtab.tabular.reading import read_table

require("pandas", "pyarrow")


def read(folder: Path, data: bytes, name: str = "table.csv") -> Table:
    (folder / name).write_bytes(data)
    return read_table(folder / name)


@pytest.mark.parametrize("name", GOOD)
def test_nasty_file_is_read(name: str, tmp_path: Path) -> None:
    """It has rows and columns, each with a name of its own, and each column is something."""
    table = read(tmp_path, GOOD[name])
    assert table.num_rows > 0
    assert all(table.names)
    assert len(set(table.names)) == len(table.names)
    assert any(each.is_feature for each in infer_types(table).values())


SAID = {
    "ragged-lines": "line 62 has 2, line 63 has 5 fields where 3 were expected: left out",
    "windows-encoding": "line 2 is not UTF-8: the file was read as Windows-1252",
    "no-header": "the columns are called column_1 to column_3",
    "duplicate-names": "they are named by their place",
    "empty-names": "they are named by their place",
}


@pytest.mark.parametrize(("name", "note"), SAID.items(), ids=SAID.keys())
def test_what_was_done_about_it_is_said(name: str, note: str, tmp_path: Path) -> None:
    """A line is named by its number, an encoding by its name."""
    assert any(note in each for each in read(tmp_path, GOOD[name]).notes), read(tmp_path, GOOD[name]).notes


def test_a_ragged_line_is_numbered_as_editors_number_it(tmp_path: Path) -> None:
    """Line breaks within quotes and blank lines count."""
    good = b'"one\ntwo",1\n\n' * 20
    table = read(tmp_path, b"a,b\n" + good + b"x,y,z\n" + good)
    assert table.notes == ("line 62 has 3 fields where 2 were expected: left out",)
    assert table.num_rows == 40


@pytest.mark.parametrize("name", [each for each in REFUSED if each not in ("one-row", "nothing-to-learn")])
def test_what_is_no_table_gets_one_sentence(name: str, tmp_path: Path) -> None:
    """The sentence names the file and says what is wrong."""
    data, said = REFUSED[name]
    file = "table.parquet" if "parquet" in name else "table.csv"
    with pytest.raises(InputError, match=said) as caught:
        read(tmp_path, data, file)
    assert file in str(caught.value)
    assert "\n" not in str(caught.value)


FRAME = pd.DataFrame(
    {
        "number": [1.5, None, -2.0],
        "whole": pd.array([1, None, 3], dtype="Int64"),
        "text": ["a", None, " b "],
        "flag": [True, False, True],
        "moment": pd.to_datetime(["2020-01-01 00:00", None, "2020-01-02 12:00"]),
        "category": pd.Categorical(["u", None, "v"]),
    }
)


def give_frames() -> dict[str, Any]:
    polars = pytest.importorskip("polars", reason="Polars is not installed")
    return {"pandas": FRAME, "polars": polars.from_pandas(FRAME), "dict": dict(FRAME.items())}


@pytest.mark.parametrize("library", ["pandas", "polars", "dict"])
def test_a_frame_is_read_as_it_is_typed(library: str) -> None:
    """Numbers, texts, flags and moments come over with what is missing, from either library."""
    table = read_table(give_frames()[library])
    assert table.names == tuple(FRAME.columns)
    assert [each.storage for each in table.columns] == "numbers numbers texts numbers moments texts".split()
    assert [each.is_missing.tolist() for each in table.columns[:3]] == [[False, True, False]] * 3
    assert table.columns[2].list_texts() == ["a", None, "b"]
    assert table.columns[4].values[2] - table.columns[4].values[0] == 1.5 * 86400


def test_parquet_is_read_as_the_frame(tmp_path: Path) -> None:
    """A Parquet file gives what its frame gives."""
    FRAME.to_parquet(tmp_path / "table.parquet")
    table = read_table(tmp_path / "table.parquet")
    assert [each.list_texts() for each in table.columns] == [each.list_texts() for each in read_table(FRAME).columns]


@pytest.mark.parametrize("packed", ["csv.gz", "csv.zip"])
def test_packed_files_are_unpacked(packed: str, tmp_path: Path) -> None:
    """A CSV file that was packed gives what the file gives."""
    FRAME.to_csv(tmp_path / f"table.{packed}", index=False)
    FRAME.to_csv(tmp_path / "table.csv", index=False)
    tables = [read_table(tmp_path / name) for name in (f"table.{packed}", "table.csv")]
    assert tables[0].names == tables[1].names
    assert [each.list_texts() for each in tables[0].columns] == [each.list_texts() for each in tables[1].columns]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        pytest.param("nowhere.csv", "there is no file 'nowhere.csv'", id="no-file"),
        pytest.param(pd.DataFrame(), "has no columns", id="no-columns"),
        pytest.param(pd.DataFrame({"a": []}), "has no rows", id="no-rows"),
        pytest.param(np.zeros(3), "of 1 dimensions; it has to be", id="one-dimension"),
        pytest.param({"a": [1], "b": [1, 2]}, "do not go together", id="unequal-columns"),
    ],
)
def test_other_things_get_one_sentence(source: Any, message: str) -> None:
    """What is no table at all is refused with what is one."""
    with pytest.raises(InputError, match=message):
        read_table(source)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("12", 12), ("-1.5e3", -1500), ("1,234", 1234), ("1,234.5", 1234.5), ("$1,234.50", 1234.5), ("45%", 45),
        ("(12)", -12), ("-$5", -5), ("€ 7", 7), ("1 234", 1234), ("USD 9", 9), ("−3%", -3), ("1'000'000", 1e6),
    ],
)  # fmt: skip
def test_written_numbers_are_read(text: str, number: float) -> None:
    """Currencies, percent, thousands and signs are taken off."""
    assert parse_numbers([text], "point")[0] == number


@pytest.mark.parametrize("text", ["12a", "1,23,4", "2-10", "1.2.3", "", "$", "%", "--5", "1,2345"])
def test_other_texts_are_no_numbers(text: str) -> None:
    """What only looks like a number is none."""
    assert np.isnan(parse_numbers([text], "point")[0])


@pytest.mark.parametrize(
    ("texts", "style", "first"),
    [
        (["1,234", "12,345"], "point", 1234),
        (["1,5", "2,25"], "comma", 1.5),
        (["1.234,5", "12,0"], "comma", 1234.5),
        (["1.5", "3"], "plain", 1.5),
    ],
)
def test_the_style_is_that_of_the_whole_column(texts: list[str], style: str, first: float) -> None:
    """A comma is of thousands or of decimals by what the most values allow."""
    assert choose_style(texts) == style
    assert parse_numbers(texts, choose_style(texts))[0] == first
