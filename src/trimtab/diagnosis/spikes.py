"""The spikes of a loss curve: how high, whether they came down again, and what each is put down to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from trimtab.detectors.batch_repeat import is_all_there_is
from trimtab.diagnosis.bouts import OVERWRITTEN, find_bouts, tell_overwritten
from trimtab.diagnosis.causes import LONG_TAIL, RATE_STEPS, REPEAT_STEPS
from trimtab.diagnosis.curves import RateJump, find_rate_jumps
from trimtab.diagnosis.evidence import Evidence, Series
from trimtab.diagnosis.outliers import (
    ENDED,
    LEAST_WINDOW,
    PATIENCE,
    RECOVERED,
    WINDOW,
    group,
    is_step,
    roll,
    select_rows,
    split_settled,
)
from trimtab.diagnosis.tree import State
from trimtab.diagnosis.zeros import find_zeros

RAMP = 3.0
"""A rate that more than triples within 100 records, to where it never was, is a ramp too steep."""

RESTART_RECORDS = 100
"""Records after a schedule has started again in which a bump is what is expected of it."""


@dataclass(frozen=True, slots=True)
class Spike:
    """A spike of the loss."""

    step: int
    """The step at which it began."""

    last: int
    """The last step of it that stood out."""

    height: float
    """The highest loss."""

    level: float
    """The mean of the records before."""

    sigmas: float
    """How many of their standard deviations it rose above their mean."""

    recovered_at: int | None
    """The step at which it was back; None if it was not in time."""

    state: State
    """What became of it."""

    cause: str = ""
    """The cause it is put down to; empty for a bump that a schedule is expected to make."""

    seen: tuple[str, ...] = ()
    """What speaks for the cause."""

    excluded: Mapping[str, str] = field(default_factory=dict)
    """What speaks against others, by their names; of what was not measured, nothing does."""


def find_spikes(evidence: Evidence) -> tuple[Spike, ...]:
    """Every spike of the loss, each with its cause."""
    losses = evidence.metric("loss").finite
    if len(losses) <= LEAST_WINDOW or evidence.is_adversarial:
        return ()
    means, deviations = roll(losses.values)
    rows = select_rows(evidence, losses, means, deviations)
    means, deviations = _leave_out(losses.values, rows, means, deviations)
    limits = means + RECOVERED * deviations
    episodes = [part for episode in group(rows) for part in split_settled(losses.values, episode, limits)]
    found = [(_describe(evidence, losses, episode, means, deviations), episode) for episode in episodes]
    returns = {each.last for each in evidence.ask(find_zeros)} | set(evidence.loss_changes.tolist())
    steep = [
        each
        for each, episode in found
        if not returns & set(losses.steps[max(episode[0] - WINDOW, 0) : episode[0] + 1].tolist())
        if each.recovered_at is not None
        or each.state == "mended"
        or is_step(losses.values, episode[0], episode[-1])
        or _find_jump(evidence, losses, each, RATE_STEPS) is not None
    ]
    classified = (_classify(evidence, losses, each) for each in steep)
    return tuple(each for each in classified if each.cause)


def _leave_out(
    values: NDArray[np.float64], rows: list[int], means: NDArray[np.float64], deviations: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation before each spike without the spikes before it, which would hide it."""
    means, deviations = means.copy(), deviations.copy()
    is_calm = np.ones(len(values), dtype=np.bool_)
    for row in rows:
        span = slice(max(row - WINDOW, 0), row)
        calm = values[span][is_calm[span]]
        if not is_calm[span].all() and len(calm) >= LEAST_WINDOW:
            means[row], deviations[row] = calm.mean(), calm.std()
        is_calm[row] = False
    return means, deviations


def _describe(
    evidence: Evidence,
    losses: Series,
    episode: list[int],
    means: NDArray[np.float64],
    deviations: NDArray[np.float64],
) -> Spike:
    first, last = episode[0], episode[-1]
    mean, deviation = float(means[first]), float(deviations[first])
    limit = mean + RECOVERED * deviation
    after = losses.values[last + 1 : last + 1 + PATIENCE]
    back = np.flatnonzero(after <= limit)
    recovered = int(losses.steps[last + 1 + back[0]]) if back.size else None
    height = float(losses.values[first : last + 1].max())
    sigmas = (height - mean) / deviation if deviation > 0 else np.inf
    step, last_step = int(losses.steps[first]), int(losses.steps[last])
    rows = [int(losses.steps[row]) for row in episode]
    state = _judge_state(evidence, rows, losses.values[last + 1 :], limit, recovered)
    return Spike(step, last_step, height, mean, float(sigmas), recovered, state)


def _judge_state(
    evidence: Evidence, steps: list[int], after: NDArray[np.float64], limit: float, recovered: int | None
) -> State:
    if evidence.is_halted and steps[-1] >= evidence.last_step - PATIENCE and recovered is None:
        return "fatal"
    if all(evidence.was_answered(step) for step in steps):
        return "mended" if recovered is not None or not len(after) else "lasting"
    if recovered is not None:
        return "passed"
    if len(after) < ENDED:
        return "lasting"
    tail = after[-max(len(after) // 10, ENDED) :]
    return "fatal" if float(np.median(tail)) > limit else "lasting"


def _classify(evidence: Evidence, losses: Series, spike: Spike) -> Spike:
    """The spike with the cause that the evidence speaks for, and why it is none of the others."""
    excluded: dict[str, str] = {}
    note = evidence.note_at(spike.step, spike.last)
    jump = _find_jump(evidence, losses, spike, RATE_STEPS)
    restart = _find_jump(evidence, losses, spike, RESTART_RECORDS, of_restart=True)
    overwritten = _tell_overwritten(evidence, spike.step)
    if overwritten:
        return replace(spike, cause=OVERWRITTEN, seen=(overwritten,), excluded=excluded)
    if "moments are corrupted" in note:
        return replace(spike, cause="corrupted-moments", seen=(note,), excluded=excluded)
    if evidence.was_answered(spike.step):
        excluded["corrupted-moments"] = "the run looked at them then, and noted none"
    if jump is not None:
        told = f"the learning rate went from {jump.before:.3g} to {jump.after:.3g} at step {jump.step}"
        return replace(spike, cause="learning-rate-jump", seen=(told,), excluded=excluded)
    ramp = _tell_ramp(evidence, spike.step)
    if ramp:
        return replace(spike, cause="learning-rate-jump", seen=(ramp,), excluded=excluded)
    if restart is not None and spike.state != "fatal" and not evidence.was_answered(spike.step):
        return spike
    if len(evidence.metric("learning_rate")):
        excluded["learning-rate-jump"] = "the rate did not jump in the records before"
    repeat = _find_repeat(evidence, spike.step)
    if repeat is not None:
        told = f"the batch is that of step {repeat} again"
        return replace(spike, cause="duplicate-batch", seen=(told,), excluded=excluded)
    if len(evidence.metric("batch_fingerprint")):
        excluded["duplicate-batch"] = "the batch was not there before"
    times = _measure_gradient(evidence, spike.step)
    if times > LONG_TAIL:
        told = f"its gradient norm is {times:.3g} times its mean"
        return replace(spike, cause="long-tail-batch", seen=(told,), excluded=excluded)
    if isfinite(times):
        excluded["long-tail-batch"] = f"its gradient norm is {times:.3g} times its mean"
    if _went_on_after_rollback(evidence, spike):
        told = "it went on after the weights were set back to before it, and was over at once later"
        return replace(spike, cause="bad-batches", seen=(told,), excluded=excluded)
    if spike.recovered_at is None:
        return replace(spike, cause="persistent-spike", excluded=excluded)
    excluded["persistent-spike"] = f"the loss was back at step {spike.recovered_at}"
    return replace(spike, cause="loss-spike", excluded=excluded)


def _tell_overwritten(evidence: Evidence, step: int) -> str:
    """How the weights of a group had jumped when a spike began; empty if they had not."""
    found = [each for each in evidence.found_by("weight-jump") if step - 1 <= each.step <= step]
    bouts = [each for each in evidence.ask(find_bouts) if each.cause == OVERWRITTEN]
    near = [each for each in bouts if step - 1 <= each.first <= step]
    return found[0].message if found else tell_overwritten(evidence, near[0]) if near else ""


def _find_jump(evidence: Evidence, losses: Series, spike: Spike, num: int, of_restart: bool = False) -> RateJump | None:
    row = int(np.searchsorted(losses.steps, spike.step))
    first = int(losses.steps[max(row - num, 0)])
    jumps = [each for each in evidence.ask(find_rate_jumps) if first <= each.step <= spike.step]
    return next((each for each in reversed(jumps) if each.is_restart == of_restart), None)


def _tell_ramp(evidence: Evidence, step: int) -> str:
    """How the rate has risen in the records before a step to where it had never been; empty if it has not."""
    rates = evidence.metric("learning_rate").finite
    before, now = rates.newest_before(step, WINDOW).values, rates.at(step)
    highest = rates.between(0, step - 1).values.max(initial=0.0)
    if len(before) < WINDOW or now < highest or not now > RAMP * before[0] > 0:
        return ""
    return f"the learning rate has risen from {before[0]:.3g} to {now:.3g} within {WINDOW} records"


def _find_repeat(evidence: Evidence, step: int) -> int | None:
    prints = evidence.metric("batch_fingerprint").finite
    before = prints.newest_before(step, REPEAT_STEPS)
    now = prints.at(step)
    rows = np.flatnonzero(before.values == now)
    if not isfinite(now) or not rows.size or is_all_there_is(before.values):
        return None
    return int(before.steps[rows[-1]])


def _measure_gradient(evidence: Evidence, step: int) -> float:
    """The gradient norm at a step in multiples of its mean before; NaN where it is not known."""
    norms = evidence.metric("grad_norm").finite
    before = norms.newest_before(step, WINDOW).values
    mean = float(before.mean()) if len(before) >= LEAST_WINDOW else 0.0
    return norms.at(step) / mean if mean > 0 else float("nan")


def _went_on_after_rollback(evidence: Evidence, spike: Spike) -> bool:
    taken = [(action.step, action.verdict) for _, action in evidence.decided if spike.step <= action.step <= spike.last]
    backs = [step for step, verdict in taken if verdict in ("rollback", "reload")]
    return bool(backs) and spike.recovered_at is not None and sum(step > backs[0] for step, _ in taken) >= 2
