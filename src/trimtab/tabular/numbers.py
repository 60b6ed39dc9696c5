"""Texts that are numbers: plain, with thousands separators, currencies and percent, or with a decimal comma."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Texts: TypeAlias = Sequence[Any] | NDArray[Any]
"""Texts in a row."""

Style = Literal["plain", "point", "comma"]
"""How numbers are written: as programs do; as people do, 1,234.5; or 1.234,5."""

SIGNS = r"[$€£¥₹₽₩]|(?:USD|EUR|GBP|CHF|JPY|CAD|AUD|CNY|INR)\b|\b(?:USD|EUR|GBP|CHF|JPY|CAD|AUD|CNY|INR)"

PLAIN = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[+-]?inf(?:inity)?", re.IGNORECASE)
GROUPED = {
    "point": re.compile(r"[+-]?(?:\d{1,3}(?:[, '\u00a0\u202f]\d{3})+|\d+)(?:\.\d*)?|[+-]?\.\d+"),
    "comma": re.compile(r"[+-]?(?:\d{1,3}(?:[. '\u00a0\u202f]\d{3})+|\d+)(?:,\d*)?|[+-]?,\d+"),
}
"""What is left of a number once its currency and percent are taken off."""

CURRENCY = re.compile(SIGNS)
MARKED = re.compile(r"[,%$€£¥₹₽₩()'\u00a0\u202f−]|\d \d|USD|EUR|GBP|CHF|JPY|CAD|AUD|CNY|INR")
"""What only numbers written by people have."""

MOST = 1e300
"""Larger ones are infinite."""


def parse_numbers(texts: Texts, style: Style) -> NDArray[np.float64]:
    """The numbers that texts are; NaN for one that is none.

    Args:
        texts: without spaces at their ends.
        style: how they are written; in the style of a person plain ones are read too.
    """
    found = np.full(len(texts), np.nan)
    for place, text in enumerate(texts):
        if PLAIN.fullmatch(text) and not (style == "comma" and "." in text and GROUPED["comma"].fullmatch(text)):
            found[place] = float(text)
        elif style == "comma" or (style == "point" and MARKED.search(text)):
            found[place] = _parse_written(text, style)
    return found


def choose_style(texts: Texts) -> Style:
    """The style by which the most texts are numbers; of two that are as good, 1,234 is a thousand and more.

    Args:
        texts: without spaces at their ends.
    """
    if not any(MARKED.search(text) for text in texts):
        return "plain"
    read = {style: int(np.isfinite(parse_numbers(texts, style)).sum()) for style in ("point", "comma")}
    return "comma" if read["comma"] > read["point"] else "point"


def _parse_written(text: str, style: Style) -> float:
    """One number as people write it, NaN if it is none; (5) is -5."""
    core = CURRENCY.sub("", text).replace("−", "-").replace("%", "", 1).strip()
    is_negative = core.startswith("(") and core.endswith(")")
    core = core[1:-1].strip() if is_negative else core
    if core.startswith("-"):
        core = "-" + core[1:].strip()
    if not GROUPED[style].fullmatch(core):
        return np.nan
    kept = re.sub(r"[ '\u00a0\u202f]", "", core)
    kept = kept.replace(",", "") if style == "point" else kept.replace(".", "").replace(",", ".")
    return -float(kept) if is_negative else float(kept)
