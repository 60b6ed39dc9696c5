"""What columns are: on real tables against a person's judgement, and on cases that are easily got wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.conftest import require
from tests.tabular.expected import EXPECTED
from tests.tabular.tables import TABLES
from trimtab.errors import InputError
from trimtab.tabular.inference import infer_types
from trimtab.tabular.reading import read_table

require("pandas", "pyarrow")

LEAST = 0.97
"""The share of columns that have to be told right."""


@pytest.mark.parametrize("name", EXPECTED)
def test_kinds_are_those_a_person_tells(name: str, tmp_path: Path) -> None:
    """Of each real table, nearly all columns are what a person wrote down before; a small table has no wrong one."""
    types = infer_types(read_table(TABLES[name](tmp_path)))
    assert types.keys() == EXPECTED[name].keys()
    wrong = {
        each: (kind.kind, kind.reason) for each, kind in types.items() if kind.kind not in EXPECTED[name][each].split()
    }
    assert len(wrong) <= (1 - LEAST) * len(types), wrong
    assert all(each.reason for each in types.values())


def _whole(low: int, high: int, num: int) -> list[int]:
    return [int(each) for each in np.random.default_rng(0).integers(low, high, num)]


N = 200
CASES = {
    "leading-zeros": ("x", [f"0{each}" for each in _whole(1000, 1040, N)], "categorical"),
    "zip-by-name": ("zip_code", _whole(98101, 98160, N), "categorical"),
    "zip-without-a-name": ("x", _whole(98101, 98121, N), "categorical"),
    "phone-numbers": ("phone", _whole(2_000_000_000, 9_999_999_999, N), "identifier"),
    "phone-with-dashes": ("x", [f"206-555-{each}" for each in _whole(1000, 9999, N)], "identifier"),
    "store-number": ("Store Number", _whole(1, 40, N), "categorical"),
    "store-in-camel-case": ("storeId", _whole(1, 40, N), "categorical"),
    "number-of-doors": ("num_doors", _whole(1, 6, N), "scalar"),
    "row-numbers": ("x", list(range(N)), "identifier"),
    "row-numbers-mixed-up": (
        "x",
        [int(each) for each in np.random.default_rng(0).permutation(N) + 70_001],
        "identifier",
    ),
    "nine-digits": ("x", _whole(100_000_000, 999_999_999, N), "identifier"),
    "uuid": ("x", [f"{each:08x}-1111-4222-8333-444455556666" for each in range(N)], "identifier"),
    "years-in-a-row": ("year", list(range(1900, 1900 + N)), "scalar"),
    "years": ("founded", _whole(1990, 2020, N), "scalar"),
    "round-amounts": ("x", [each * 100 for each in _whole(100, 120, N)], "scalar"),
    "populations": ("x", np.sort(_whole(200_000, 320_000, N)).tolist(), "scalar"),
    "range-is-no-date": ("x", ["2-10", "11-100", "1", "Over 100"] * 50, "categorical"),
    "thousands": ("x", [f"{each:,}" for each in _whole(1_000, 9_999_999, N)], "scalar"),
    "decimal-comma": ("x", [f"{each / 100:.2f}".replace(".", ",") for each in _whole(100, 99_999, N)], "scalar"),
    "currency": ("x", [f"${each:,}.50" for each in _whole(1, 99_999, N)], "scalar"),
    "euros": ("x", [f"{each / 10:.1f} €".replace(".", ",") for each in _whole(1, 99_999, N)], "scalar"),
    "percent": ("x", [f"{each / 7:.1f} %" for each in _whole(1, 700, N)], "scalar"),
    "negative-in-parentheses": ("x", [f"({each})" if each % 2 else str(each) for each in _whole(1, 999, N)], "scalar"),
    "gaps": ("x", ["?", "NA", "-", "n/a", ""] * 8 + [str(each / 7) for each in _whole(1, 999, 160)], "scalar"),
    "mostly-numbers": ("x", [*map(str, _whole(1, 999, 195)), *["unknown"] * 5], "scalar"),
    "half-numbers": ("x", [*map(str, _whole(1, 9, 100)), *["low", "high"] * 50], "categorical"),
    "infinite": ("x", ["inf", "-inf", *[str(each / 7) for each in _whole(1, 999, 198)]], "scalar"),
    "iso-date": ("x", [str(each) for each in pd.date_range("2020-01-30", periods=N)], "timestamp"),
    "iso-moment": ("x", [f"2013-05-{each % 28 + 1:02d}T18:00:00Z" for each in range(N)], "timestamp"),
    "month-first": ("x", [f"{1 + each % 12}/{1 + each % 28}/2013" for each in range(N)], "timestamp"),
    "day-first": ("x", [f"{1 + each % 28}/{1 + each % 12}/2013" for each in range(N)], "timestamp"),
    "german-date": ("x", [f"{1 + each % 28}.{1 + each % 12}.2013" for each in range(N)], "timestamp"),
    "month-name": ("x", [f"{each}-2018" for each in ("Jan", "Feb", "Mar", "Apr")] * 50, "timestamp"),
    "long-month-name": ("x", [f"{1 + each % 28} January 2018" for each in range(N)], "timestamp"),
    "american-long": ("x", [f"March {1 + each % 28}, 2018" for each in range(N)], "timestamp"),
    "clock": ("x", [f"{each % 24}:{each % 60:02d}" for each in range(N)], "timestamp"),
    "am-and-pm": ("x", [f"5/{1 + each % 28}/2020 {1 + each % 12}:30 PM" for each in range(N)], "timestamp"),
    "dates-as-numbers": ("x", [20130101 + each % 28 for each in range(N)], "timestamp"),
    "unix-seconds": ("created_at", _whole(1_500_000_000, 1_600_000_000, N), "timestamp"),
    "yes-and-no": ("x", ["Yes", "No"] * 100, "boolean"),
    "nought-and-one": ("x", [0, 1] * 100, "boolean"),
    "a-mark-or-nothing": ("x", ["x", ""] * 100, "boolean"),
    "true-and-false": ("x", [True, False] * 100, "boolean"),
    "two-words": ("x", ["Male", "Female"] * 100, "categorical"),
    "sentences": ("x", [f"the bird no {each} struck the left wing" for each in range(N)], "text"),
    "names": ("x", [f"Ann{each} Smith" for each in range(N)], "text"),
    "addresses": ("x", [f"a{each}@example.org" for each in range(N)], "identifier"),
    "constant": ("x", ["same"] * N, "dropped"),
    "constant-with-gaps": ("x", [7.0, None] * 100, "dropped"),
    "empty": ("x", [None] * N, "dropped"),
}


@pytest.mark.parametrize(("name", "values", "kind"), CASES.values(), ids=CASES.keys())
def test_kind(name: str, values: list[object], kind: str, tmp_path: Path) -> None:
    """The kind is the same whether the column comes typed from a data frame or as text from a file."""
    frame = pd.DataFrame({name: values, "other": range(len(values))})
    frame.to_csv(tmp_path / "table.csv", index=False)
    for table in (read_table(frame), read_table(tmp_path / "table.csv")):
        told = infer_types(table)[name]
        assert told.kind == kind, told.reason


def test_a_date_whose_day_and_month_are_open_says_so() -> None:
    """Where both ways read all values, one is taken and the doubt is in the reason."""
    told = infer_types(read_table({"x": ["1/2/2013", "3/4/2013", "5/6/2013"] * 20, "y": list(range(60))}))["x"]
    assert (told.kind, told.form) == ("timestamp", "%m/%d/%Y")
    assert "other way round" in told.reason
    sure = infer_types(read_table({"x": ["13/2/2013", "3/4/2013"] * 20, "y": list(range(40))}))["x"]
    assert (sure.form, "other way round" in sure.reason) == ("%d/%m/%Y", False)


def test_decisions_can_be_overruled() -> None:
    """A kind that is given is taken, with what cannot be read counted as missing; ignored columns are dropped."""
    table = read_table({"zip": ["98101", "98102", "a"] * 20, "id": list(range(60)), "x": [1.5, 2.5, 3.5] * 20})
    told = infer_types(table, kinds={"zip": "scalar"}, ignore=["id"])
    assert [each.kind for each in told.values()] == ["scalar", "dropped", "scalar"]
    assert (told["zip"].num_missing, told["zip"].reason[:16]) == (20, "as was asked for")


@pytest.mark.parametrize(
    ("kinds", "ignore", "message"),
    [
        pytest.param({"zap": "scalar"}, [], "no column 'zap'; it has zip", id="unknown-column"),
        pytest.param({}, ["zap"], "no column 'zap'", id="unknown-column-ignored"),
        pytest.param({"zip": "number"}, [], "there is no kind 'number'; there are scalar", id="unknown-kind"),
    ],
)
def test_wrong_wishes_get_one_sentence(kinds: dict[str, str], ignore: list[str], message: str) -> None:
    """A column or a kind that there is not is named, with those that there are."""
    with pytest.raises(InputError, match=message):
        infer_types(read_table({"zip": [1, 2, 3]}), kinds=kinds, ignore=ignore)
