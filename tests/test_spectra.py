"""The spectra of weight matrices: agreement with WeightWatcher, and what a fit gives on spectra that are known."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from trimtab import InputError
from trimtab.spectra import (
    NUM_LARGE,
    Array,
    PowerLaw,
    Spectra,
    Spectrum,
    compute_eigenvalues,
    describe_spectrum,
    fit_power_law,
    score_alpha,
    summarize_spectra,
)

REFERENCE = Path(__file__).parent / "reference"

EXPECTED = json.loads((REFERENCE / "spectra.json").read_text(encoding="utf-8"))["matrices"]

TOLERANCE = 1e-3


def describe(weight: Array, name: str = "weight") -> Spectrum:
    """The spectrum of a weight that can be measured."""
    found = describe_spectrum(name, weight.shape, compute_eigenvalues(weight.astype(np.float64)))
    assert isinstance(found, Spectrum), found
    return found


def make_spectrum(alpha: float, side: int = 128, num_tail: int = 10_000, num_outside: int = 3) -> Spectrum:
    """A square matrix whose spectrum has an exponent."""
    sigma = (alpha - 1) / math.sqrt(num_tail)
    return Spectrum("weight", (side, side), PowerLaw(alpha, sigma, 0.1, 1.0, num_tail), num_outside, 10.0, 1.0)


def fit_slowly(values: Array) -> tuple[float, float, float]:
    """Exponent, distance and xmin by the definition, one tail after the other."""
    ordered = np.sort(values)
    num, best = len(values), (math.inf, math.nan, math.nan)
    for first in range(num - 1):
        tail = ordered[first:]
        if num < 20 and len(tail) < 8:
            continue
        total = np.log(tail / tail[0]).sum()
        if total < 1e-9:
            continue
        alpha = 1 + (len(tail) - (num < 20)) / total
        distance = np.abs(1 - (tail / tail[0]) ** (1 - alpha) - np.arange(len(tail)) / len(tail)).max()
        best = min(best, (float(distance), float(alpha), float(tail[0])))
    return best[1], best[0], best[2]


# Agreement.


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_weightwatcher_gives_the_same(name: str) -> None:
    """Of trained, new, large, small, convolutional and embedding matrices everything agrees with WeightWatcher."""
    with np.load(REFERENCE / "spectra.npz") as arrays:
        found = describe(arrays[name])
    numbers = {
        "alpha": found.fit.alpha,
        "distance": found.fit.distance,
        "xmin": found.fit.xmin,
        "num_tail": found.fit.num_tail,
        "stable_rank": found.stable_rank,
        "log_spectral_norm": found.log_spectral_norm,
    }
    assert numbers == pytest.approx(EXPECTED[name], abs=TOLERANCE, rel=TOLERANCE)


@given(st.integers(8, 150), st.integers(0, 2**32 - 1), st.floats(0.1, 3))
@settings(deadline=None, max_examples=60)
def test_fit_is_that_of_the_definition(num: int, seed: int, spread: float) -> None:
    """The vectorised fit and the definition, tail after tail, give the same, below and above 20 values."""
    values = np.exp(spread * np.random.default_rng(seed).standard_normal(num))
    fit = fit_power_law(values)
    assert fit is not None
    assert (fit.alpha, fit.distance, fit.xmin) == pytest.approx(fit_slowly(values), rel=1e-9)
    assert fit.num_tail == np.count_nonzero(values >= fit.xmin)


@pytest.mark.parametrize("shape", [(40, 70), (70, 40), (50, 50)], ids=["wide", "tall", "square"])
def test_eigenvalues_are_the_squares_of_the_singular_values(shape: tuple[int, int]) -> None:
    """The smaller Gram matrix has them all, with no factor 1/N."""
    weight = np.random.default_rng(0).standard_normal(shape)
    assert compute_eigenvalues(weight) == pytest.approx(np.sort(np.linalg.svd(weight, compute_uv=False) ** 2))


# Laws of the fit.


@given(st.floats(1.5, 5), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=40)
def test_planted_exponent_is_found(alpha: float, seed: int) -> None:
    """Of 500 values drawn from a power law the exponent is found within five of its uncertainties."""
    values = (1 - np.random.default_rng(seed).random(500)) ** (-1 / (alpha - 1))
    fit = fit_power_law(values)
    assert fit is not None
    assert abs(fit.alpha - alpha) < 5 * fit.alpha_sigma


@given(st.floats(1e-2, 1e4), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=40)
def test_exponent_does_not_depend_on_scale(factor: float, seed: int) -> None:
    """α(cW) = α(W), as are D, the tail, what is outside and the stable rank; xmin grows by c², its norm by log₁₀ c²."""
    weight = np.random.default_rng(seed).standard_normal((60, 12)) + 1
    before, after = describe(weight), describe(factor * weight)
    assert after.fit.alpha == pytest.approx(before.fit.alpha, rel=1e-6)
    assert after.fit.distance == pytest.approx(before.fit.distance, rel=1e-6)
    assert (after.fit.num_tail, after.num_outside) == (before.fit.num_tail, before.num_outside)
    assert after.stable_rank == pytest.approx(before.stable_rank)
    assert after.fit.xmin == pytest.approx(factor**2 * before.fit.xmin, rel=1e-6)
    assert after.log_spectral_norm == pytest.approx(before.log_spectral_norm + 2 * math.log10(factor))


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=20)
def test_exponent_does_not_depend_on_the_basis(seed: int) -> None:
    """Transposed, and with rows in another order, a matrix has the same spectrum."""
    random = np.random.default_rng(seed)
    weight = random.standard_normal((30, 45))
    for other in (weight.T, random.permutation(weight)):
        assert describe(other).fit.alpha == pytest.approx(describe(weight).fit.alpha, rel=1e-6)


@pytest.mark.parametrize("num", [8, 19, 20, 21, 63, 64, 65, 66, 129])
def test_every_length_is_fitted(num: int) -> None:
    """At the edges of small fits and of blocks nothing is left out."""
    values = np.exp(np.random.default_rng(num).standard_normal(num))
    fit = fit_power_law(values)
    assert fit is not None
    assert (fit.alpha, fit.distance, fit.xmin) == pytest.approx(fit_slowly(values), rel=1e-9)


# What cannot be measured, and what tells nothing.

UNMEASURED = {
    "nan": (np.full((30, 30), np.nan), "not finite"),
    "one-infinity": (np.where(np.eye(30) * np.arange(30) == 3, np.inf, 1.0), "not finite"),
    "squares-that-overflow": (np.full((30, 30), 1e200), "not finite"),
    "one-bad-kernel-position": (np.where(np.arange(9).reshape(3, 3) == 4, np.nan, np.ones((20, 20, 3, 3))), "finite"),
    "zero": (np.zeros((30, 30)), "0 of its 30 eigenvalues"),
    "low-rank": (np.outer(np.arange(30.0), np.arange(40.0)), "1 of its 30 eigenvalues"),
    "huge-and-low-rank": (1e8 * np.outer(np.arange(30.0), np.arange(40.0)), "1 of its 30 eigenvalues"),
    "identity": (np.eye(30), "all the same"),
}


@pytest.mark.parametrize(("weight", "reason"), UNMEASURED.values(), ids=UNMEASURED.keys())
def test_what_has_no_power_law_is_said(weight: Array, reason: str) -> None:
    """Without finite, differing eigenvalues above the cutoff there is a reason in place of an exponent."""
    found = describe_spectrum("weight", weight.shape, compute_eigenvalues(weight))
    assert isinstance(found, str)
    assert reason in found


def test_a_vector_has_no_spectrum() -> None:
    """A shape of one dimension is refused."""
    with pytest.raises(InputError, match=r"^spectra: 'bias' has shape \(3,\); it has to have two dimensions or more$"):
        describe_spectrum("bias", (3,), np.ones(3))


@pytest.mark.parametrize("shape", [(128, 128), (64, 512), (512, 128), (300, 100)])
def test_nothing_of_a_random_matrix_is_outside(shape: tuple[int, int]) -> None:
    """Of 50 new matrices, normal or uniform, nearly all are known as such: their exponents, from 3 to 30, are noise."""
    random = np.random.default_rng(1)
    drawn = [random.standard_normal(shape) if index % 2 else random.uniform(-0.1, 0.1, shape) for index in range(50)]
    found = [describe(each) for each in drawn]
    assert sum(each.band == "random" for each in found) >= 46
    assert all(each.score == 1 for each in found if each.band == "random")


@pytest.mark.parametrize("strength", [3.0, 10.0])
def test_a_learned_direction_is_outside(strength: float) -> None:
    """One direction that stands out of the noise is counted, and the matrix is no longer a random one."""
    random = np.random.default_rng(0)
    left, right = random.standard_normal(200), random.standard_normal(100)
    direction = np.outer(left / np.linalg.norm(left), right / np.linalg.norm(right))
    noise = random.standard_normal((200, 100))
    found = describe(noise + strength * math.sqrt(200) * direction)
    assert (found.num_outside, found.is_telling) == (1, True)


@pytest.mark.parametrize(
    ("spectrum", "band"),
    [
        pytest.param(make_spectrum(1.9), "heavy-tailed", id="below-2"),
        pytest.param(make_spectrum(2.0), "healthy", id="at-2"),
        pytest.param(make_spectrum(5.0), "healthy", id="at-5"),
        pytest.param(make_spectrum(5.1), "weak", id="above-5"),
        pytest.param(make_spectrum(6.0), "weak", id="at-6"),
        pytest.param(make_spectrum(6.1), "noise", id="above-6"),
        pytest.param(make_spectrum(3.0, num_outside=0), "random", id="as-at-initialization"),
        pytest.param(make_spectrum(3.0, side=NUM_LARGE - 1), "too small", id="small"),
        pytest.param(make_spectrum(9.0, side=10, num_outside=0), "too small", id="small-and-random"),
    ],
)
def test_bands(spectrum: Spectrum, band: str) -> None:
    """An exponent is read by its band, where it says anything."""
    assert spectrum.band == band


# The score.


@pytest.mark.parametrize(
    ("alpha", "sigma", "score"),
    [
        pytest.param(2.0, 0.0, 1.0, id="at-2"),
        pytest.param(5.0, 0.0, 1.0, id="at-5"),
        pytest.param(7.5, 0.0, 1.5, id="above"),
        pytest.param(1.6, 0.0, 1.25, id="below"),
        pytest.param(7.0, 1.0, 1.0, id="above-but-uncertain"),
        pytest.param(8.0, 1.0, 1.2, id="above-for-certain"),
        pytest.param(1.8, 0.1, 1.0, id="below-but-uncertain"),
        pytest.param(1e7, 0.0, 2.0, id="flat"),
        pytest.param(27.0, 10.0, 1.4, id="a-tail-of-six"),
    ],
)
def test_score(alpha: float, sigma: float, score: float) -> None:
    """It is 1 in the healthy band and where α may well be in it, and grows as a ratio up to 2."""
    assert score_alpha(alpha, sigma) == pytest.approx(score)


@given(st.floats(1.0001, 1e9), st.floats(0, 1e9))
def test_score_has_bounds(alpha: float, sigma: float) -> None:
    """Whatever the exponent, the score is from 1 to 2, and uncertainty never raises it."""
    assert 1 <= score_alpha(alpha, sigma) <= score_alpha(alpha) <= 2


def test_sizes_weigh() -> None:
    """A matrix of four times the entries counts four times; small ones do not count, random ones as healthy."""
    sick, healthy = make_spectrum(10.0, side=128), make_spectrum(3.0, side=256)
    sick_score = sick.score
    assert Spectra((sick, healthy)).alpha_score == pytest.approx((sick_score + 4) / 5)
    assert Spectra((sick, make_spectrum(9.0, side=20))).alpha_score == pytest.approx(sick_score)
    assert Spectra((sick, make_spectrum(9.0, side=256, num_outside=0))).alpha_score == pytest.approx(
        (sick_score + 4) / 5
    )


def test_without_a_large_matrix_the_score_is_1() -> None:
    """Then there is nothing to tell by, and no exponent among the numbers of a review."""
    small = Spectra((make_spectrum(9.0, side=20), make_spectrum(9.0, side=128, num_outside=0)))
    assert summarize_spectra(Spectra(())) == summarize_spectra(small) == {"alpha_score": 1.0, "num_spectra": 0.0}


def test_the_middle_is_by_size() -> None:
    """Half of all entries lie in matrices with no larger an exponent than that of the middle one."""
    several = Spectra((make_spectrum(9.0, side=64), make_spectrum(3.0, side=200), make_spectrum(7.0, side=64)))
    assert several.median is not None
    assert several.median.fit.alpha == 3.0
    assert summarize_spectra(several)["alpha"] == 3.0


def test_table_has_a_line_for_each() -> None:
    """Printed, the spectra are a table, with what was skipped below."""
    lines = str(Spectra((make_spectrum(3.2), make_spectrum(6.5)), {"head": "it is too large"})).splitlines()
    assert [line.split()[-1] for line in lines[1:3]] == ["healthy", "noise"]
    assert lines[3] == "head: not measured, it is too large"
    assert len(lines) == 4
