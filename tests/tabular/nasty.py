"""Files that are hard to read or to learn from, each a few lines of the code that writes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

N = 60


def _rows(*columns: Sequence[Any], header: str = "a,b,c", separator: str = ",") -> bytes:
    lines = [header, *(separator.join(map(str, row)) for row in zip(*columns, strict=True))]
    return "\n".join([*lines, ""]).encode()


def _numbers(seed: int, num: int = N) -> list[Any]:
    return [round(float(each), 3) for each in np.random.default_rng(seed).normal(size=num)]


def _words(seed: int, num: int = N) -> list[Any]:
    return [str(each) for each in np.random.default_rng(seed).choice(["red", "green", "blue"], num)]


A, B, C = _numbers(1), _numbers(2), _words(3)

GOOD = {
    "missing-values": _rows(["?", "NA", "", "-", *A[4:]], [*B[:-3], "null", "n/a", "NaN"], C),
    "a-row-of-nothing": _rows(["", *A[1:]], ["", *B[1:]], ["", *C[1:]]),
    "infinities": _rows(["inf", "-inf", "Infinity", *A[3:]], B, C),
    "outliers": _rows([1e12, -1e12, 1e300, *A[3:]], B, C),
    "duplicate-names": _rows(A, B, C, header="a,a,a"),
    "empty-names": _rows(A, B, C, header=",,c"),
    "strange-names": _rows(A, B, C, header='"a.b","items","ty pe\n(µ)"'),
    "windows-encoding": _rows(A, B, ["Köln", "Zürich", "Málaga"] * 20).decode().encode("cp1252"),
    "utf-16": _rows(A, B, C).decode().encode("utf-16"),
    "byte-order-mark": b"\xef\xbb\xbf" + _rows(A, B, C),
    "semicolons-and-decimal-commas": _rows(
        [str(each).replace(".", ",") for each in A], B, C, header="a;b;c", separator=";"
    ),
    "tabs": _rows(A, B, C, header="a\tb\tc", separator="\t"),
    "ragged-lines": _rows(A, B, C) + b"1,2\n1,2,3,4,5\n0.5,0.25,red\n",
    "quotes-with-newlines": _rows(A, B, [f'"a ""{each}""\n, b"' for each in C]),
    "windows-lines": _rows(A, B, C).replace(b"\n", b"\r\n"),
    "blank-lines": _rows(A, B, C).replace(b"\n", b"\n\n"),
    "no-header": _rows(A, B, C, header="0.1,0.2,red"),
    "one-column": _rows(A, header="a"),
    "a-thousand-columns": _rows(*[_numbers(each, 40) for each in range(1000)], header=",".join(map(str, range(1000)))),
    "a-long-text": _rows(A, B, ["word " * 2000, *C[1:]]),
    "mixed-types": _rows([*A[:30], *C[30:]], B, C),
    "two-rows": _rows(A[:2], B[:2], C[:2]),
    "unseen-later": _rows(A, B, ["red"] * 59 + ["blue"]),
    "whole-and-huge": _rows([10**18 + each for each in range(N)], B, C),
}
"""Files that are read and learned from."""

REFUSED = {
    "empty": (b"", "is empty"),
    "blank": (b"\n\n  \n", "is empty"),
    "header-alone": (b"a,b,c\n", "has a header and no rows"),
    "one-row": (b"a,b,c\n1,2,red\n", "1 row"),
    "nothing-to-learn": (_rows(["same"] * N, [""] * N, list(range(N))), "no column that says anything"),
    "ragged-throughout": (b"a title\n" + _rows(A, B, C), "line 2 has 3 fields and the first has 1"),
    "no-text": (bytes(range(256)) * 40, "is no text"),
    "broken-parquet": (b"PAR1 and then nothing", "cannot be read as Parquet"),
    "broken-zip": (b"PK\x03\x04 and then nothing", "cannot be unpacked"),
}
"""Files that are not, and what is said of them."""
