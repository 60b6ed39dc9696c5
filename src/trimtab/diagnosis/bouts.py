"""Bouts of numbers that are not finite: where each began, what became of it, and what it is put down to."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from trimtab.diagnosis.evidence import Evidence, Series
from trimtab.diagnosis.tree import State

APART = 20
"""Records without a non-finite number after which another one is another matter."""

WINDOW = 100
"""Records that the level before is taken from."""

NEWEST = 20
"""Records before the first non-finite number in which an explosion shows."""

EXPLODED_LOSS, EXPLODED_NORM = 3.0, 30.0
"""How many times its level a loss or a gradient norm is before it overflows where the training has exploded."""

LEAST_EARLY, EARLY_NEWEST, EXPLODED_EARLY = 3, 2, 30.0
"""The same of a run that has no level yet: records it takes, the newest that are looked at, times the first record."""

MOST_OVERFLOWS = 4
"""Gradients in a row that are not finite, under a loss scaler and with a finite loss, that are left to it."""


LARGEST = "the largest float16"
"""What a note says of an operation that overflows in float16, whatever the precision of the weights."""

OVERWRITTEN = "corrupted-weights"
"""The cause of a weight norm that is infinite at once while the loss is still a number."""

VERDICTS = ("transient", "persistent", "structural", "precision")
"""What a rerun of a batch may have found."""

METRICS = {"weight": "weight_norm", "gradient": "grad_norm"}
"""How the metrics end in whose findings the groups of a bout are named."""


@dataclass(frozen=True, slots=True)
class Bout:
    """A stretch of records with numbers that are not finite."""

    first: int
    """The step of the first."""

    last: int
    """The step of the last."""

    num: int
    """How many records."""

    where: str
    """What was not finite first: weight, loss, activation or gradient."""

    groups: tuple[str, ...]
    """The parameter groups it was in, where that is known."""

    state: State
    """What became of it."""

    note: str
    """What was noted when it was found."""

    rise: str
    """How loss or gradients had exploded before; empty if they had not."""

    cause: str = ""
    """The cause it is put down to."""


def find_bouts(evidence: Evidence) -> tuple[Bout, ...]:
    """Every stretch of numbers that are not finite and not the business of a loss scaler, each with its cause."""
    bad = {
        "weight": list_bad(evidence.metric("weight_norm")),
        "loss": list_bad(evidence.metric("loss")),
        "activation": list_bad(evidence.metric("activation_max", "activation_norm")),
        "gradient": _list_bad_gradients(evidence),
    }
    steps = np.unique(np.concatenate(list(bad.values())))
    if not len(steps):
        return ()
    recorded = evidence.metric("loss", "grad_norm").steps
    rows = np.searchsorted(recorded, steps)
    ends = np.flatnonzero(np.diff(rows) > APART)
    firsts, lasts = np.append(0, ends + 1), np.append(ends, len(steps) - 1)
    return tuple(
        _describe_bout(evidence, steps[first : last + 1], bad)
        for first, last in list(zip(firsts.tolist(), lasts.tolist(), strict=True))[:100]
    )


def list_bad(series: Series) -> NDArray[np.int64]:
    """The steps at which a metric is not finite, in any group."""
    is_bad = ~np.isfinite(series.values)
    return series.steps[is_bad if is_bad.ndim == 1 else is_bad.any(axis=1)]


def _list_bad_gradients(evidence: Evidence) -> NDArray[np.int64]:
    """Where gradients are not finite, without the overflows with a finite loss that a scaler calibrates itself by."""
    steps = list_bad(evidence.metric("grad_norm"))
    if evidence.regime != "float16" or not len(steps):
        return steps
    losses = evidence.metric("loss").look_up(steps)
    return steps[~np.isfinite(losses)] if len(evidence.metric("loss")) else steps[:0]


def _describe_bout(evidence: Evidence, steps: NDArray[np.int64], bad: dict[str, NDArray[np.int64]]) -> Bout:
    first, last = int(steps[0]), int(steps[-1])
    where = next(name for name, each in bad.items() if first in each)
    found = [each for each in evidence.found_by("nonfinite") if each.step == first]
    mine = [each for each in found if each.metric.endswith(METRICS.get(where, where))]
    groups = tuple(dict.fromkeys(group for each in mine for group in each.groups))
    note = evidence.note_at(first, last)
    rise = _tell_rise(evidence, first)
    bout = Bout(first, last, len(steps), where, groups, _judge_state(evidence, steps), note, rise)
    return replace(bout, cause=_choose(evidence, bout))


def _judge_state(evidence: Evidence, steps: NDArray[np.int64]) -> State:
    last = int(steps[-1])
    recorded = evidence.metric("loss", "grad_norm").steps
    is_at_end = not len(recorded) or last >= recorded[-1]
    if evidence.is_halted and last >= evidence.last_step - APART:
        return "fatal"
    is_answered = all(evidence.was_answered(step) for step in steps[:50].tolist())
    if is_answered and not (is_at_end and len(steps) > APART):
        return "mended"
    return "fatal" if is_at_end else "lasting"


def _tell_rise(evidence: Evidence, step: int) -> str:
    """How loss or gradient norm had risen in the records before a step; empty if they had not."""
    for name, times in (("loss", EXPLODED_LOSS), ("grad_norm", EXPLODED_NORM)):
        before = evidence.metric(name).finite.newest_before(step, WINDOW + NEWEST)
        if len(before) < 2 * NEWEST:
            if told := _tell_early_rise(name, before):
                return told
            continue
        level = float(np.median(before.values[:-NEWEST]))
        newest = before.values[-NEWEST:]
        reached = float(np.median(newest[-3:]))
        if level > 0 and reached > times * level:
            return f"{name} had risen to {reached / level:.3g} times its level ({level:.4g}) in the records before"
    return ""


def _tell_early_rise(name: str, before: Series) -> str:
    """How a metric had risen from the first record on, in a run that is too young to have a level."""
    if len(before) < LEAST_EARLY:
        return ""
    first, reached = float(before.values[0]), float(np.median(before.values[-EARLY_NEWEST:]))
    if first > 0 and reached > EXPLODED_EARLY * first:
        return (
            f"{name} had risen from {first:.4g} at step {int(before.steps[0])} to {reached:.4g} in the records before"
        )
    return ""


def _is_overwritten(evidence: Evidence, step: int) -> bool:
    """True if a norm became infinite, not NaN, from a number one record before, while the loss was no NaN."""
    norms = evidence.metric("weight_norm")
    before = norms.newest_before(step, 1).values
    now = norms.between(step, step).values
    is_sudden = bool(len(before)) and bool(np.isfinite(before).all()) and not np.isnan(now).any()
    return is_sudden and len(evidence.metric("loss")) > 0 and not np.isnan(evidence.metric("loss").at(step))


def tell_overwritten(evidence: Evidence, bout: Bout) -> str:
    """What a norm was before a weight was overwritten, and that it need not be infinite to count as such."""
    norms = evidence.metric("weight_norm")
    now, before = (
        np.atleast_1d(each.values[-1])
        for each in (norms.between(bout.first, bout.first), norms.newest_before(bout.first, 1))
    )
    group = int(np.argmax(~np.isfinite(now)))
    name = evidence.groups[group] if group < len(evidence.groups) and now.size > 1 else "the model"
    return (
        f"the weight norm of {name} was {before[group]:.4g} and is infinite at step {bout.first}, as where a "
        "weight is infinite or above 1e19, whose square is beyond float32"
    )


def _choose(evidence: Evidence, bout: Bout) -> str:
    """The cause that a bout is put down to: what was seen of the batch, then what came before, then where."""
    if "the batch was not finite" in bout.note:
        return "batch-not-finite"
    if "transient:" in bout.note:
        return "transient-fault"
    if bout.rise:
        return "explosion"
    if "precision:" in bout.note and LARGEST in bout.note:
        return "float16-overflow"
    if bout.where == "weight" and not bout.note and _is_overwritten(evidence, bout.first):
        return OVERWRITTEN
    if bout.where == "weight":
        return "weights-not-finite"
    if "structural:" not in bout.note and evidence.regime in ("float16", "bfloat16"):
        return f"{evidence.regime}-overflow"
    return "gradient-not-finite" if bout.where == "gradient" else "loss-not-finite"
