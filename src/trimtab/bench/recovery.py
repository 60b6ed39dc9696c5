"""The recovery benchmark: what a destabilizing update costs, by what is done about it.

The protocol is that of arXiv 2601.17483: two workloads, AdamW, 250 steps, gradients multiplied by 300 for 10 steps.
The learning rate rises over the first tenth of the steps and falls to 0 along a cosine, so that the final losses of
two healthy runs differ little. Weights, batches and windows are a seed's, so every run has a clean twin: the same run
without fault, clipping and supervisor.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from trimtab.bench.contestants import contestants
from trimtab.bench.contestants.supervised import build_algorithm_1, supervise
from trimtab.bench.training import (
    Guard,
    Judgement,
    Recipe,
    Training,
    build_training,
    make_measure,
    train as train_guarded,
)
from trimtab.faults import Injection, inject, make_generator

FAULT = "scaled-gradient"
FIXED_STEP = 120
RANDOM_STEPS = (40, 200)  # where a window at random begins, both ends included
NUM_FOLLOWED = 64  # held-out samples that tell when a run has returned
RETURNED = 1.05  # of the clean run's loss at the same step
STAYS_RETURNED = 10  # steps, or to the end
SAME_LOSS = 0.01  # above the clean run's final loss, as a share of it

WINDOWS = ("fixed", "random")
"""Where the fault begins: at step 120, or at a step the seed draws."""


WORKLOADS = ("images", "characters")
"""The two of the paper."""

CONTESTANTS = ("none", "clipping", "algorithm-1", "default")
"""Who is compared: nobody, routine clipping alone, Algorithm 1 at its best, and the default policy with a probe."""

SUPERVISED = ("algorithm-1", "default")
"""The contestants that routine clipping can be added to."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """What has to be set for Algorithm 1, of which its paper's abstract gives no value."""

    epsilon: float
    """By how much the probe's loss may exceed its mean."""

    alpha: float
    """The weight of the newest accepted loss in that mean."""


TUNED: Mapping[str, Tuning] = {"images": Tuning(0.02, 0.1), "characters": Tuning(0.02, 0.05)}
"""Algorithm 1 at its best: of the pairs below the one with the lowest median final loss over seeds 100 to 104 and both
windows, without clipping, as `python benchmarks/recovery.py --tune` finds it. Both have the smallest epsilon: the less
it accepts, the less the fault does, and the more is rejected without one."""

EPSILONS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
ALPHAS = (0.05, 0.1, 0.3)


@dataclass(frozen=True, slots=True)
class Case:
    """What is run."""

    workload: str
    """A name of `WORKLOADS`."""

    contestant: str
    """A name of `CONTESTANTS`."""

    window: str | None
    """One of `WINDOWS`; None for a run without fault."""

    clip_norm: float | None
    """The limit of the routine clipping of supervised contestants; None for none."""

    seed: int
    """The seed of weights, batches and window."""

    @property
    def twin(self) -> Case:
        """The clean run it is measured against."""
        return Case(self.workload, "none", None, None, self.seed)

    @property
    def fault_step(self) -> int | None:
        """The first step of the fault; None for a run without."""
        if self.window != "random":
            return None if self.window is None else FIXED_STEP
        first, last = RANDOM_STEPS
        return int(torch.randint(first, last + 1, (), generator=make_generator(f"window {self.seed}")))


@dataclass(frozen=True, slots=True)
class Trace:
    """What was seen of a run, from outside; a loss of a broken model is infinite."""

    first_step: int
    """The step from which on the losses below are known."""

    probe_losses: tuple[float, ...]
    """The loss of the probed samples after each step."""

    followed_losses: tuple[float, ...]
    """The loss of the followed samples after each step."""

    final_loss: float
    """The loss of all held-out samples at the end."""

    num_interventions: int
    """The steps at which an update was changed or undone, beyond routine clipping."""

    halted: str
    """Why the run was halted; empty if it was not."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a fault cost a run."""

    peak_loss: float
    """The highest loss of the probed samples after a step, from the first step of the fault on."""

    steps_to_return: float
    """Steps from the beginning of the fault until the loss, once it has been above the clean run's at the same step by
    more than 5 %, is no longer, and stays so for ten steps; 0 if it never was, infinite if it never returned."""

    final_loss: float
    """The loss of all held-out samples at the end."""

    excess: float
    """By how much that is above the clean run's, as a share of it."""

    num_interventions: float
    """The steps at which an update was changed or undone, beyond routine clipping."""


TITLES = {
    "peak_loss": "peak loss",
    "steps_to_return": "to return",
    "excess": "final",
    "num_interventions": "acts",
}
"""The columns of a table, fields of `Outcome`, with what a table calls them; in each, less is better."""

LOSSES = ("peak_loss", "steps_to_return", "excess")


def train(case: Case, tuning: Tuning | None = None, num_steps: int = 0) -> Trace:
    """Train a case to its end.

    Args:
        case: what to run.
        tuning: the numbers of Algorithm 1; by default those found to be its best.
        num_steps: the steps of the run, if not the workload's own.
    """
    injections, first_step = plan_fault(case)
    training = build_training(case.workload, case.seed, Recipe(num_steps=num_steps), case.clip_norm, injections)
    measure_followed = make_measure(training.workload, NUM_FOLLOWED)
    probe_losses, followed_losses, num_interventions = [], [], 0

    def observe(step: int, judgement: Judgement) -> None:
        nonlocal num_interventions
        num_interventions += judgement.acts
        if step >= first_step:
            probe_losses.append(training.measure_probe(training.model))
            followed_losses.append(measure_followed(training.model))

    run = train_guarded(training, make_guard(case, training, tuning), case.seed, observe)
    final_loss = make_measure(training.workload)(training.model)
    return Trace(first_step, tuple(probe_losses), tuple(followed_losses), final_loss, num_interventions, run.halted)


def make_guard(case: Case, training: Training, tuning: Tuning | None) -> Guard:
    """The guard of a case; Algorithm 1 with its two numbers."""
    if case.contestant == "algorithm-1":
        chosen = TUNED[case.workload] if tuning is None else tuning
        policy = build_algorithm_1(epsilon=chosen.epsilon, alpha=chosen.alpha)
        return supervise(training, policy, has_probe=True)
    name = {"none": "nothing", "default": "trimtab-probe"}.get(case.contestant, case.contestant)
    return contestants[name].make_guard(training)


def plan_fault(case: Case) -> tuple[list[Injection], int]:
    """The fault of a case, if it has one, and the step from which on it is followed."""
    step = case.fault_step
    return ([], RANDOM_STEPS[0]) if step is None else ([inject(FAULT, step)], step)


def judge_run(trace: Trace, clean: Trace) -> Outcome:
    """What a fault cost a run, measured against its clean twin."""
    clean_losses = clean.followed_losses[trace.first_step - clean.first_step :]
    is_near = [
        loss <= RETURNED * reference for loss, reference in zip(trace.followed_losses, clean_losses, strict=True)
    ]
    left = next((step for step, near in enumerate(is_near) if not near), None)
    returned = 0.0
    if left is not None:
        settled = (step for step in range(left, len(is_near)) if all(is_near[step : step + STAYS_RETURNED]))
        returned = next(settled, math.inf)
    return Outcome(
        max(trace.probe_losses),
        returned,
        trace.final_loss,
        trace.final_loss / clean.final_loss - 1,
        trace.num_interventions,
    )


def list_cases(
    workloads: Iterable[str], contestants: Sequence[str], seeds: Iterable[int], clip_norms: Iterable[float | None]
) -> Iterator[Case]:
    """The cases to run, clean twins first, then what each contestant does to a run without a fault.

    Contestants without a supervisor do not know routine clipping, and are run once for all clip norms.
    """
    keys = [(workload, seed) for workload in workloads for seed in seeds]
    yield from (Case(workload, "none", None, None, seed) for workload, seed in keys)
    for contestant in contestants:
        if contestant != "none":
            yield from (Case(workload, contestant, None, None, seed) for workload, seed in keys)
    for window in WINDOWS:
        for contestant in contestants:
            for clip_norm in clip_norms if contestant in SUPERVISED else [None]:
                yield from (Case(workload, contestant, window, clip_norm, seed) for workload, seed in keys)


def summarize(outcomes: Sequence[Outcome]) -> dict[str, tuple[float, float]]:
    """Column to its median over runs, and the worst."""
    columns = {name: [float(getattr(each, name)) for each in outcomes] for name in TITLES}
    return {name: (median(column), max(column)) for name, column in columns.items()}


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the default policy does in one table what it is meant to."""

    goal: str
    """What it is meant to do."""

    is_met: bool
    """Whether it does."""

    figures: str
    """What that rests on: its median, and the best of the others."""


def judge_default(outcomes: Mapping[str, Sequence[Outcome]], *, clips: bool) -> Iterator[Verdict]:
    """Hold the default policy against the other contestants in one workload and variant, by medians.

    In interventions it is held against those that intervene at all. Where the variant has no routine clipping, the
    contestant that does nothing else is no rival: it trains by another recipe, which ends elsewhere without any fault.

    Args:
        outcomes: contestant to its outcomes, one a seed, in the same order of seeds.
        clips: True if the variant has routine clipping.
    """
    summaries = {name: summarize(each) for name, each in outcomes.items() if clips or name != "clipping"}
    own = {column: mid for column, (mid, _) in summaries.pop("default").items()}
    for column in LOSSES:
        best = min(summaries, key=lambda name: summaries[name][column][0])
        bound = summaries[best][column][0]
        pairs = list(zip(outcomes["default"], outcomes[best], strict=True))
        num_no_worse = sum(getattr(one, column) <= getattr(other, column) for one, other in pairs)
        yield Verdict(
            f"{TITLES[column]} no worse than the best",
            own[column] <= bound,
            f"{format_number(column, own[column])} against {format_number(column, bound)} of {best}; "
            f"no worse in {num_no_worse} of {len(pairs)} seeds",
        )
    column = "num_interventions"
    counts = {name: each[column][0] for name, each in summaries.items() if each[column][0] > 0}
    if counts:
        fewest = min(counts, key=lambda name: counts[name])
        figures = f"{own[column]:g} against {counts[fewest]:g} of {fewest}"
        yield Verdict("fewest interventions", own[column] <= counts[fewest], figures)
    yield Verdict("final loss within 1 % of clean", own["excess"] <= SAME_LOSS, f"{own['excess']:+.2%}")


def format_number(column: str, value: float) -> str:
    """A number of a column for people."""
    if column == "excess":
        return f"{value:+.2%}"
    return f"{value:.3f}" if column == "peak_loss" else f"{value:g}"
