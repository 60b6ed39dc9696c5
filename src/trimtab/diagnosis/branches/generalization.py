"""Does it generalize? Training and evaluation side by side."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trimtab.detectors.reviewing import LEAST_REVIEWS, RISEN, Pairs
from trimtab.diagnosis.curves import describe_loss
from trimtab.diagnosis.evidence import Evidence
from trimtab.diagnosis.findings import tell_findings
from trimtab.diagnosis.pairs import measure_slow_rise, read_pairs
from trimtab.diagnosis.stuck import FINE_TUNING, LOW_LOSS
from trimtab.diagnosis.tree import Answer, Cause, Exclusion, Unmeasured, cause

ACCURACIES = ("val_accuracy", "val_acc", "eval_accuracy", "validation_accuracy", "accuracy")
"""What the accuracy of an evaluation is called."""

DIVERSITIES = ("embedding_std", "feature_std", "representation_std", "effective_rank", "diversity")
"""What says how far representations differ from each other; 0 where they are all the same."""

SLOWLY = 0.02
"""How far it has to have risen along a line."""

DROPOUT = 0.6
"""Dropout and augmentation make the training loss higher than the evaluation's, but hardly by more than this ratio."""

CLEAR = 0.015
"""The standard error of a level, relative to it, up to which it can be said to be flat."""

SMALL_DROP = 0.2
"""The share of the first loss that an underfitted model has learned at most."""

MEMORIZED = 0.02
"""The share of the first training loss below which the training data is known by heart."""


def _tell(pairs: Pairs) -> tuple[str, ...]:
    best = pairs.best
    return (
        f"the evaluation loss was lowest at step {int(pairs.steps[best])}, {pairs.evaluated[best]:.4g}, and is "
        f"{pairs.end:.4g} at the end",
        f"the training loss was {pairs.train[best]:.4g} there and is {pairs.train[-1]:.4g} at the end",
    )


@cause("overfitting", question="generalization", detectors=("severe-overfitting",))
def find_overfitting(evidence: Evidence) -> Iterator[Answer]:
    """The training loss falls while the evaluation loss rises.

    What it sees:
        An evaluation loss that has been above its best for the last three reviews at least, by 5 % and 5 times its
        noise, while the training loss fell on; or one that has risen by 2 % along a straight line since its best, over
        6 reviews or more and by 6 times its scatter about that line.
    Fix:
        Stop at the best; more data, augmentation, dropout 0.1 to 0.3, weight decay × 10.
    """
    pairs = evidence.ask(read_pairs)
    if pairs is None:
        if len(evidence.loss) and not evidence.is_adversarial:
            yield Unmeasured("val_loss", "`supervisor.review(val_loss=…)` once per epoch, or `fit(…, val_loader=…)`")
        return
    best = pairs.best
    lowest, slowly = float(pairs.evaluated[best]), measure_slow_rise(pairs)
    is_clear = pairs.has_risen
    if not is_clear and slowly < SLOWLY * abs(lowest):
        return
    if not pairs.has_learned_on:
        yield Exclusion("the training loss did not fall on while the evaluation loss rose")
        return
    if pairs.differs_from_start:
        yield Exclusion("the evaluation loss was far above the training loss from the first review on")
        return
    slow = (f"it has risen by {slowly / abs(lowest):.1%} along a line since, slowly but beyond its noise",)
    yield Cause(
        confidence=0.85 if is_clear else 0.6,
        step=int(pairs.steps[best]),
        evidence=(*_tell(pairs), *(() if is_clear else slow)),
        fix="stop at the best: `fit(…, patience=3)`; then more data, `nn.Dropout(0.2)`, weight decay × 10",
        alternative="an evaluation set unlike the training set"
        if is_clear
        else "a model that grows too sure of itself, if its accuracy still rises: label smoothing 0.1",
    )


@cause("growing-gap", question="generalization", detectors=("moderate-overfitting",))
def find_gap(evidence: Evidence) -> Iterator[Answer]:
    """The gap between training and evaluation grows, and the evaluation no longer gets better.

    What it sees:
        A finding of moderate-overfitting, and no evaluation loss that rises, which is overfitting.
    Fix:
        Dropout, weight decay × 2 to × 10, augmentation; stop early.
    """
    pairs = evidence.ask(read_pairs)
    if pairs is not None and pairs.has_risen:
        return
    yield from tell_findings(
        evidence,
        "moderate-overfitting",
        0.6,
        "`nn.Dropout(0.2)`, weight decay × 3, augmentation; `fit(…, patience=10)` ends where nothing more is won",
        "an evaluation set unlike the training set",
    )


@cause("evaluation-stands-still", question="generalization", detectors=("no-learning",))
def find_standing_still(evidence: Evidence) -> Iterator[Answer]:
    """The evaluation loss has not got better for many reviews, and not because the run has converged.

    What it sees:
        A finding of no-learning.
    Fix:
        Stop where the training loss falls on; the rate × 3 or ÷ 3 where nothing was ever learned.
    """
    yield from tell_findings(
        evidence,
        "no-learning",
        0.6,
        "where the training loss falls on, stop: `fit(…, patience=10)`; where it never fell, the learning rate × 3, "
        "then × 0.3, and look at the labels",
    )


@cause("memorized-training-data", question="generalization")
def find_memorized(evidence: Evidence) -> Iterator[Answer]:
    """The training loss is near zero while the evaluation loss stays reasonable.

    What it sees:
        A training loss below 2 % of its start and a tenth of the evaluation loss, which is flat.
    Fix:
        Nothing is to be gained by longer training: regularize, or use a smaller model.
    """
    pairs = evidence.ask(read_pairs)
    shape = describe_loss(evidence)
    if pairs is None or shape is None:
        return
    lowest = float(pairs.evaluated.min())
    is_flat = pairs.end <= lowest + max(RISEN * 2 * abs(lowest), 5 * pairs.noise)
    if 0 <= pairs.train[-1] < MEMORIZED * shape.start and pairs.end > 10 * pairs.train[-1] and is_flat:
        yield Cause(
            confidence=0.6,
            step=int(pairs.steps[pairs.best]),
            evidence=_tell(pairs),
            fix="the gap is what regularization can win: weight decay × 10, augmentation, dropout 0.2; or stop here",
            alternative="duplicates within the training data",
        )


@cause("underfitting", question="generalization")
def find_underfitting(evidence: Evidence) -> Iterator[Answer]:
    """Training and evaluation loss both rest high.

    What it sees:
        Less than a fifth of the first loss learned, nothing in the second half, and an evaluation loss within 15 %
        of the training loss; not at the rates of fine-tuning.
    Fix:
        A larger model, the rate × 3, less regularization.
    """
    pairs, shape = evidence.ask(read_pairs), describe_loss(evidence)
    rates = evidence.metric("learning_rate").finite
    if pairs is None or shape is None or not shape.has_fallen or shape.end <= LOW_LOSS:
        return
    if len(rates) and rates.values.max() <= 2 * FINE_TUNING:
        return
    is_flat = 0 < shape.flat_since() <= len(shape.levels) // 2 and shape.level_noise < CLEAR * shape.end
    is_high = shape.start - shape.end < SMALL_DROP * abs(shape.start)
    if is_flat and is_high and abs(pairs.end - pairs.train[-1]) < 0.15 * abs(pairs.train[-1]):
        yield Cause(
            confidence=0.65,
            step=int(shape.starts[shape.flat_since()]),
            evidence=(
                f"the training loss fell from {shape.start:.4g} to {shape.end:.4g} and has been flat since step "
                f"{int(shape.starts[shape.flat_since()])}",
                f"the evaluation loss is {pairs.end:.4g}",
            ),
            fix="double the width or the depth; the learning rate × 3; dropout and weight decay × 0.1",
            alternative="targets that the inputs do not determine; look at what a simple baseline gets",
        )


@cause("train-eval-inconsistency", question="generalization")
def find_inconsistency(evidence: Evidence) -> Iterator[Answer]:
    """Evaluation computes something else than training does.

    What it sees:
        An evaluation loss above 2.5 times the training loss at all reviews from the first on, that got neither better
        by a fifth nor worse by a quarter, while the training loss fell.
    Fix:
        Compare preprocessing and mode; evaluate on a training batch.
    """
    pairs, shape = evidence.ask(read_pairs), describe_loss(evidence)
    if pairs is None or shape is None or not shape.has_fallen:
        return
    ratios = pairs.evaluated / np.maximum(pairs.train, 1e-12)
    if pairs.differs_from_start:
        yield Cause(
            confidence=0.8,
            step=int(pairs.steps[0]),
            evidence=(
                f"the evaluation loss is {ratios.min():.3g} to {ratios.max():.3g} times the training loss, from the "
                f"first review at step {int(pairs.steps[0])} on",
                *_tell(pairs),
            ),
            fix="evaluate on a training batch in both modes: `model.eval(); loss_fn(model(x), y)`; if it differs, look "
            "at BatchNorm's statistics and at the preprocessing of the evaluation data",
            alternative="an evaluation set of another kind",
        )


@cause("leakage", question="generalization")
def find_leakage(evidence: Evidence) -> Iterator[Answer]:
    """Evaluation is better than training, beyond what dropout explains.

    What it sees:
        An evaluation loss below 0.6 times the training loss at most reviews of the second half.
    Fix:
        Look for rows that are in both sets, and for the target among the inputs.
    """
    pairs, shape = evidence.ask(read_pairs), describe_loss(evidence)
    if pairs is None or shape is None or not (pairs.train > 0).all() or not (pairs.evaluated >= 0).all():
        return
    ratios = (pairs.evaluated / pairs.train)[len(pairs.steps) // 2 :]
    ratio = float(np.median(ratios))
    if ratio < DROPOUT and pairs.train[-1] > MEMORIZED * shape.start:
        yield Cause(
            confidence=0.85 if ratio < 0.2 else 0.7,
            step=int(pairs.steps[len(pairs.steps) // 2]),
            evidence=(f"the evaluation loss is {ratio:.3g} times the training loss over {len(ratios)} reviews",),
            fix="look for rows in both sets: `set(map(hash, train_rows)) & set(map(hash, val_rows))`; split by group "
            "or by time, and look for the target among the inputs",
            alternative="strong augmentation or dropout in training alone; evaluate on training data in eval mode",
        )


@cause("collapse", question="generalization", detectors=("embedding-collapse",))
def find_collapse(evidence: Evidence) -> Iterator[Answer]:
    """A collapse that looks like success: the loss is low since all representations are the same.

    What it sees:
        A measure of diversity that fell below a tenth of its highest while the loss fell or rests low; or an accuracy
        that is at the end no better than at first while the loss fell to a twentieth; or a finding of
        embedding-collapse.
    Fix:
        A loss that keeps representations apart, a stop-gradient, a higher temperature.
    """
    shape = describe_loss(evidence)
    fix = (
        "keep representations apart: add a spread term (`trimtab.losses.compute_spread`, weight 0.05 to 1), check the "
        "stop-gradient, the learning rate × 0.3"
    )
    spread = evidence.review(*DIVERSITIES).finite
    if shape is not None and len(spread) >= LEAST_REVIEWS and shape.has_fallen:
        highest, newest = float(spread.values.max()), float(np.median(spread.values[-3:]))
        if newest < 0.1 * highest:
            step = int(spread.steps[np.flatnonzero(spread.values < 0.1 * highest)[0]])
            told = (
                f"the diversity fell from {highest:.3g} to {newest:.3g}, below a tenth at step {step}",
                f"the loss fell from {shape.start:.4g} to {shape.end:.4g} meanwhile",
            )
            yield Cause(confidence=0.85, step=step, evidence=told, fix=fix, state="fatal")
            return
        if not evidence.found_by("embedding-collapse"):
            yield Exclusion(f"the diversity is {newest:.3g}, {newest / highest:.0%} of its highest")
    accuracy = evidence.review(*ACCURACIES).finite
    if shape is not None and len(accuracy) >= LEAST_REVIEWS and shape.end < 0.05 * shape.start:
        first, newest = float(accuracy.values[0]), float(np.median(accuracy.values[-3:]))
        if newest <= first + 0.02 and newest < 0.6:
            told = (
                f"the loss fell from {shape.start:.4g} to {shape.end:.4g}",
                f"the accuracy was {first:.3g} at first and is {newest:.3g} at the end",
            )
            yield Cause(confidence=0.6, step=int(accuracy.steps[0]), evidence=told, fix=fix, state="fatal")
            return
    alternative = "an encoder that is still warming up"
    yield from tell_findings(evidence, "embedding-collapse", 0.8, fix, alternative, metric="embedding_r")
