"""Is it the mixed precision? What the loss scale, the overflows and the reruns say."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from trimtab.diagnosis.bouts import find_bouts
from trimtab.diagnosis.evidence import Evidence
from trimtab.diagnosis.tree import Answer, Cause, Exclusion, Unmeasured, cause

FEW_OVERFLOWS = 3
"""Overflows under an unmoved loss scale from which the scaler is not engaged."""

MANY = 0.05
"""The share of records that overflow beyond which it is no calibration: a scaler that grows every 200 steps, Trimtab's
shortest advice, overflows at one in a hundred."""

LEAST_RECORDS = 50
"""Records below which a share says nothing."""

SETTLED = 50
"""Records at the start in which a scaler looks for its scale."""


def find_overflows(evidence: Evidence) -> NDArray[np.int64]:
    """The steps of a float16 run whose gradients overflowed with a finite loss."""
    norms = evidence.metric("grad_norm")
    steps = norms.steps[~np.isfinite(norms.values)]
    if evidence.regime != "float16" or not len(steps):
        return steps[:0]
    return steps[np.isfinite(evidence.metric("loss").look_up(steps))]


def _tell_overflows(evidence: Evidence) -> str:
    steps = evidence.ask(find_overflows)
    return f"gradients overflowed with a finite loss at {len(steps)} of {len(evidence.metric('grad_norm'))} records"


@cause("scaler-not-engaged", question="precision", detectors=("loss-scale-stuck",))
def find_idle_scaler(evidence: Evidence) -> Iterator[Answer]:
    """The loss scale stays what it is though gradients overflow.

    What it sees:
        At least 3 overflows with a finite loss, and a loss scale that is the same at all records.
    Fix:
        Step and update through the scaler.
    """
    scales, steps = evidence.metric("loss_scale").finite, evidence.ask(find_overflows)
    if len(steps) < FEW_OVERFLOWS or len(scales) < FEW_OVERFLOWS:
        return
    if np.ptp(scales.values) > 0:
        yield Exclusion(f"the loss scale moved between {scales.values.min():.4g} and {scales.values.max():.4g}")
        return
    yield Cause(
        confidence=0.9,
        step=int(steps[0]),
        evidence=(_tell_overflows(evidence), f"the loss scale was {scales.values[0]:.4g} at all {len(scales)} records"),
        fix="`scaler.scale(loss).backward(); scaler.step(optimizer); scaler.update()` at every step",
        alternative="a scaler that was made anew at every step",
    )


@cause("loss-scale-collapsed", question="precision", detectors=("loss-scale-collapsed",))
def find_collapsed_scale(evidence: Evidence) -> Iterator[Answer]:
    """The loss scale fell below 1.

    What it sees:
        A loss scale below 1: gradients overflow even unscaled, so activations or weights have grown too large.
    Fix:
        bfloat16, or smaller activations; half the learning rate.
    """
    scales = evidence.metric("loss_scale").finite
    low = np.flatnonzero(scales.values < 1)
    if not low.size:
        if len(evidence.ask(find_overflows)):
            yield Exclusion(
                f"the loss scale stayed at {scales.values.min():.4g} or above" if len(scales) else "no scale"
            )
        return
    step, newest = int(scales.steps[low[0]]), float(scales.values[-1])
    overflows = evidence.ask(find_overflows)
    is_over = newest < 1 and bool(len(overflows)) and int(overflows[-1]) >= evidence.metric("grad_norm").steps[-1]
    yield Cause(
        confidence=0.9,
        step=step,
        evidence=(
            f"the loss scale fell below 1 at step {step}, to {scales.values.min():.4g}, and is {newest:.4g} at the end",
            _tell_overflows(evidence),
        ),
        fix="use `torch.autocast(device, torch.bfloat16)` without a scaler, or halve the learning rate and look at the "
        "size of the activations and of the initialization",
        state="fatal" if is_over else "lasting",
    )


@cause("gradient-overflow", question="precision", detectors=("float16-overflow",))
def find_gradient_overflow(evidence: Evidence) -> Iterator[Answer]:
    """Gradients overflow in float16 again and again.

    What it sees:
        Overflows with a finite loss at more than 5 % of the records after the first 50, or a finding of
        float16-overflow. With a finite loss it is the backward pass that overflows, which is float16's doing.
    Fix:
        bfloat16, clipping, or a scaler that grows less often.
    """
    steps, norms = evidence.ask(find_overflows), evidence.metric("grad_norm")
    settled = norms.steps[SETTLED:] if len(norms) > SETTLED + LEAST_RECORDS else norms.steps[:0]
    num = int((steps >= settled[0]).sum()) if len(settled) else 0
    found = evidence.found_by("float16-overflow")
    if num <= max(MANY * len(settled), FEW_OVERFLOWS) and not found:
        if len(steps):
            yield Exclusion(f"{_tell_overflows(evidence)}, as a scaler that looks for its scale makes them")
        return
    told = tuple(each.message for each in found[:1])
    yield Cause(
        confidence=0.75,
        step=found[0].step if found else int(steps[steps >= settled[0]][0]),
        evidence=(_tell_overflows(evidence), *told),
        fix="use `torch.autocast(device, torch.bfloat16)`; in float16 clip at 1.0 and raise growth_interval",
        alternative="a loss that is a sum over many samples, in place of their mean",
    )


@cause("loss-scale-oscillating", question="precision", detectors=("loss-scale-oscillating",))
def find_oscillating_scale(evidence: Evidence) -> Iterator[Answer]:
    """The loss scale grows and falls in turns, and each fall is a lost update.

    What it sees:
        A finding of loss-scale-oscillating: more than six turns within 200 steps.
    Fix:
        A larger growth interval.
    """
    found = evidence.found_by("loss-scale-oscillating")
    if found:
        yield Cause(
            confidence=0.6,
            step=found[0].step,
            evidence=(found[0].message, _tell_overflows(evidence)),
            fix='`torch.amp.GradScaler("cuda", growth_interval=2000)`',
        )


@cause("gradient-underflow", question="precision", detectors=("gradient-underflow",))
def find_underflow(evidence: Evidence) -> Iterator[Answer]:
    """Most gradient numbers are too small for float16.

    What it sees:
        A share of the gradient numbers below 6.1e-5, times the loss scale, above one half at two sampled steps.
    Fix:
        A larger loss scale, or bfloat16.
    """
    shares = evidence.metric("underflow_share").finite
    low = np.flatnonzero(shares.values > 0.5)
    if low.size >= 2:
        at = low[0]
        yield Cause(
            confidence=0.85,
            step=int(shares.steps[at]),
            evidence=(
                f"{shares.values[at]:.0%} of the gradient numbers were too small at step {int(shares.steps[at])}, "
                f"more than half at {low.size} of {len(shares)} samples",
            ),
            fix='`torch.amp.GradScaler("cuda", init_scale=2.0**16)`, or `torch.autocast(device, torch.bfloat16)`',
        )


@cause("precision-loss", question="precision")
def find_precision_loss(evidence: Evidence) -> Iterator[Answer]:
    """A fault recurs in lower precision, and not in float32.

    What it sees:
        The verdict of the single-step float32 rerun: precision.
    Fix:
        Keep the part that needs it in float32.
    """
    overflows = [each for each in evidence.ask(find_bouts) if each.cause.endswith("-overflow")]
    noted = [
        (decision.step, action.note)
        for decision, action in evidence.decided
        if "precision:" in action.note and not any(each.first <= decision.step <= each.last for each in overflows)
    ]
    if noted:
        step, note = noted[0]
        yield Cause(
            confidence=0.9,
            step=step,
            evidence=(note,),
            fix="compute the loss in float32: "
            "`with torch.autocast(device, enabled=False): loss = loss_fn(out.float(), y)`",
            state="mended" if all(evidence.was_answered(each) for each, _ in noted) else "lasting",
        )


@cause("loss-scale-not-recorded", question="precision")
def find_missing_scale(evidence: Evidence) -> Iterator[Answer]:
    """A float16 run was recorded without its loss scale.

    What it sees:
        A float16 run in whose log no loss scale is; whether it collapsed cannot be said.
    """
    if evidence.regime == "float16" and not len(evidence.metric("loss_scale")):
        yield Unmeasured("loss_scale", "record `scaler.get_scale()` at every step")
