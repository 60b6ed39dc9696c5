"""`spectral-noise`: what it reports, and where it stays silent."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan, nan

import pytest

from trimtab.detectors import detect
from trimtab.history import History
from trimtab.types import Finding, Measurement

SIGMA = 0.3


def judge(alphas: Sequence[float | None], sigma: float = SIGMA, **settings: float) -> list[Finding]:
    """What is found over reviews with these exponents: None where none was measured, NaN where all was random."""
    history = History()
    found: list[Finding] = []
    for index, alpha in enumerate(alphas):
        values = {"val_loss": 1.0}
        if alpha is not None:
            values["num_spectra"] = 0.0 if isnan(alpha) else 5.0
        if alpha is not None and not isnan(alpha):
            values |= {"alpha": alpha, "alpha_sigma": sigma}
        history.append(Measurement(10 * index, values, clock="review"))
        found += detect(history, {"spectral-noise": settings})
        history.close(accepted=True)
    return found


@pytest.mark.parametrize(
    ("alphas", "steps"),
    [
        pytest.param([4.0, 7.0, 7.0, 7.0], [30], id="for-three-reviews"),
        pytest.param([4.0, 7.0, 7.0, 7.0, 8.0, 9.0], [30], id="once"),
        pytest.param([4.0, 7.0, None, 7.0, None, 7.0], [50], id="measured-now-and-then"),
        pytest.param([9.0, 4.0, 8.0, 9.0, 20.0], [40], id="after-it-was-healthy"),
        pytest.param([4.0, nan, nan, nan, nan], [30], id="nothing-stands-out-any-more"),
        pytest.param([nan, nan, 4.0, 7.0, nan, 7.0], [50], id="now-and-then-nothing"),
        pytest.param([4.0, 7.0, 7.0, 7.0, 4.0, 7.0, 7.0, 7.0], [30, 70], id="and-again"),
    ],
)
def test_reports(alphas: list[float | None], steps: list[int]) -> None:
    """Spectra that were healthy, and for three measurements are noise, are found at the third."""
    found = judge(alphas)
    assert [finding.step for finding in found] == steps
    assert "dominated by noise since step" in found[0].message


SILENT: dict[str, tuple[Sequence[float | None], float]] = {
    "healthy": ([2.0, 3.0, 4.0, 5.0], SIGMA),
    "at-the-limit": ([4.0, 6.5, 6.5, 6.5], SIGMA),
    "uncertain": ([4.0, 9.0, 9.0, 9.0], 2.0),
    "twice": ([4.0, 7.0, 7.0, 5.0, 7.0, 7.0], SIGMA),
    "noise-from-initialization-on": ([9.0, 12.0, 8.0, 9.0, 9.0], SIGMA),
    "never-healthy-for-certain": ([5.7, 9.0, 9.0, 9.0], SIGMA),
    "not-measured": ([None] * 6, SIGMA),
    "small-or-random-from-the-start": ([nan] * 6, SIGMA),
    "random-and-then-healthy": ([nan, nan, nan, 4.0, 3.0], SIGMA),
    "the-first": ([20.0], SIGMA),
    "heavy-tailed": ([1.5, 1.2, 1.1], SIGMA),
}


@pytest.mark.parametrize(("alphas", "sigma"), SILENT.values(), ids=SILENT.keys())
def test_stays_silent(alphas: Sequence[float | None], sigma: float) -> None:
    """Initialization, small matrices, uncertain exponents and single reviews are no finding."""
    assert judge(alphas, sigma) == []


def test_limit_is_a_setting() -> None:
    """Another limit finds other spectra."""
    assert [finding.limit for finding in judge([2.0, 5.0, 5.0, 5.0], limit=4.0)] == [4.0]
