"""Cells of a log to numbers: what the tools write for one."""

from __future__ import annotations

import math
import re
from typing import Any

MISSING = {"", "null", "none", "na", "n/a", "-", "--", "<na>", "undefined"}
"""Texts that say a number was not measured. `nan` is none of them: it is a number that was measured."""

THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?")
"""A number whose thousands are marked off by commas."""

DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")
"""A number with a comma for its decimal point."""

WRAPPED = re.compile(r"(?:tensor|array|(?:np|numpy|torch|jnp)\.\w+)\(\[?\s*([^,\])]+)")
"""A number that was printed with the type that held it, such as `tensor(2.31, device='cuda:0')`."""

NONFINITE = {"-nan": math.nan, "nan(ind)": math.nan, "-nan(ind)": math.nan, "+inf": math.inf}


def parse_number(cell: Any, decimal_comma: bool = False) -> float | None:
    """The number in a cell, NaN and infinity included; None where there is none.

    Args:
        cell: a number, or text such as `"2.5"`, `"-Infinity"`, `"1,234.5"`, `"45%"` or `"tensor(2.5)"`.
        decimal_comma: True if a single comma is the decimal point.
    """
    if isinstance(cell, str):
        try:
            return float(cell)
        except ValueError:
            return _parse_text(cell.strip(), decimal_comma)
    if isinstance(cell, (bool, int, float)):
        try:
            return float(cell)
        except OverflowError:
            return math.inf if cell > 0 else -math.inf
    return None


def is_missing(cell: Any) -> bool:
    """True if a cell says that nothing was measured."""
    return cell is None or (isinstance(cell, str) and cell.strip().lower() in MISSING)


def _parse_text(text: str, decimal_comma: bool) -> float | None:
    wrapped = WRAPPED.match(text)
    text = wrapped.group(1) if wrapped else text.strip("\"'%")
    if decimal_comma and DECIMAL_COMMA.fullmatch(text):
        text = text.replace(",", ".")
    elif THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    try:
        return float(text)
    except ValueError:
        return NONFINITE.get(text.lower())
