"""Suspects: the rows whose labels are probably wrong, told from their mean losses alone.

A network learns what rows have in common before it learns a row by heart (Arpit et al., "A Closer Look at
Memorization in Deep Networks", 2017), so a row with a wrong label keeps a high loss for a while, whatever becomes of
it later. Its loss averaged over the epochs remembers that; its newest loss does not. Rows with small losses and rows
with large ones are told apart as two groups (Arazo et al., "Unsupervised Label Noise Modeling and Loss Correction",
2019), here by the split that explains most of the variance (Otsu, "A Threshold Selection Method from Gray-Level
Histograms", 1979), which needs no shape of the groups, no scale of the loss and no share of wrong labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trimtab.control.rows.table import list_chunks

NUM_BINS = 2**16
"""Bins between the smallest and the largest loss; a mean is off by half a bin at most."""

ROUNDING = 1e-5
"""Values that differ by less than this, relative to the largest, are the same: a hundred roundings of float32."""

MIN_SEPARATION = 0.7
"""The share of the variance that the split has to explain. The best split of one group explains 0.64 of it if the group
is normal and 0.65 if it is exponential, as losses of clean data are nearly; 0.70 is the 99th percentile of samples of
500 rows from the latter. With correct labels, digits and MNIST were seen to have 0.51 to 0.63; with 2 % of wrong ones,
0.68 to 0.85 from the fifth epoch on."""

MIN_SCORE = 0.6
"""How far from the lower group to the upper one a suspect's loss lies at least. Half of the way is Otsu's threshold; a
little more raised the precision on MNIST from 0.70 to 0.80 and cost a few hundredths of recall."""


MOST_SHARE = 0.1
"""With more suspects than this share of the rows, their message says that they may be something else: ten well-known
data sets have 0.2 % to 10 % of wrong labels (Northcutt et al., "Pervasive Label Errors in Test Sets", 2021)."""


@dataclass(frozen=True, slots=True, eq=False)
class Suspects:
    """The rows whose labels are probably wrong, the most suspicious first."""

    rows: NDArray[np.int64]
    """Their numbers."""

    scores: NDArray[np.float32]
    """Where their mean losses lie between the ordinary rows' mean, which is 0, and the high ones', which is 1."""

    separation: float
    """The share of the variance of the mean losses that two groups explain, from 0 to 1."""

    message: str
    """What was found, in a sentence."""


@dataclass(frozen=True, slots=True)
class Split:
    """Values in two groups."""

    lower: float
    """The mean of the group of small values."""

    upper: float
    """The mean of the group of large values."""

    separation: float
    """The share of the variance that the means of the groups explain, from 0 to 1."""


def split_in_two(values: NDArray[np.float32]) -> Split | None:
    """Split values into the two groups whose means explain most of their variance; None if all are the same.

    Args:
        values: finite numbers, 1-d.
    """
    if not len(values):
        return None
    low, high = float(values.min()), float(values.max())
    if high - low <= ROUNDING * max(abs(low), abs(high)):
        return None
    counts = np.zeros(NUM_BINS, np.int64)
    for part in list_chunks(len(values)):
        places = ((values[part].astype(np.float64) - low) / (high - low) * NUM_BINS).astype(np.int64)
        counts += np.bincount(np.minimum(places, NUM_BINS - 1), minlength=NUM_BINS)
    centers = low + (high - low) * (np.arange(NUM_BINS) + 0.5) / NUM_BINS
    sums = counts * centers
    num_lower, sum_lower = np.cumsum(counts)[:-1], np.cumsum(sums)[:-1]
    num_upper, sum_upper = len(values) - num_lower, sums.sum() - sum_lower
    lower, upper = sum_lower / num_lower, sum_upper / num_upper
    between = num_lower * num_upper * (upper - lower) ** 2
    best = int(between.argmax())
    variance = float((counts * (centers - sums.sum() / len(values)) ** 2).sum()) * len(values)
    return Split(float(lower[best]), float(upper[best]), float(between[best]) / variance)


def score_rows(mean_losses: NDArray[np.float32], split: Split) -> NDArray[np.float32]:
    """Where mean losses lie between the two groups: 0 at the mean of the lower one, 1 at that of the upper one."""
    return ((mean_losses - split.lower) / (split.upper - split.lower)).astype(np.float32)


def find_suspects(
    mean_losses: NDArray[np.float32], rows: NDArray[np.int64], min_separation: float = MIN_SEPARATION
) -> Suspects:
    """Find the rows whose labels are probably wrong.

    Args:
        mean_losses: the loss of each row, averaged over the epochs.
        rows: the numbers of these rows.
        min_separation: the share of their variance that two groups have to explain.
    """
    split = split_in_two(mean_losses)
    separation = 0.0 if split is None else split.separation
    if split is None or separation < min_separation:
        told = (
            f"no suspects: two groups of mean losses explain {separation:.2f} of their variance, and it takes "
            f"{min_separation:.2f}; the labels are clean, the epochs too few, or the rows hard to predict"
        )
        return Suspects(rows[:0], np.zeros(0, np.float32), separation, told)
    scores = score_rows(mean_losses, split)
    found = np.flatnonzero(scores > MIN_SCORE)
    found = found[np.argsort(-scores[found], kind="stable")]
    told = (
        f"{len(found)} of {len(rows)} rows are suspects: two groups of mean losses, around {split.lower:.3g} and "
        f"{split.upper:.3g}, explain {separation:.2f} of their variance"
    )
    if len(found) > MOST_SHARE * len(rows):
        told += "; so many may be rows that nothing in them predicts, so look at some before you trust the rest"
    return Suspects(rows[found], scores[found], separation, told)
