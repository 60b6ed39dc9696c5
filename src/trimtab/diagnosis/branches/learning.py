"""Did it never learn? What of the wiring, the rate or the precision keeps the weights where they are."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from trimtab.diagnosis.evidence import Evidence
from trimtab.diagnosis.stuck import LEAST_RECORDS, grade, is_stuck, tell_flat
from trimtab.diagnosis.tree import REMEDIES, Answer, Cause, Exclusion, Unmeasured, cause
from trimtab.diagnosis.weights import Weights, read_weights

TINY_RATE, HUGE_RATE = 1e-7, 1.0
"""Learning rates beyond which nothing is learned by usual optimizers."""

FIRST_STEPS = 1
"""A gradient that is 0 from the first step on teaches nothing, however the loss looks."""

EARLY, REST = 0.5, 1e-3
"""A schedule that has fallen below a thousandth of its peak before half of the run was too fast."""

HELD = 5
"""Records whose median is a rate of the schedule: one that is there for two alone has slipped."""


@cause("zero-learning-rate", question="learning", detectors=("zero-learning-rate",))
def find_zero_rate(evidence: Evidence) -> Iterator[Answer]:
    """The learning rate is 0, and no update changes anything.

    What it sees:
        A rate of exactly 0 at more than half of the records of the first half of the run.
    Fix:
        Look at where the scheduler is stepped, and at the configuration.
    """
    rates = evidence.metric("learning_rate").finite
    half = rates.values[: max(len(rates) // 2, 1)]
    if not len(rates) or len(rates) < LEAST_RECORDS // 5:
        if evidence.ask(is_stuck):
            yield Unmeasured("learning_rate", REMEDIES["learning_rate"])
        return
    if (half == 0).mean() > 0.5:
        step = int(rates.steps[np.flatnonzero(rates.values == 0)[0]])
        yield Cause(
            confidence=0.95,
            step=step,
            evidence=(f"the learning rate is exactly 0 at {int((rates.values == 0).sum())} of {len(rates)} records",),
            fix="set it, and step the scheduler at the clock its length is meant for: `scheduler.step()` once per step",
            state=grade(evidence),
        )
    elif evidence.ask(is_stuck):
        yield Exclusion(f"the rate is up to {rates.values.max():.3g}")


@cause("zero-gradient", question="learning", detectors=("zero-gradient",))
def find_zero_gradient(evidence: Evidence) -> Iterator[Answer]:
    """The gradient is exactly 0: the loss does not depend on the parameters.

    What it sees:
        A total gradient norm of exactly 0 at more than half of the records, or at all of the last 20, with a loss
        that is not 0.
    Fix:
        Look for a `detach`, a `no_grad` or an argmax between the parameters and the loss.
    """
    weights = evidence.ask(read_weights)
    if weights.is_gradient_zero:
        is_half = evidence.regime == "float16"
        yield Cause(
            confidence=0.95,
            step=weights.zero_since,
            evidence=(f"the gradient norm is exactly 0 from step {weights.zero_since} on",),
            fix="look for `.detach()`, `.item()`, `torch.no_grad()` or an argmax between the parameters and the loss"
            + (", or raise the loss scale: float16 gradients below 6e-8 are 0" if is_half else ""),
            state="fatal" if weights.zero_since <= FIRST_STEPS else grade(evidence),
            alternative="units that are all dead; look at their share in `dead_units`",
        )
    elif evidence.ask(is_stuck):
        if weights.gradient > 0:
            yield Exclusion(f"the gradient norm is {weights.gradient:.3g}")
        else:
            yield Unmeasured("grad_norm", REMEDIES["grad_norm"])


@cause("unmoved-weights", question="learning")
def find_unmoved_weights(evidence: Evidence) -> Iterator[Answer]:
    """The weights have a gradient and do not move: the optimizer holds other parameters, or is not stepped.

    What it sees:
        Updates of exactly 0, or a weight norm that is the same to the last digit, with a gradient above 0, a rate
        above 0 and no half-precision rounding that would explain it.
    Fix:
        Build the optimizer after the model is final, and call its step.
    """
    weights = evidence.ask(read_weights)
    if weights.is_unmoved and weights.gradient > 0 and weights.rate != 0 and not weights.is_rounded:
        yield Cause(
            confidence=0.9,
            step=weights.first_step,
            evidence=_tell_weights(weights),
            fix="build the optimizer after the model is final (`model.to(device)` first, then "
            "`optimizer = AdamW(model.parameters())`), and call `optimizer.step()` at every step",
            state="fatal",
            alternative="parameters that were replaced after the optimizer was built",
        )
    elif evidence.ask(is_stuck):
        if weights.is_moving:
            yield Exclusion(f"the weights move: {weights.moves}")
        elif not weights.is_unmoved:
            yield Unmeasured("update_ratio", "`supervisor.check(loss)` measures it; or record the norm of the weights")


def _tell_weights(weights: Weights) -> tuple[str, ...]:
    rate = f"the learning rate is {weights.rate:.3g}" if weights.rate == weights.rate else "the rate is not known"
    return (
        weights.moves,
        f"the gradient norm is {weights.gradient:.3g}",
        rate,
        f"precision: {weights.dtype or 'unknown'}",
    )


@cause("updates-rounded-away", question="learning", detectors=("lost-update",))
def find_rounded_updates(evidence: Evidence) -> Iterator[Answer]:
    """Updates are rounded away, since the weights are kept in half precision.

    What it sees:
        More than 90 % of the weights with a gradient left exactly as they were at two samples, or weights in half
        precision that do not move at all though gradient and rate are above 0.
    Fix:
        Master weights in float32.
    """
    weights = evidence.ask(read_weights)
    if weights.is_rounded:
        yield Cause(
            confidence=0.9,
            step=weights.first_step,
            evidence=_tell_weights(weights),
            fix="keep the weights in float32 and compute in autocast: `model.float()`, "
            "`with torch.autocast(device, torch.bfloat16): loss = …`",
            state=grade(evidence),
            alternative="a rate too small for these weights",
        )
    elif weights.is_unmoved:
        yield Exclusion(f"the weights are kept in {weights.dtype or 'a precision that is not known'}")


@cause("unreached-parameters", question="learning", detectors=("missing-gradient",))
def find_unreached(evidence: Evidence) -> Iterator[Answer]:
    """Some parameters never get a gradient.

    What it sees:
        A finding of missing-gradient: no gradient at all at every sampled step since the run began.
    Fix:
        Look whether the groups are called in forward and reach the loss.
    """
    found = evidence.found_by("missing-gradient")
    if found:
        yield Cause(
            confidence=0.85,
            step=found[0].step,
            evidence=(found[0].message,),
            fix="look whether these are called in forward and reach the loss; freeze on purpose what is not to learn: "
            "`parameter.requires_grad_(False)`",
        )


@cause("no-zero-grad", question="learning", detectors=("stale-gradient",))
def find_stale_gradients(evidence: Evidence) -> Iterator[Answer]:
    """The gradients are never cleared.

    What it sees:
        At sampled steps the gradients of the step before were still there when this step's were added.
    Fix:
        Clear them once per step.
    """
    stale = evidence.metric("stale_gradients").finite
    held = np.flatnonzero(stale.values > 0)
    if held.size:
        yield Cause(
            confidence=0.95,
            step=int(stale.steps[held[0]]),
            evidence=(f"old gradients were there at {held.size} of {len(stale)} sampled steps",),
            fix="`optimizer.zero_grad()` once per step, before `loss.backward()`",
            state=grade(evidence),
        )
    elif len(stale) and evidence.ask(is_stuck):
        yield Exclusion(f"the gradients were cleared at all {len(stale)} sampled steps")


@cause("dead-units", question="learning", detectors=("dead-units",))
def find_dead_units(evidence: Evidence) -> Iterator[Answer]:
    """Nearly all units of a layer are 0 for every sample.

    What it sees:
        A finding of dead-units: more than 90 % of a group's ReLU units at two samples in a row.
    Fix:
        A lower rate, normalized inputs, a leaky activation.
    """
    found = evidence.found_by("dead-units")
    if found:
        yield Cause(
            confidence=0.8,
            step=found[0].step,
            evidence=(found[0].message,),
            fix="`nn.LeakyReLU(0.01)` in place of `nn.ReLU()`, normalized inputs, and the learning rate × 0.1",
            state=grade(evidence),
        )


@cause("learning-rate-too-low", question="learning")
def find_low_rate(evidence: Evidence) -> Iterator[Answer]:
    """The learning rate is too small for anything to be learned.

    What it sees:
        A loss that is flat from the start with a rate that never exceeds 1e-7.
    Fix:
        The rate × 1000 or more; find it with a sweep.
    """
    rates = evidence.metric("learning_rate").finite
    if not evidence.ask(is_stuck) or not len(rates) or not rates.values.max() > 0:
        return
    highest = float(rates.values.max())
    if highest > TINY_RATE:
        yield Exclusion(f"the rate is up to {highest:.3g}")
        return
    yield Cause(
        confidence=0.9,
        step=int(rates.steps[0]),
        evidence=(tell_flat(evidence), f"the learning rate is at most {highest:.3g}"),
        fix=f"the learning rate × {max(1e-3 / highest, 10):.0e}: 1e-3 is usual for Adam, 1e-1 for SGD",
        state="fatal",
    )


@cause("learning-rate-absurd", question="learning")
def find_absurd_rate(evidence: Evidence) -> Iterator[Answer]:
    """The learning rate is so large that nothing can be learned.

    What it sees:
        A loss that never fell with a rate of 1 or more at most records.
    Fix:
        The rate × 0.01 or less.
    """
    rates = evidence.metric("learning_rate").finite
    if evidence.ask(is_stuck) and len(rates) and float(np.median(rates.values)) >= HUGE_RATE:
        highest = float(rates.values.max())
        yield Cause(
            confidence=0.85,
            step=int(rates.steps[0]),
            evidence=(tell_flat(evidence), f"the learning rate is up to {highest:.3g}"),
            fix=f"the learning rate × {1e-3 / highest:.0e}: 1e-3 is usual for Adam, 1e-1 for SGD",
            state="fatal",
        )


@cause("schedule-too-fast", question="learning")
def find_fast_schedule(evidence: Evidence) -> Iterator[Answer]:
    """The schedule was over long before the run.

    What it sees:
        A learning rate below a thousandth of its peak for good before half of the run was done. A rate that was there
        for one or two records alone is no peak.
    Fix:
        Give the schedule the number of steps the run has.
    """
    rates = evidence.metric("learning_rate").finite
    if len(rates) < LEAST_RECORDS:
        return
    peak = float(np.median(sliding_window_view(rates.values, HELD), axis=1).max())
    if not peak > 0:
        return
    last = int(np.flatnonzero(rates.values > REST * peak)[-1])
    if last + 1 < EARLY * len(rates) and last > 0:
        yield Cause(
            confidence=0.85,
            step=int(rates.steps[last + 1]),
            evidence=(
                f"the learning rate fell from {peak:.3g} to {rates.values[last + 1]:.3g} by step "
                f"{int(rates.steps[last + 1])} and stays there until step {int(rates.steps[-1])}",
            ),
            fix="`CosineAnnealingLR(optimizer, T_max=num_epochs * len(loader))`, stepped once per step",
            state=grade(evidence),
        )
