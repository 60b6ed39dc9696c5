"""Is a number NaN or infinite? Where the first one was, in which precision, and what came before."""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.diagnosis.advice import advise_clipping, advise_going_back, ask_for_rerun
from trimtab.diagnosis.bouts import LARGEST, OVERWRITTEN, VERDICTS, WINDOW, Bout, find_bouts, list_bad
from trimtab.diagnosis.curves import find_rate_jumps
from trimtab.diagnosis.evidence import Evidence
from trimtab.diagnosis.tree import REMEDIES, Answer, Cause, Exclusion, Unmeasured, cause
from trimtab.diagnosis.weights import HALF

FLOAT16_MAX = 65504.0
"""The largest float16, from IEEE 754."""

BEGINS = "it begins here: "
"""What a note says before the first operation that is not finite, and the advice for it."""

NEEDED = {"weights-not-finite": "weight_norm", "gradient-not-finite": "grad_norm"}
"""The metric without which a cause cannot be ruled out."""

FIND = "find the operation: `print(trimtab.locate_nonfinite(model, batch, compute_loss))`"

SEEN_AGAIN = 0.1
"""What a batch that showed the fault again adds to the confidence."""


def _tell(evidence: Evidence, bout: Bout) -> tuple[str, ...]:
    """What is known of a bout, in sentences."""
    groups = f" in {', '.join(bout.groups[:4])}" if bout.groups and bout.where != "loss" else ""
    told = [f"the {bout.where} was the first that was not finite, at step {bout.first}{groups}"]
    told.append(
        f"{bout.num} records from step {bout.first} to {bout.last} are not finite"
        if bout.num > 1
        else "it is the only one"
    )
    before = evidence.metric("loss").finite.newest_before(bout.first, 1)
    if len(before):
        told.append(f"the last finite loss before was {before.values[-1]:.4g} at step {int(before.steps[-1])}")
    told += [bout.rise] if bout.rise else []
    told += [f"precision: {evidence.regime or 'not known'}"]
    note, begins, located = bout.note.partition(BEGINS)
    told += [part for part in note.split("; ") if part]
    return (*told, *([f"{begins}{located.partition('; ')[0]}"] if begins else []))


def _answer(
    evidence: Evidence, name: str, confidence: float, fix: str, alternative: str = "", seen: tuple[str, ...] = ()
) -> Iterator[Answer]:
    """The cause with the bout it explains, the gravest or else the first; or what speaks against it."""
    bouts = [each for each in evidence.ask(find_bouts) if each.cause != OVERWRITTEN]
    mine = sorted((each for each in bouts if each.cause == name), key=lambda each: each.state != "fatal")
    if mine:
        bout = mine[0]
        more = (f"it happened {len(mine)} times",) if len(mine) > 1 else ()
        located = bout.note.partition(BEGINS)[2]
        advice = located.partition("; ")[2]
        is_rerun = any(f"{verdict}:" in bout.note for verdict in VERDICTS) and name != "transient-fault"
        if advice:
            fix = advice if fix.startswith(FIND) else f"{advice}; {fix}"
        back = "" if bout.state == "mended" else f"; go on from a checkpoint before step {bout.first}"
        yield Cause(
            confidence=min(confidence + 0.05 * bool(located) + SEEN_AGAIN * is_rerun, 0.99),
            step=bout.first,
            evidence=(*_tell(evidence, bout), *seen, *more),
            fix=fix + back,
            state=bout.state,
            alternative="" if is_rerun else alternative,
        )
    elif bouts:
        yield _tell_why_not(evidence, name, bouts[0])


def _tell_why_not(evidence: Evidence, name: str, bout: Bout) -> Exclusion | Unmeasured:
    """What speaks against a cause for a bout that is put down to another, or what was not measured to say so."""
    if name == "explosion":
        return Exclusion("neither loss nor gradient norm had risen before")
    if name.endswith("-overflow"):
        return _tell_why_no_overflow(evidence, name.removesuffix("-overflow"), bout)
    if name in ("batch-not-finite", "transient-fault"):
        if BEGINS not in bout.note and not any(f"{verdict}:" in bout.note for verdict in VERDICTS):
            return ask_for_rerun(evidence)
        is_batch = name == "batch-not-finite"
        return Exclusion(
            "the batch was looked at again, and was finite" if is_batch else "it came again with the batch"
        )
    metric = NEEDED.get(name)
    if metric is not None and not len(evidence.metric(metric)):
        return Unmeasured(metric, REMEDIES[metric])
    if name.startswith(bout.where):
        return Exclusion(bout.rise or f"{bout.cause} comes before it")
    return Exclusion(f"the {bout.where} was the first that was not finite, at step {bout.first}")


def _tell_why_no_overflow(evidence: Evidence, dtype: str, bout: Bout) -> Exclusion | Unmeasured:
    """What speaks against an overflow of a precision. Weights in float32 do not: autocast leaves them so."""
    if "structural:" in bout.note:
        return Exclusion("the batch computed again in float32 shows it too")
    if evidence.regime == dtype:
        return Exclusion(bout.rise or f"the {bout.where} was the first that was not finite")
    if BEGINS in bout.note and LARGEST not in bout.note:
        return Exclusion("the operation that it begins in was found, and is no overflow")
    if evidence.regime == "float32":
        return Exclusion("weights in float32, and no loss scale") if dtype == "float16" else ask_for_rerun(evidence)
    if evidence.regime:
        return Exclusion(f"the precision is {evidence.regime}")
    return Unmeasured("precision", "record `scaler.get_scale()`; a run folder of Trimtab's has the precision")


@cause("batch-not-finite", question="nonfinite")
def find_bad_batch(evidence: Evidence) -> Iterator[Answer]:
    """A batch held NaN or infinity before the model saw it.

    What it sees:
        What the run noted when it looked at the batch once more.
    Fix:
        Clean the data where it is loaded; a masked output still leaves NaN in the gradient.
    """
    yield from _answer(
        evidence,
        "batch-not-finite",
        0.95,
        "find such rows where the data is loaded: `assert torch.isfinite(x).all()` in the dataset",
    )


@cause("transient-fault", question="nonfinite")
def find_transient_fault(evidence: Evidence) -> Iterator[Answer]:
    """A number was not finite that is finite when it is computed again.

    What it sees:
        The verdict of computing the batch again: transient.
    Fix:
        Test the hardware; look for a race between streams or processes.
    """
    yield from _answer(
        evidence,
        "transient-fault",
        0.85 if evidence.regime not in HALF else 0.6,
        "test the memory and the accelerator of this machine, and look for a race; code and data are not at fault",
        ""
        if len(evidence.metric("loss_scale"))
        else "an overflow, if autocast is around `compute_loss` and not within "
        "it, since without a loss scaler the batch is computed again without it; put it within",
    )


@cause("explosion", question="nonfinite")
def find_explosion(evidence: Evidence) -> Iterator[Answer]:
    """The training exploded, and the overflow came last.

    What it sees:
        In the 20 records before the first non-finite number the loss rose above 3 times its level, or the gradient
        norm above 30 times.
    Fix:
        Half the learning rate, clip at 1.0, and begin before the rise; the overflow itself is no fault of precision.
    """
    jumps = [each for each in evidence.ask(find_rate_jumps) if not each.is_restart]
    bouts = [each for each in evidence.ask(find_bouts) if each.cause == "explosion"]
    near = [each for each in jumps if bouts and bouts[0].first - WINDOW <= each.step <= bouts[0].first]
    seen = tuple(
        f"the learning rate went from {each.before:.3g} to {each.after:.3g} at step {each.step}" for each in near[-1:]
    )
    rate = f"set the learning rate back to {near[-1].before:.3g}" if near else "halve the learning rate"
    clipping = advise_clipping(evidence)
    yield from _answer(
        evidence,
        "explosion",
        0.9,
        f"{rate} and {clipping}",
        "" if near else "data beyond anything seen before; look at the batches of the steps before",
        seen,
    )


@cause("weights-not-finite", question="nonfinite")
def find_bad_weights(evidence: Evidence) -> Iterator[Answer]:
    """The weights themselves were not finite before anything was computed from them.

    What it sees:
        A weight norm that is not finite at the first step with any non-finite number.
    Fix:
        No batch can mend a weight: go back to a snapshot or checkpoint.
    """
    ladder = 'nonfinite = {ladder = ["skip", "rollback+repair", "halt"]}'
    bouts = [each for each in evidence.ask(find_bouts) if each.cause == "weights-not-finite"]
    back = advise_going_back(evidence, bouts[0].first, bouts[0].last, ladder) if bouts else ""
    yield from _answer(
        evidence,
        "weights-not-finite",
        0.9,
        f"{back}find what wrote it: the update of the step before, something that writes in place, failing memory",
        "an update with a non-finite gradient in the step before, which was not looked at",
    )


@cause("float16-overflow", question="nonfinite")
def find_float16_overflow(evidence: Evidence) -> Iterator[Answer]:
    """A forward pass in float16 went beyond 65504.

    What it sees:
        A loss that is not finite in a float16 run that had not exploded.
    Fix:
        Train in bfloat16, or keep the layer that overflows in float32.
    """
    yield from _answer(
        evidence,
        "float16-overflow",
        0.8,
        f"keep numbers below {FLOAT16_MAX:.0f}, the largest float16: `torch.autocast(device, torch.bfloat16)` needs no "
        "such care; or compute the part that overflows and the loss in float32",
        "the logarithm of 0 or 0/0 in the loss, which overflows in every precision; compute the batch in float32",
    )
    if any(each.cause == "float16-overflow" and not each.note for each in evidence.ask(find_bouts)):
        yield ask_for_rerun(evidence)


@cause("bfloat16-overflow", question="nonfinite")
def find_bfloat16_overflow(evidence: Evidence) -> Iterator[Answer]:
    """A bfloat16 run met a number that is not finite, without an explosion.

    What it sees:
        A loss or gradient that is not finite in a bfloat16 run. It overflows near 3e38 only, as float32 does, so a
        true overflow is rare; with 8 significant bits small differences become 0, and 0 in a division or logarithm
        is the usual reason.
    Fix:
        Compute the loss in float32, with an epsilon that bfloat16 can hold.
    """
    yield from _answer(
        evidence,
        "bfloat16-overflow",
        0.7,
        "compute the loss in float32: `loss = loss_fn(model(x).float(), y)`, and use epsilons of 1e-5 or more",
        "the logarithm of 0 or 0/0 in the loss; compute the batch in float32 to tell",
    )


@cause("gradient-not-finite", question="nonfinite")
def find_bad_gradient(evidence: Evidence) -> Iterator[Answer]:
    """The gradient was not finite though the loss was.

    What it sees:
        A gradient norm that is not finite at a finite loss, in float32 or without a loss scale.
    Fix:
        Find the operation: the slope of a square root, norm or logarithm at 0, or a masked NaN in a `where`.
    """
    yield from _answer(
        evidence,
        "gradient-not-finite",
        0.8 if evidence.regime else 0.65,
        f"{FIND}; usual ones are the slope of sqrt, norm or log at 0: add an epsilon inside, `torch.sqrt(x + 1e-8)`",
        "" if evidence.regime else "overflows of a loss scaler in float16, which are routine; record the loss scale",
    )


@cause("loss-not-finite", question="nonfinite")
def find_bad_loss(evidence: Evidence) -> Iterator[Answer]:
    """The loss was not finite, out of a clear sky.

    What it sees:
        A loss that is not finite though neither it nor the gradients had risen, and the weights were finite. In
        float32 that is usually the logarithm of 0 or 0/0 in the loss.
    Fix:
        Find the operation, and use its stable form.
    """
    yield from _answer(
        evidence,
        "loss-not-finite",
        0.85 if evidence.regime == "float32" else 0.75,
        f"{FIND}; usual ones are the log of 0 and 0/0: "
        "use log_softmax or `F.cross_entropy` on logits, divide by `count.clamp(min=1)`",
        "a batch with NaN in it; `assert torch.isfinite(x).all()` in the dataset tells",
    )


@cause("review-not-finite", question="nonfinite")
def find_bad_review(evidence: Evidence) -> Iterator[Answer]:
    """A reviewed metric is not finite though the training is.

    What it sees:
        NaN or infinity in a metric of a review, with finite losses around it.
    Fix:
        Look at the evaluation data and at statistics that only evaluation uses, such as BatchNorm's running ones.
    """
    if evidence.ask(find_bouts):
        return
    for name, series in evidence.reviews.items():
        bad = list_bad(series)
        if len(bad):
            yield Cause(
                confidence=0.75,
                step=int(bad[0]),
                evidence=(f"{name} is not finite at {len(bad)} of {len(series)} reviews, first at step {int(bad[0])}",),
                fix="look at the evaluation data, at empty batches in its mean, and at BatchNorm's running statistics: "
                "`[name for name, b in model.named_buffers() if not b.isfinite().all()]`",
            )
            return
