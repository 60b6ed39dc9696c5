"""Weight spectra that noise has taken over."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trimtab.detectors import detector
from trimtab.history import History
from trimtab.types import Breach

ALPHA, SIGMA, NUM = "alpha", "alpha_sigma", "num_spectra"

CERTAIN = 2.0
"""Uncertainties by which an exponent has to lie beyond a limit."""


@detector("spectral-noise", severity="low", clocks=("review",), needs=NUM)
def find_spectral_noise(history: History, *, limit: float = 6.0, samples: int = 3) -> Iterator[Breach]:
    """The weights of a run that had healthy spectra are dominated by noise.

    What it sees:
        The exponent α of the power law in the spectra of the weight matrices, of the one in the middle by size, at the
        reviews at which it is measured (`spectra_every`). It was below `limit` once. At each of the newest `samples`
        measurements it is above, or there is no matrix left in which anything stands out of noise. Above and below are
        meant by more than two uncertainties. It is found once.
    Why it matters:
        From 2 to 5 a layer is well trained. Above 6 the large eigenvalues, which hold what was learned, hardly stand
        out (arXiv 2002.06716). Random numbers added to the weights do that; so does starting anew without meaning to.
    Stays silent:
        At initialization, where α is noise: on matrices without an eigenvalue beyond the edge of a random one, and on
        runs that were never below the limit. On matrices with fewer than 64 eigenvalues, which are not counted.
    Settings:
        limit: the exponent above which a spectrum is taken for noise.
        samples: measurements in a row it takes.
    Default response:
        None; it is advisory. Compare the validation loss with that of the best epoch by loss and spectra.
    """
    if not (history.has(ALPHA) and history.has(SIGMA) and history.has(NUM)):
        return
    rows = np.flatnonzero(np.isfinite(history.column(NUM)))
    alphas, sigmas, nums = (history.column(metric)[rows] for metric in (ALPHA, SIGMA, NUM))
    is_noise = (alphas - CERTAIN * sigmas > limit) | (nums == 0)
    was_healthy = (alphas + CERTAIN * sigmas < limit).any()
    newest = is_noise[-samples:]
    is_new = not is_noise[-samples - 1 : -samples].any()
    if was_healthy and is_new and len(newest) == samples and newest.all():
        since = int(history.steps[rows[-samples]])
        alpha, sigma = float(alphas[-1]), float(sigmas[-1])
        told = f"alpha {alpha:.2f} ± {sigma:.2f}, above {limit:g}" if nums[-1] > 0 else "nothing stands out of it"
        message = f"the weight spectra are dominated by noise since step {since}: {told}"
        yield Breach(metric=ALPHA, value=alpha, limit=limit, message=message, since=since)
