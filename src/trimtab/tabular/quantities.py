"""What numbers are by themselves: how far they are spread, and whether they name rows, are moments, or are amounts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.tabular.hints import names_codes, names_rows, names_time, names_year
from trimtab.tabular.moments import DAY_FORM, parse_moments

FEW_ROWS = 20
"""Below so many rows, repetition says little."""

CODE_DIGITS, ROW_DIGITS = 5, 8
"""Whole numbers that all have so many digits or more are codes, if they occur again and again, or are unique."""

DENSE = 0.5
"""The share of the whole numbers between the lowest and the highest that unique ones take up, if they number rows."""

UNIX_SECONDS, UNIX_MILLISECONDS = (4e8, 4e9), (4e11, 4e12)
"""Between these, from 1982 to 2096, numbers under the name of a time are seconds or milliseconds since 1970."""

YEARS = (1500, 2200)
"""Between these, whole numbers in a row may be years."""

NORMAL, NORMAL_HUNDREDTHS = 1.349, 4.653
"""The distance of the quartiles of a normal distribution, and of its hundredths, in standard deviations."""

FAR = 1e4
"""Numbers so many times the usual spread away from the median are worth a word."""


def measure_spread(finite: NDArray[np.float64]) -> tuple[float, float]:
    """The median of some numbers, and how far they are spread.

    By the quartiles, or where these are the same, by the hundredths at both ends, or all of them.
    """
    if not len(finite):
        return 0.0, 1.0
    lowest, first, center, third, highest = np.quantile(finite, [0.01, 0.25, 0.5, 0.75, 0.99])
    spreads = ((third - first) / NORMAL, (highest - lowest) / NORMAL_HUNDREDTHS, _measure_deviation(finite))
    return float(center), next((float(each) for each in spreads if each > 0 and np.isfinite(each)), 1.0)


def tell_far(values: NDArray[Any], counts: NDArray[np.int64]) -> str:
    """How many numbers are infinite, or so far out that they count as the largest; empty if none."""
    finite = np.isfinite(values)
    num_infinite = int(counts[~finite].sum())
    center, scale = measure_spread(np.repeat(values[finite], counts[finite]))
    with np.errstate(over="ignore"):
        num_far = int(counts[finite][np.abs(values[finite] - center) > FAR * scale].sum())
    told = f", {num_infinite:,} of them infinite" if num_infinite else ""
    return told + (f", {num_far:,} of them more than {FAR:,.0f} times the usual spread away" if num_far else "")


def explain_row(name: str, values: NDArray[Any], is_unique: bool, *, is_nearly: bool) -> str:
    """Why whole numbers name rows; empty if they do not."""
    if is_nearly and (names_rows(name) or names_codes(name)) and not names_year(name):
        return f"whole numbers that are {'' if is_unique else 'nearly '}unique, under the name {name!r}"
    if not is_unique:
        return ""
    lowest, highest = float(values[0]), float(values[-1])
    density = len(values) / (highest - lowest + 1)
    is_long = len(values) >= FEW_ROWS
    if (lowest in (0, 1) and density == 1) or (
        is_long and density >= DENSE and not (lowest >= YEARS[0] and highest <= YEARS[1])
    ):
        return f"unique whole numbers from {lowest:.0f} to {highest:.0f}, which number the rows"
    digits = count_digits(values)
    if is_long and digits >= ROW_DIGITS and not is_round(values):
        return f"unique whole numbers of {digits} digits each"
    return ""


def explain_moments(name: str, values: NDArray[Any]) -> tuple[str, str] | None:
    """Why whole numbers are moments, and in which form; None if they are not."""
    if values[0] >= 1.5e7 and values[-1] < 2.2e7:
        parsed = parse_moments([f"{each:.0f}" for each in values], DAY_FORM)
        if np.isfinite(parsed).all():
            return "whole numbers that are dates, such as 20130814", DAY_FORM
    if names_time(name):
        for unit, (low, high) in {"seconds": UNIX_SECONDS, "milliseconds": UNIX_MILLISECONDS}.items():
            if low <= values[0] and values[-1] <= high:
                return f"{unit} since 1970", unit
    return None


def count_digits(values: NDArray[Any]) -> int:
    """The digits that all of some whole numbers have; 0 where they differ, or are below 0."""
    if not (values > 0).all():
        return 0
    counts = np.floor(np.log10(values)).astype(int) + 1
    return int(counts[0]) if (counts == counts[0]).all() else 0


def is_round(values: NDArray[Any]) -> bool:
    """True if far more than a tenth of some whole numbers end in 0, as amounts do."""
    return bool(np.mean(values % 10 == 0) > 0.3)


def _measure_deviation(finite: NDArray[np.float64]) -> float:
    bound = float(np.abs(finite).max())
    return float((finite / bound).std()) * bound if bound else 0.0
