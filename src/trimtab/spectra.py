"""The spectra of weight matrices: a power law fitted to their largest eigenvalues, and how it is read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import InputError

Array = NDArray[np.float64]

CUTOFF = 1e-5
"""Eigenvalues up to this one are left out of the fit, as in WeightWatcher 0.7.7."""

FEW = 20
"""Below so many eigenvalues the fit is corrected for its bias, and tails of fewer than `SHORTEST` are not tried."""

SHORTEST = 8
"""The fewest eigenvalues a power law is fitted to, as in WeightWatcher 0.7.7."""

MOST_VALUES = 15_000
"""The most eigenvalues that are looked for, as in WeightWatcher 0.7.7."""

MOST_ROWS = 50_000
"""The longest side of a matrix, as in WeightWatcher 0.7.7; the vocabularies of large language models are longer."""

KERNEL_FACTOR = 0.5
"""What WeightWatcher 0.7.7 multiplies the eigenvalues of convolutions by. The exponent does not depend on it."""

TIED = 1e-12
"""The least mean logarithm of a tail over its smallest value: below, the values are equal but for rounding."""

HEALTHY = (2.0, 5.0)
"""The exponents of well-trained layers (arXiv 1810.01075, 2002.06716)."""

NOISE = 6.0
"""Above this exponent a spectrum is dominated by noise."""

NUM_LARGE = 64
"""Eigenvalues from which on an exponent means something. Of planted exponents of 3, fits to 16 values gave numbers with
a standard deviation of 2.7, to 32 of 0.7, to 64 of 0.4, to 128 of 0.3."""

CERTAIN = 2.0
"""Uncertainties by which an exponent has to lie outside a band to count as outside."""

WORST_SCORE = 2.0
"""The score of a spectrum does not grow beyond this: a nearly flat spectrum has an exponent without an upper limit."""

EDGE_QUANTILE = 2.02
"""The 99 % quantile of the Tracy–Widom distribution (Johnstone, Annals of Statistics 29, 2001, table 1): so far above
the edge, in its own width, the largest eigenvalue of a random matrix comes once in a hundred."""

BLOCK = 64
"""Tails that are compared with their power laws at a time, which bounds the memory it takes."""


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """A power law p(x) ∝ x^−α fitted to the values from `xmin` on."""

    alpha: float
    """The exponent."""

    alpha_sigma: float
    """Its uncertainty, (α − 1) / √n for a tail of n values: one standard deviation."""

    distance: float
    """The Kolmogorov–Smirnov distance of the tail from the power law, from 0 to 1."""

    xmin: float
    """The smallest value of the tail."""

    num_tail: int
    """The number of values from `xmin` on."""


@dataclass(frozen=True, slots=True)
class Spectrum:
    """What the eigenvalues of one weight matrix say."""

    name: str
    """The name of the parameter."""

    shape: tuple[int, ...]
    """Its shape: rows and columns; of a convolution the positions of the kernel behind them."""

    fit: PowerLaw
    """The power law fitted to the largest eigenvalues."""

    num_outside: int
    """Eigenvalues beyond the edge of a random matrix with entries as large; none at initialization."""

    stable_rank: float
    """The sum of the eigenvalues over the largest of them: how many directions matter."""

    log_spectral_norm: float
    """The decimal logarithm of the largest eigenvalue."""

    @property
    def num_values(self) -> int:
        """The number of eigenvalues, those of all kernel positions together."""
        return min(self.shape[:2]) * math.prod(self.shape[2:])

    @property
    def size(self) -> int:
        """The number of entries."""
        return math.prod(self.shape)

    @property
    def is_large(self) -> bool:
        """True if the matrix is large enough for its exponent to mean something."""
        return self.num_values >= NUM_LARGE

    @property
    def is_telling(self) -> bool:
        """True if it is large, and no random matrix: of one, as at initialization, the exponent is noise."""
        return self.is_large and self.num_outside > 0

    @property
    def score(self) -> float:
        """`score_alpha` of its exponent; 1 where that tells nothing."""
        return score_alpha(self.fit.alpha, self.fit.alpha_sigma) if self.is_telling else 1.0

    @property
    def band(self) -> str:
        """In words: `heavy-tailed` below 2, `healthy`, `weak` above 5, `noise` above 6; `too small` or `random`."""
        if not self.is_telling:
            return "random" if self.is_large else "too small"
        if self.fit.alpha > NOISE:
            return "noise"
        if self.fit.alpha > HEALTHY[1]:
            return "weak"
        return "healthy" if self.fit.alpha >= HEALTHY[0] else "heavy-tailed"


@dataclass(frozen=True, slots=True)
class Spectra:
    """The spectra of a model's weight matrices, a table when printed."""

    matrices: tuple[Spectrum, ...]
    """Those that were measured, in the model's order."""

    skipped: Mapping[str, str] = field(default_factory=dict)
    """Parameter name to the reason why it was not."""

    @property
    def large(self) -> tuple[Spectrum, ...]:
        """Those that are large enough for their exponents to mean something."""
        return tuple(each for each in self.matrices if each.is_large)

    @property
    def median(self) -> Spectrum | None:
        """The telling matrix in the middle: half of all their entries lie in those with no larger an exponent."""
        ranked = sorted((each for each in self.large if each.is_telling), key=lambda each: each.fit.alpha)
        if not ranked:
            return None
        sizes = np.cumsum([each.size for each in ranked])
        return ranked[int(np.searchsorted(sizes, sizes[-1] / 2))]

    @property
    def alpha_score(self) -> float:
        """The mean of the scores of the large matrices, weighted by their sizes; 1 where there are none."""
        sizes = [each.size for each in self.large]
        return float(np.average([each.score for each in self.large], weights=sizes)) if sizes else 1.0

    def __str__(self) -> str:
        """The table, one line a matrix, and what was skipped."""
        width = max((len(each.name) for each in self.matrices), default=6)
        head = f"{'matrix':{width}} {'shape':>14} {'alpha':>6} {'±':>5} {'D':>5} {'xmin':>9} {'tail':>5}"
        lines = [f"{head} {'outside':>7} {'rank':>6} {'log norm':>8}  band"]
        for each in self.matrices:
            fit, shape = each.fit, "×".join(map(str, each.shape))
            numbers = f"{fit.alpha:6.2f} {fit.alpha_sigma:5.2f} {fit.distance:5.3f} {fit.xmin:9.3g} {fit.num_tail:5}"
            rest = f"{each.num_outside:7} {each.stable_rank:6.1f} {each.log_spectral_norm:8.3f}  {each.band}"
            lines.append(f"{each.name:{width}} {shape:>14} {numbers} {rest}")
        return "\n".join([*lines, *(f"{name}: not measured, {reason}" for name, reason in self.skipped.items())])


def score_alpha(alpha: float, alpha_sigma: float = 0.0) -> float:
    """How far an exponent is outside the healthy band, as a ratio.

    It is 1 in the band from 2 to 5; above it is α / 5, below 2 / α, and at most 2. For α, the end of its range of two
    uncertainties that is nearest to the band is taken.

    Args:
        alpha: the exponent, above 1.
        alpha_sigma: its uncertainty.
    """
    least, most = alpha - CERTAIN * alpha_sigma, alpha + CERTAIN * alpha_sigma
    return min(max(1.0, least / HEALTHY[1], HEALTHY[0] / most), WORST_SCORE)


def fit_power_law(values: Array) -> PowerLaw | None:
    """Fit a power law to the largest of some values.

    Every value but the largest is tried as `xmin`. The exponent of the n values from there on is that of maximum
    likelihood, α = 1 + n / Σ ln(x / xmin); of those tails, the one is chosen whose Kolmogorov–Smirnov distance from its
    power law is the smallest (Clauset, Shalizi and Newman, SIAM Review 51, 2009). Under 20 values, n is replaced by
    n − 1 in the formula, and tails have 8 values at least. So does WeightWatcher 0.7.7.

    Args:
        values: positive numbers in any order; shape (values,).

    Returns:
        The fit; None of fewer than 8 values, or where no two differ.
    """
    num = len(values)
    if num < SHORTEST:
        return None
    ordered = np.sort(values).astype(np.float64)
    logs = np.log(ordered)
    sizes = np.arange(num, 1, -1)
    totals = np.cumsum(logs[::-1])[:0:-1] - sizes * logs[:-1]
    is_usable = (totals > TIED * sizes) & (sizes >= (SHORTEST if num < FEW else 2))
    if not is_usable.any():
        return None
    exponents = np.divide(sizes - (num < FEW), totals, out=np.ones(num - 1), where=is_usable)
    distances = np.where(is_usable, _measure_distances(logs, exponents), math.inf)
    best = int(np.argmin(distances))
    exponent, xmin = float(exponents[best]), float(ordered[best])
    return PowerLaw(
        alpha=1 + exponent,
        alpha_sigma=exponent / math.sqrt(sizes[best]),
        distance=float(distances[best]),
        xmin=xmin,
        num_tail=int(np.count_nonzero(ordered >= xmin)),
    )


def _measure_distances(logs: Array, exponents: Array) -> Array:
    """For each tail, its Kolmogorov–Smirnov distance from the power law of an exponent; shape (values - 1,).

    Args:
        logs: the logarithms of the values, ascending; shape (values,).
        exponents: α − 1 of the tail from each value on; shape (values - 1,).
    """
    num = len(logs)
    distances = np.empty(num - 1)
    for first in range(0, num - 1, BLOCK):
        tails = np.arange(first, min(first + BLOCK, num - 1))
        heights = logs[first:] - logs[tails, None]
        heights *= -exponents[tails, None]
        with np.errstate(over="ignore"):  # of values before a tail's first, which are not looked at
            np.exp(heights, out=heights)
        ranks = np.arange(first, num) - tails[:, None]
        heights += ranks / (num - tails[:, None])
        np.abs(heights - 1, out=heights)
        heights[ranks < 0] = 0
        distances[tails] = heights.max(axis=1)
    return distances


def compute_eigenvalues(weight: Array) -> Array:
    """The eigenvalues of WᵀW or of WWᵀ, whichever is the smaller matrix, ascending.

    They are the squares of the singular values, without a factor 1/N. Those of all kernel positions of a convolution
    are taken together, times `KERNEL_FACTOR`.

    Args:
        weight: shape (rows, columns), or (rows, columns, *kernel).

    Returns:
        Shape (values,); empty where the entries, or their squares, are not finite.
    """
    if weight.ndim > 2:
        slices = np.moveaxis(weight.reshape(*weight.shape[:2], -1), -1, 0)
        matrices = [np.ascontiguousarray(each) for each in slices]
        found = [compute_eigenvalues(each) for each in matrices]
        is_whole = all(map(len, found))
        return np.sort(np.concatenate(found)) * KERNEL_FACTOR if is_whole else np.empty(0)
    with np.errstate(over="ignore", invalid="ignore"):
        gram = weight.T @ weight if weight.shape[0] > weight.shape[1] else weight @ weight.T
    if not np.isfinite(np.trace(gram)):
        return np.empty(0)
    eigenvalues: Array = np.maximum(np.linalg.eigvalsh(gram), 0.0)
    return eigenvalues


def find_obstacle(shape: Sequence[int]) -> str:
    """Why a weight of this shape is not measured; empty if it is."""
    num_values = min(shape[:2]) * math.prod(shape[2:])
    if num_values < SHORTEST:
        return f"it has {num_values} eigenvalues; a power law needs {SHORTEST}"
    if num_values > MOST_VALUES or max(shape[:2]) > MOST_ROWS:
        return f"it is too large: above {MOST_VALUES:,} eigenvalues or {MOST_ROWS:,} rows"
    return ""


def describe_spectrum(name: str, shape: Sequence[int], eigenvalues: Array) -> Spectrum | str:
    """What the eigenvalues of a weight matrix say, or the reason why nothing can be said.

    Args:
        name: the name of the parameter.
        shape: its shape.
        eigenvalues: what `compute_eigenvalues` gave; shape (values,).

    Raises:
        InputError: if the shape is not that of a matrix.
    """
    if len(shape) < 2:
        raise InputError(f"spectra: {name!r} has shape {tuple(shape)}; it has to have two dimensions or more")
    if not len(eigenvalues):
        return "its entries are not finite"
    largest = float(eigenvalues[-1])
    rounding = len(eigenvalues) * np.finfo(np.float64).eps * largest
    kept = eigenvalues[eigenvalues > max(CUTOFF, rounding)]
    if len(kept) < SHORTEST:
        return f"{len(kept)} of its {len(eigenvalues)} eigenvalues are above {CUTOFF:g}; a power law needs {SHORTEST}"
    fit = fit_power_law(kept)
    if fit is None:
        return "its eigenvalues are all the same"
    total = float(eigenvalues.sum())
    edge = compute_random_edge(total / math.prod(shape), max(shape[:2]), min(shape[:2]))
    return Spectrum(
        name=name,
        shape=tuple(shape),
        fit=fit,
        num_outside=int(np.count_nonzero(eigenvalues > edge)),
        stable_rank=total / largest,
        log_spectral_norm=math.log10(largest),
    )


def compute_random_edge(variance: float, rows: int, columns: int) -> float:
    """The eigenvalue that the largest of a random matrix exceeds once in a hundred.

    It is the upper edge of the Marchenko–Pastur law, σ²(√N + √M)², and `EDGE_QUANTILE` widths of the Tracy–Widom
    distribution beyond. It stands for shuffling the entries and fitting the law to what comes out, at no cost.

    Args:
        variance: the mean square of the entries.
        rows: the number of rows.
        columns: the number of columns.
    """
    reach = math.sqrt(rows) + math.sqrt(columns)
    width = reach * math.cbrt(1 / math.sqrt(rows) + 1 / math.sqrt(columns))
    return variance * (reach**2 + EDGE_QUANTILE * width)


def summarize_spectra(spectra: Spectra) -> dict[str, float]:
    """The numbers of a review.

    Returns:
        `alpha_score`, and `num_spectra`, the number of telling matrices; where there is one, `alpha` and `alpha_sigma`
        of the one in the middle.
    """
    num_telling = sum(each.is_telling for each in spectra.matrices)
    summary = {"alpha_score": spectra.alpha_score, "num_spectra": float(num_telling)}
    middle = spectra.median
    return summary if middle is None else summary | {"alpha": middle.fit.alpha, "alpha_sigma": middle.fit.alpha_sigma}
