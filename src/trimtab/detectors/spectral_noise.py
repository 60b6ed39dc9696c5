"""Weight spectra that noise has taken over."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trimtab.detectors import detector
from trimtab.history import History
from trimtab.types import Breach

METRIC = "alpha"

SIGMA = "alpha_sigma"

CERTAIN = 2.0
"""Uncertainties by which an exponent has to lie beyond a limit."""


@detector("spectral-noise", severity="low", clocks=("review",), needs=METRIC)
def find_spectral_noise(history: History, *, limit: float = 6.0, samples: int = 3) -> Iterator[Breach]:
    """The weights of a run that had healthy spectra are dominated by noise.

    What it sees:
        The exponent α of the power law in the spectra of the weight matrices, of the one in the middle by size, at the
        reviews at which it is measured (`spectra_every`). It was below `limit` once, and is above it at each of the
        newest `samples` measurements, both by more than two uncertainties. It is found once.
    Why it matters:
        From 2 to 5 a layer is well trained. Above 6 the large eigenvalues, which hold what was learned, no longer stand
        out (arXiv 2002.06716). A learning rate that is too high and labels without a meaning do that.
    Stays silent:
        At initialization, where α is noise: on matrices without an eigenvalue beyond the edge of a random one, and on
        runs that were never below the limit. On matrices with fewer than 64 eigenvalues, which are not counted.
    Settings:
        limit: the exponent above which a spectrum is taken for noise.
        samples: measurements in a row it takes.
    Default response:
        None; it is advisory. Compare the validation loss with that of the best epoch by loss and spectra.
    """
    if METRIC not in history.newest.values or not history.has(SIGMA):
        return
    alphas, sigmas = history.column(METRIC), history.column(SIGMA)
    rows = np.flatnonzero(np.isfinite(alphas) & np.isfinite(sigmas))
    is_above = alphas[rows] - CERTAIN * sigmas[rows] > limit
    was_below = (alphas[rows] + CERTAIN * sigmas[rows] < limit).any()
    newest = is_above[-samples:]
    is_new = not is_above[-samples - 1 : -samples].any()
    if was_below and is_new and len(newest) == samples and newest.all():
        alpha, sigma, since = float(alphas[rows[-1]]), float(sigmas[rows[-1]]), int(history.steps[rows[-samples]])
        message = f"the weight spectra are dominated by noise since step {since}: alpha {alpha:.2f} ± {sigma:.2f}"
        yield Breach(metric=METRIC, value=alpha, limit=limit, message=f"{message}, above {limit:g}", since=since)
