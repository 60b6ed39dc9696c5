"""Did it never learn? What of the data or of the output keeps the loss where it is."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite, log

import numpy as np

from trimtab.diagnosis.advice import advise_on_wiring
from trimtab.diagnosis.curves import describe_loss, find_swing
from trimtab.diagnosis.evidence import Evidence
from trimtab.diagnosis.stuck import FINE_TUNING, LOW_LOSS, is_clear, is_stuck, tell_flat
from trimtab.diagnosis.tree import Answer, Cause, Exclusion, Unmeasured, cause
from trimtab.diagnosis.weights import read_weights
from trimtab.diagnosis.zeros import find_zeros

CLASSES = (2, 3, 4, 5, 8, 10, 20, 50, 100, 200, 256, 1000, 10_000, 30_522, 32_000, 50_257, 50_304, 128_256, 151_936)
"""Usual numbers of classes and of tokens; the loss of an output that is the same for every input is their logarithm."""

NEAR = 0.005
"""How near, relative to it, a loss is to such a logarithm."""

HUGE_LOSS = 1e3
"""A first loss beyond this is that of inputs or targets that were not scaled."""


@cause("repeated-batches", question="learning")
def find_repeated_batches(evidence: Evidence) -> Iterator[Answer]:
    """The loader gives the same batches again and again.

    What it sees:
        A finding of batch-repeat: a batch that was there three times within 50 steps, where batches differ otherwise.
    Fix:
        Look at the sampler and its seed.
    """
    found = evidence.found_by("batch-repeat")
    if found:
        yield Cause(
            confidence=0.85,
            step=found[0].step,
            evidence=(found[0].message, f"it was found at {len(found)} steps"),
            fix="`DataLoader(data, shuffle=True)`; `sampler.set_epoch(epoch)` where it is distributed",
        )


@cause("zero-loss", question="learning")
def find_zero_loss(evidence: Evidence) -> Iterator[Answer]:
    """The loss is exactly 0, and nothing is learned from it.

    What it sees:
        A loss of exactly 0 at 100 records in a row or more, from the start or after usual values. One that fell to
        nearly 0 before, as where a small set is known by heart, is none.
    Fix:
        Look at the labels and at what the mean is taken over: labels that are all masked, a mask of zeros, a loss that
        was multiplied by 0 or replaced.
    """
    found = evidence.ask(find_zeros)
    if not found:
        return
    worst = max(found, key=lambda each: (each.is_at_end, each.num))
    before = f"it was {worst.before:.4g} right before" if isfinite(worst.before) else "it never was anything else"
    norms = evidence.metric("grad_norm").finite.between(worst.first, worst.last).values
    is_silent = bool(len(norms)) and not norms.any()
    silent = ("the gradient norm is exactly 0 meanwhile",) if is_silent else ()
    yield Cause(
        confidence=0.9 if is_silent else 0.8,
        step=worst.first,
        evidence=(
            f"the loss is exactly 0 at {worst.num} records from step {worst.first} to {worst.last}",
            before,
            *silent,
        ),
        fix="look at the labels of such a batch and at what the loss is multiplied with: "
        "`(labels != -100).float().mean()` is the share that is not masked; it must not be 0",
        state="fatal" if worst.is_at_end else "passed",
        alternative="a margin or hinge loss that every sample meets; then the run was done at that step",
    )


@cause("constant-output", question="learning")
def find_constant_output(evidence: Evidence) -> Iterator[Answer]:
    """The loss rests at the logarithm of the number of classes: the output is the same for every input.

    What it sees:
        A loss that is flat from the start within 0.5 % of ln k, for usual numbers of classes or tokens k.
    Fix:
        Check that labels and inputs belong together, then that the output depends on the input.
    """
    shape = describe_loss(evidence)
    if not evidence.ask(is_stuck) or shape is None or not is_clear(evidence):
        return
    level = float(np.median(shape.levels))
    near = [num for num in CLASSES if abs(level - log(num)) < NEAR * log(num)]
    if not near:
        yield Exclusion(f"the loss rests at {level:.4g}, the logarithm of no usual number of classes")
        return
    weights = evidence.ask(read_weights)
    why = "shuffled or wrong labels" if weights.is_moving else "an output that does not depend on the input"
    yield Cause(
        confidence=0.75,
        step=int(shape.starts[0]),
        evidence=(tell_flat(evidence), f"that is ln {near[0]} = {log(near[0]):.4g}: guessing among {near[0]} classes"),
        fix="train on one batch of 8 until its loss is 0: if it gets there, the labels of the rest do not fit their "
        "inputs; if not, the output does not depend on the input",
        state="fatal",
        alternative=f"most likely {why}; the other is next",
    )


@cause("unscaled-data", question="learning")
def find_unscaled_data(evidence: Evidence) -> Iterator[Answer]:
    """Inputs or targets were not scaled.

    What it sees:
        A loss that never fell from a start beyond 1000.
    Fix:
        Standardize inputs and targets.
    """
    shape = describe_loss(evidence)
    if evidence.ask(is_stuck) and shape is not None and shape.start > HUGE_LOSS:
        yield Cause(
            confidence=0.7,
            step=int(shape.starts[0]),
            evidence=(tell_flat(evidence),),
            fix="standardize inputs and targets with the training data's numbers: `x = (x - x.mean(0)) / x.std(0)`",
            state="fatal",
            alternative="shapes that broadcast, such as (n, 1) against (n,) in the loss",
        )


@cause("never-learned", question="learning")
def find_never_learned(evidence: Evidence) -> Iterator[Answer]:
    """The loss is flat from the start, and what was measured does not say why.

    What it sees:
        A loss above 0.3 that never fell by more than its noise over 50 records or more, at a rate that is not one of
        fine-tuning (above 5e-5), or is not known; and a noise below a tenth of it, or 2000 records.
    Fix:
        Overfit one batch first; then the rate × 10.
    """
    shape = describe_loss(evidence)
    if not evidence.ask(is_stuck) or shape is None or abs(shape.start) <= LOW_LOSS or evidence.ask(find_swing):
        return
    rates = evidence.metric("learning_rate").finite
    if len(rates) and 0 < rates.values.max() <= FINE_TUNING:
        return
    if not is_clear(evidence):
        yield Unmeasured("a longer log", f"{tell_flat(evidence)}: too much to tell whether it fell")
        return
    yield Cause(
        confidence=0.5,
        step=int(shape.starts[0]),
        evidence=(tell_flat(evidence),),
        fix="train on one batch of 8 until its loss is 0; if that works, the learning rate × 10, else the wiring: "
        + advise_on_wiring(evidence),
        state="fatal",
        alternative="labels that do not fit their inputs, or shapes that broadcast, such as (n, 1) against (n,)",
    )
