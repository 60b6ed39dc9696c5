"""Did it diverge in silence? A rise that no single step gives away, and what rose beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from trimtab.detectors.silent_divergence import NORM_RISE, RATE_RISE
from trimtab.diagnosis.advice import advise_clipping
from trimtab.diagnosis.curves import SURE, describe_loss, find_rate_jumps, find_swing, median_between
from trimtab.diagnosis.evidence import Evidence
from trimtab.diagnosis.tree import Answer, Cause, Exclusion, State, Unmeasured, cause

LEAST_RISE = 0.05
"""The share of the level, or of what was learned, below which a rise is not worth a word."""

GRAVE = 0.3
"""The share of what was learned that is lost again where a run has diverged."""

GRAVE_TIMES = 1.5
"""Or how many times its lowest level the loss is at the end."""

WEIGHT_RISE = 1.5
"""How far a weight norm has to rise along with the loss to be its reason."""

SAME_WEIGHT = 1.2
"""Weight norms within so much of each other have not moved."""


@dataclass(frozen=True, slots=True)
class Rise:
    """A loss that rose from its lowest level to the end of the run."""

    step: int
    """The step from which on it rose."""

    last: int
    """The last step."""

    lowest: float
    """The lowest level."""

    end: float
    """The level at the end."""

    share: float
    """How much of what had been learned is lost, from 0 up; infinite where nothing had been."""

    rate: float
    """How many times higher the learning rate is than at the lowest level; NaN where it is not known."""

    norm: float
    """The same of the gradient norm."""

    weight: float
    """The same of the weight norm."""

    state: State
    """Whether it has lost so much that the run is worth nothing."""


def find_rise(evidence: Evidence) -> Rise | None:
    """The rise of the loss to the end of the run; None where it ends at its lowest, but for noise."""
    shape = describe_loss(evidence)
    if shape is None or evidence.is_adversarial:
        return None
    best, end = shape.best, shape.end
    rise, reach = end - shape.lowest, shape.reach
    least = max((SURE + 2) * shape.level_noise, LEAST_RISE * max(abs(shape.lowest), reach))
    is_alone = best == len(shape.levels) - 2 and rise < GRAVE * reach
    if best == len(shape.levels) - 1 or rise <= least or is_alone or _is_expected(evidence, int(shape.starts[best])):
        return None
    first, last = int(shape.starts[min(best + 1, len(shape.starts) - 1)]), int(evidence.loss.steps[-1])
    share = rise / reach if reach > 0 else float("inf")
    is_grave = share >= GRAVE or (shape.lowest > 0 and end >= GRAVE_TIMES * shape.lowest)
    edges = (int(shape.starts[best]), first, int(shape.starts[-1]), last)
    rate, norm, weight = (_compare(evidence, name, edges) for name in ("learning_rate", "grad_norm", "weight_norm"))
    return Rise(first, last, shape.lowest, end, share, rate, norm, weight, "fatal" if is_grave else "lasting")


def _compare(evidence: Evidence, name: str, edges: tuple[int, int, int, int]) -> float:
    """How many times higher a metric is at the end than at the lowest level of the loss; NaN where it is not known."""
    series = evidence.metric(name)
    if series.values.ndim > 1:
        series = type(series)(series.steps, np.linalg.norm(series.values, axis=1))
    before, after = median_between(series, *edges[:2]), median_between(series, *edges[2:])
    return after / before if before > 0 else float("nan")


def _is_expected(evidence: Evidence, since: int) -> bool:
    """True where the schedule started again after a step: the bump is what it is expected to make."""
    restarts = [each for each in evidence.ask(find_rate_jumps) if each.is_restart and each.step >= since]
    return bool(restarts)


def _tell(rise: Rise) -> tuple[str, ...]:
    told = [f"the loss rose from {rise.lowest:.4g} at step {rise.step} to {rise.end:.4g} at step {rise.last}"]
    names = {"learning rate": rise.rate, "gradient norm": rise.norm, "weight norm": rise.weight}
    told += [f"the {name} is {times:.3g} times what it was" for name, times in names.items() if np.isfinite(times)]
    return tuple(told)


@cause("learning-rate-too-high", question="divergence")
def find_high_rate(evidence: Evidence) -> Iterator[Answer]:
    """The learning rate was too high, and the training came apart.

    What it sees:
        A loss that falls, then rises for good, with a learning rate that rose by 1.3 times or more meanwhile, or a
        gradient norm that rose by 3 times or more.
    Fix:
        The rate × 0.5 (× 0.1 where it exploded), and clipping.
    """
    rise = evidence.ask(find_rise)
    if rise is None:
        return
    if not (rise.rate >= RATE_RISE or rise.norm >= NORM_RISE):
        yield Exclusion(f"learning rate × {rise.rate:.3g}, gradient norm × {rise.norm:.3g} since the loss rises")
        return
    clipping = advise_clipping(evidence)
    factor = 0.1 if rise.rate >= 3 or rise.share > 1 else 0.5
    yield Cause(
        confidence=0.85 if rise.rate >= RATE_RISE else 0.75,
        step=rise.step,
        evidence=_tell(rise),
        fix=f"the learning rate × {factor:g} from a checkpoint before step {rise.step}, and {clipping}",
        state=rise.state,
        alternative="a change of the data at that step, if the rate × 0.1 changes nothing",
    )


@cause("weight-growth", question="divergence")
def find_weight_growth(evidence: Evidence) -> Iterator[Answer]:
    """The weights grow without an end, and the loss with them.

    What it sees:
        A loss that rises for good while the weight norm grew by 1.5 times or more and the gradient norm by less.
    Fix:
        Weight decay, and a lower rate.
    """
    rise = evidence.ask(find_rise)
    if rise is None:
        return
    if not rise.weight >= WEIGHT_RISE:
        yield Exclusion(f"weight norm × {rise.weight:.3g} since the loss rises")
        return
    yield Cause(
        confidence=0.8 if not rise.norm >= NORM_RISE else 0.6,
        step=rise.step,
        evidence=_tell(rise),
        fix="`torch.optim.AdamW(parameters, lr, weight_decay=0.1)`, and the learning rate × 0.5",
        state=rise.state,
        alternative="a learning rate too high",
    )


@cause("data-shift", question="divergence")
def find_data_shift(evidence: Evidence) -> Iterator[Answer]:
    """The data changed: the loss rises while the training itself does not.

    What it sees:
        A loss that rises for good with a learning rate, a gradient norm and a weight norm that did not.
    Fix:
        Shuffle; look at what the loader gives from that step on.
    """
    rise = evidence.ask(find_rise)
    if rise is None:
        return
    is_steady = rise.norm < NORM_RISE and not rise.rate >= RATE_RISE and not rise.weight > SAME_WEIGHT
    if not is_steady:
        yield Exclusion(f"gradient norm × {rise.norm:.3g}, weight norm × {rise.weight:.3g} since the loss rises")
        return
    yield Cause(
        confidence=0.6,
        step=rise.step,
        evidence=_tell(rise),
        fix=f"look at what the loader gives from step {rise.step} on, and shuffle: `DataLoader(data, shuffle=True)`",
        state=rise.state,
        alternative="an optimizer that drifts; a run with the learning rate × 0.1 from there on tells",
    )


@cause("silent-divergence", question="divergence")
def find_silent_divergence(evidence: Evidence) -> Iterator[Answer]:
    """The loss rises for good, and what was measured does not say why.

    What it sees:
        A level at the end well above the lowest of the run: by more than 8 standard errors and 5 %. A run that has
        lost 30 % of what it had learned has failed.
    Fix:
        The rate × 0.5 from a checkpoint at the lowest level.
    """
    rise = evidence.ask(find_rise)
    if rise is None:
        return
    yield Cause(
        confidence=0.5,
        step=rise.step,
        evidence=_tell(rise),
        fix=f"the learning rate × 0.5 from a checkpoint before step {rise.step}",
        state=rise.state,
        alternative="a change of the data at that step",
    )
    for metric, times in (("learning_rate", rise.rate), ("grad_norm", rise.norm), ("weight_norm", rise.weight)):
        if not np.isfinite(times):
            yield Unmeasured(metric, "`supervisor.check(loss)` measures it; or record it beside the loss")


@cause("oscillating-loss", question="divergence")
def find_oscillation(evidence: Evidence) -> Iterator[Answer]:
    """The loss swings to and fro from one step to the next.

    What it sees:
        Successive losses of the second half with a correlation below -0.4 about their trend, and swings of more than
        a fifth of the level: at the edge of stability each step overshoots.
    Fix:
        The rate × 0.5.
    """
    swing = evidence.ask(find_swing)
    if swing is not None and not evidence.is_adversarial:
        yield Cause(
            confidence=0.7,
            step=swing.step,
            evidence=(
                f"successive losses have a correlation of {swing.correlation:.2f} over {swing.num} records, and "
                f"swing by {swing.width:.3g} about {swing.level:.4g}",
            ),
            fix="the learning rate × 0.5; for SGD with momentum, momentum 0.9 in place of more",
            alternative="batches of two kinds in turns; shuffle them",
        )


@cause("halted", question="divergence")
def find_halt(evidence: Evidence) -> Iterator[Answer]:
    """The supervisor ended the run, for a reason that is none of the other causes.

    What it sees:
        The end of the run, halted, and its last decision.
    """
    if evidence.is_halted and evidence.decided:
        decision, action = evidence.decided[-1]
        yield Cause(
            confidence=0.5,
            step=decision.step,
            evidence=(decision.reason, *([action.note] if action.note else [])),
            fix="look at the findings before it, and go on from the newest checkpoint: `trimtab.fit(..., resume=True)`",
            state="fatal",
        )
