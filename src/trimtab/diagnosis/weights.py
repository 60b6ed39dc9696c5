"""Whether the weights move, and if not, what of gradient, rate and precision keeps them where they are."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, nan

import numpy as np

from trimtab.diagnosis.evidence import Evidence, Series

LEAST = 2
"""Measurements of an update that a statement rests on."""

LEAST_NORMS = 20
"""Norms of the weights that have to be the same to the last digit."""

LOST = 0.9
"""The share of the weights left as they were by an update that counts as rounded away."""

AT_END = 20
"""Gradients of 0 at the end of the run after which it is for good."""

HALF = ("float16", "bfloat16")


@dataclass(frozen=True, slots=True)
class Weights:
    """What is known of the weights of a run."""

    gradient: float
    """The median gradient norm; NaN where none was measured."""

    is_gradient_zero: bool
    """True if it is exactly 0 for most of the run, or for good from some step on."""

    zero_since: int
    """The step since when; 0 where it is not."""

    rate: float
    """The highest learning rate; NaN where it was not measured."""

    dtype: str
    """The precision the weights are kept in; empty where that is not known."""

    is_unmoved: bool
    """True if all weights are where they were, as far as was measured."""

    is_moving: bool
    """True if they were seen to move."""

    is_rounded: bool
    """True if half precision explains that they do not move."""

    moves: str
    """What was measured of their moves, in words; empty where nothing was."""

    first_step: int
    """The first step of which that was measured."""


def read_weights(evidence: Evidence) -> Weights:
    """What is known of the weights of a run."""
    norms = evidence.metric("grad_norm").finite
    rates = evidence.metric("learning_rate").finite
    rate = float(rates.values.max()) if len(rates) else nan
    gradient = float(np.median(norms.values)) if len(norms) else nan
    zero_since = _find_zero_since(norms, evidence.loss)
    dtype = next((each for each in evidence.manifest.get("dtypes", ()) if each in HALF), "") or _guess_dtype(evidence)
    moves, is_unmoved, is_moving, first = _read_moves(evidence)
    lost = evidence.metric("lost_updates")
    shares = lost.values if lost.values.ndim > 1 else lost.values[:, None]
    with np.errstate(invalid="ignore"):
        worst = np.nanmax(np.where(np.isfinite(shares), shares, -1.0), axis=1) if len(lost) else np.empty(0)
    is_lost = int((worst > LOST).sum()) >= LEAST and (rate > 0 or not isfinite(rate)) and not _ends(evidence)
    if is_lost:
        moves = f"up to {worst.max():.0%} of the weights with a gradient were left as they were by an update"
        first = int(lost.steps[np.flatnonzero(worst > LOST)[0]])
    is_rounded = is_lost or (is_unmoved and dtype in HALF and gradient > 0 and rate != 0)
    return Weights(
        gradient, zero_since > 0, max(zero_since, 0), rate, dtype, is_unmoved, is_moving, is_rounded, moves, first
    )


def _find_zero_since(norms: Series, losses: Series) -> int:
    """The step from which on the gradient is 0; 0 if it is not, or the loss is 0 too."""
    if not len(norms) or (len(losses) and float(np.median(losses.values[-AT_END:])) == 0):
        return 0
    is_zero = norms.values == 0
    if len(norms) >= AT_END and bool(is_zero[-AT_END:].all()):
        above = np.flatnonzero(~is_zero)
        return max(int(norms.steps[int(above[-1]) + 1 if above.size else 0]), 1)
    if is_zero.mean() > 0.5 and len(norms) >= LEAST_NORMS:
        return max(int(norms.steps[np.flatnonzero(is_zero)[0]]), 1)
    return 0


def _guess_dtype(evidence: Evidence) -> str:
    return str(evidence.manifest.get("weight_dtype", evidence.manifest.get("dtype", "")))


def _ends(evidence: Evidence) -> bool:
    """True if the rate falls to nearly nothing, as at the end of a schedule, where updates are lost by design."""
    rates = evidence.metric("learning_rate").finite.values
    lost = evidence.metric("lost_updates")
    if not len(rates) or not len(lost):
        return False
    at = evidence.metric("learning_rate").look_up(lost.steps)
    return bool(np.nanmax(at) < 0.05 * rates.max()) if np.isfinite(at).any() else False


def _read_moves(evidence: Evidence) -> tuple[str, bool, bool, int]:
    """What is known of the moves: in words, whether there are none, whether there are some, since which step."""
    ratios = evidence.metric("update_ratio").finite
    if len(ratios) >= LEAST:
        most = ratios.values if ratios.values.ndim == 1 else ratios.values.max(axis=1)
        if not most.any():
            words = f"every update measured is exactly 0, at {len(ratios)} steps from {int(ratios.steps[0])} on"
            return words, True, False, int(ratios.steps[0])
        return f"updates of up to {float(np.median(most)):.3g} of the weights", False, True, int(ratios.steps[0])
    norms = evidence.metric("weight_norm").finite
    if len(norms) >= LEAST_NORMS:
        if not np.ptp(norms.values, axis=0).any():
            words = f"the norm of the weights is the same to the last digit at {len(norms)} records"
            return words, True, False, int(norms.steps[0])
        return "the norm of the weights changes", False, True, int(norms.steps[0])
    return "", False, False, 0
