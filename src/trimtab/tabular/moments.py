"""Texts that are dates and times: ISO, and as people write them in one country or another."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from trimtab.tabular.numbers import Texts

ISO = "ISO8601"
"""The form 2013-08-14T05:41:20Z, with or without a time."""

ISO_TEXT = re.compile(
    r"\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?)?\s?(?:Z|[+-]\d{2}:?\d{2})?", re.ASCII
)

MONTH = "(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|januar|februar|march|april|june|july|august)[a-z]*"

SHAPES = {
    r"\d{1,2}/\d{1,2}/\d{4}": ("%m/%d/%Y", "%d/%m/%Y"),
    r"\d{1,2}/\d{1,2}/\d{2}": ("%m/%d/%y", "%d/%m/%y"),
    r"\d{4}/\d{1,2}/\d{1,2}": ("%Y/%m/%d",),
    r"\d{4}-\d{1,2}-\d{1,2}": ("%Y-%m-%d",),
    r"\d{4}\.\d{1,2}\.\d{1,2}": ("%Y.%m.%d",),
    r"\d{1,2}\.\d{1,2}\.\d{4}": ("%d.%m.%Y", "%m.%d.%Y"),
    r"\d{1,2}\.\d{1,2}\.\d{2}": ("%d.%m.%y",),
    r"\d{1,2}-\d{1,2}-\d{4}": ("%d-%m-%Y", "%m-%d-%Y"),
    rf"\d{{1,2}}-{MONTH}-\d{{4}}": ("%d-%b-%Y", "%d-%B-%Y"),
    rf"\d{{1,2}} {MONTH} \d{{4}}": ("%d %b %Y", "%d %B %Y"),
    rf"\d{{1,2}}-{MONTH}-\d{{2}}": ("%d-%b-%y", "%d-%B-%y"),
    rf"{MONTH} \d{{1,2}}, \d{{4}}": ("%b %d, %Y", "%B %d, %Y"),
    rf"{MONTH}-\d{{4}}": ("%b-%Y", "%B-%Y"),
    rf"{MONTH} \d{{4}}": ("%b %Y", "%B %Y"),
    r"\d{4}-\d{2}": ("%Y-%m",),
    r"\d{1,2}/\d{4}": ("%m/%Y",),
}
"""By the shape of a date, how it may be meant; the first that reads the most is taken. 2-10 has no year and is none."""

TIMES = {
    r"": "",
    r" \d{1,2}:\d{2}:\d{2}": " %H:%M:%S",
    r" \d{1,2}:\d{2}": " %H:%M",
    r" \d{1,2}:\d{2}:\d{2} ?[ap]m": " %I:%M:%S %p",
    r" \d{1,2}:\d{2} ?[ap]m": " %I:%M %p",
}
"""By its shape, how a time behind a date is meant."""

CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?", re.ASCII)
CLOCK_FORM = "clock"
"""Times of a day without one."""

NUM_TRIED = 200
"""Texts, evenly spread over all, by which a form is told."""

DAY_FORM = "%Y%m%d"
"""Whole numbers such as 20130814."""


def choose_form(texts: Texts) -> tuple[str, float]:
    """The form by which the most texts are moments, and the share of them that it reads; an empty one reads none.

    Args:
        texts: distinct, without spaces at their ends.
    """
    tried = [texts[place] for place in np.unique(np.linspace(0, len(texts) - 1, NUM_TRIED).astype(int))]
    if not any(any(sign.isdigit() for sign in text) for text in tried):
        return "", 0.0
    shares = {form: float(np.isfinite(parse_moments(tried, form)).mean()) for form in _list_forms(tried)}
    best = max(shares, key=lambda form: shares[form], default="")
    return (best, float(np.isfinite(parse_moments(texts, best)).mean())) if shares.get(best, 0) > 0 else ("", 0.0)


def is_ambiguous(texts: Texts, form: str) -> bool:
    """True if day and month could as well be the other way round."""
    swapped = form.replace("%m", "%%").replace("%d", "%m").replace("%%", "%d")
    if "%m" not in form or "%d" not in form or form.startswith("%Y"):
        return False
    return bool(np.isfinite(parse_moments(texts, swapped)).sum() >= np.isfinite(parse_moments(texts, form)).sum())


def parse_moments(texts: Texts, form: str) -> NDArray[np.float64]:
    """Seconds since 1970 in UTC, of clock times since midnight; NaN for a text that is none.

    Args:
        texts: without spaces at their ends.
        form: as `choose_form` gives it.
    """
    import pandas as pd

    if form == CLOCK_FORM:
        return np.array([_parse_clock(text) for text in texts], np.float64)
    fitting: list[str | None] = list(texts)
    if form == ISO:
        fitting = [text if ISO_TEXT.fullmatch(text) else None for text in texts]
    parsed = pd.to_datetime(pd.Series(fitting, dtype=object), format=form, errors="coerce", utc=True)
    moments = parsed.dt.tz_localize(None).to_numpy("datetime64[us]")
    seconds: NDArray[np.float64] = moments.astype("int64") / 1e6
    seconds[np.isnat(moments)] = np.nan
    return seconds


def _parse_clock(text: str) -> float:
    match = CLOCK.fullmatch(text)
    if match is None:
        return float("nan")
    hours, minutes, seconds = (int(each or 0) for each in match.groups())
    return 3600.0 * hours + 60 * minutes + seconds


def _list_forms(texts: Texts) -> list[str]:
    """The forms that the shape of some text allows."""
    forms: dict[str, None] = {}
    if any(ISO_TEXT.fullmatch(text) for text in texts):
        forms[ISO] = None
    if any(CLOCK.fullmatch(text) for text in texts):
        forms[CLOCK_FORM] = None
    for date, dates in SHAPES.items():
        for time, meant in TIMES.items():
            if any(re.fullmatch(date + time, text, re.IGNORECASE) for text in texts):
                forms.update(dict.fromkeys(form + meant for form in dates))
    return list(forms)
