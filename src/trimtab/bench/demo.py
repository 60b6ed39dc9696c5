"""The demo: one small language model, trained healthy, with faults behind the usual guard, and supervised.

All runs go through one loop, `train`, and differ in its guard alone: what is called in place of gradient clipping.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TypeAlias

import numpy as np
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from trimtab.bench.language import build_model, compute_loss, cut_held_out, draw_batch, evaluate, read_text
from trimtab.errors import Halted, InputError
from trimtab.faults import Hit, Injection, Injector, find_fault, inject
from trimtab.journal import RunLog, read_run
from trimtab.policy import Policy
from trimtab.supervisor import Supervisor

NUM_STEPS = 600
LEARNING_RATE = 3e-3
BETAS = (0.9, 0.95)
WARMUP = 0.05  # share of the steps over which the learning rate rises
CLIP_NORM = 1.0
NUM_VALIDATIONS = 12
VALIDATE_ON = 64  # windows of the small validation set, used along the way

DEMO_FAULTS = ("nan-loss", "infinite-gradient", "learning-rate-spike", "huge-weight", "random-bytes")
FAULTS_BETWEEN = (0.15, 0.85)  # the part of the run in which faults begin
CALM_STEPS = 30  # steps at least from the end of one fault to the next, so that each can be told apart

Guard: TypeAlias = Callable[[Tensor], bool]
"""Called after backward with the loss: clips the gradients in place, and says whether the optimizer is to step."""

RUNS = ("healthy", "usual_guard", "supervised")
"""The three runs, in the order they are made; also the names of their run folders."""


@dataclass(frozen=True, slots=True, eq=False)
class Setup:
    """What a run trains with; a guard is made for one of them."""

    model: nn.Module
    """The model."""

    optimizer: Optimizer
    """The optimizer of all its parameters."""

    scheduler: LRScheduler
    """The learning rate's schedule: up and down along cosines, once over all steps."""

    seed: int
    """The seed of the weights and the batches."""

    num_steps: int
    """How many steps there are to make."""


@dataclass(frozen=True, slots=True)
class FaultOutcome:
    """What the supervised run made of one fault."""

    name: str
    """The fault."""

    step: int
    """The first step at which it acted."""

    target: str
    """What it hit, such as the name of a parameter; empty where that is always the same."""

    found_step: int | None
    """The first step with a finding from then on; None if there was none before the next fault."""

    detectors: tuple[str, ...]
    """The detectors that found it, in the order they did."""

    responses: tuple[str, ...]
    """The verdicts carried out on it, one a step."""

    num_lost: int
    """The updates lost to it: dropped, and undone by a rollback."""


@dataclass(frozen=True, slots=True)
class Result:
    """How the demo went."""

    seed: int
    """The seed of weights, batches and faults."""

    num_steps: int
    """The steps of each run."""

    val_losses: Mapping[str, float]
    """Run to its loss on the whole validation set at the end, in nats a byte; NaN or infinite where it is broken."""

    faults: tuple[FaultOutcome, ...]
    """The faults, ordered by step."""

    supervisor_share: float
    """The supervisor's share of the time of the supervised run's steps."""

    halted: str
    """Why the supervised run was halted; empty if it was not."""

    folder: Path
    """Where the run folders and the page are."""

    def compare(self, run: str) -> float:
        """How much higher a run's validation loss is than the healthy one's, as a share of it; may be NaN."""
        return self.val_losses[run] / self.val_losses["healthy"] - 1

    def to_dict(self) -> dict[str, object]:
        """The result for programs."""
        runs = {name: {"val_loss": val_loss} for name, val_loss in self.val_losses.items()}
        faults = [asdict(each) for each in self.faults]
        share = {"supervisor_share": self.supervisor_share, "halted": self.halted}
        return {"seed": self.seed, "num_steps": self.num_steps, **runs, "faults": faults, **share}


def build_setup(seed: int, num_steps: int = NUM_STEPS) -> Setup:
    """A fresh model of a seed, with its optimizer and schedule for a number of steps."""
    model = build_model(seed)
    optimizer = AdamW(model.parameters(), lr=LEARNING_RATE, betas=BETAS, fused=True)
    scheduler = OneCycleLR(optimizer, LEARNING_RATE, num_steps, pct_start=WARMUP, cycle_momentum=False)
    return Setup(model, optimizer, scheduler, seed, num_steps)


def clip(setup: Setup, observer: Supervisor) -> Guard:
    """The guard of the healthy run: clips the gradients, and lets every step pass."""

    def guard(loss: Tensor) -> bool:
        observer.check(loss)
        nn.utils.clip_grad_norm_(setup.model.parameters(), CLIP_NORM)
        return True

    return guard


def clip_and_skip(setup: Setup, observer: Supervisor) -> Guard:
    """The guard most people write: clips the gradients, and skips a step whose loss or gradient norm is not finite."""

    def guard(loss: Tensor) -> bool:
        observer.check(loss)
        norm = nn.utils.clip_grad_norm_(setup.model.parameters(), CLIP_NORM)
        return bool(loss.isfinite() & norm.isfinite())

    return guard


def supervise(_: Setup, supervisor: Supervisor) -> Guard:
    """The guard that is shown: one call, and the optimizer steps whatever it decides."""

    def guard(loss: Tensor) -> bool:
        supervisor.check(loss)
        return True

    return guard


def draw_faults(seed: int, num_steps: int = NUM_STEPS, names: Sequence[str] = DEMO_FAULTS) -> tuple[Injection, ...]:
    """Draw for each fault the step at which it begins: any in the middle of the run, none too near to another.

    Args:
        seed: the order and the steps depend on it, and so does what the faults draw themselves.
        num_steps: the steps of the run, the first of which is 1.
        names: the faults, each injected once with its own duration and strength.

    Returns:
        The injections, ordered by step.

    Raises:
        InputError: if there is no such fault, or the run is too short to keep them apart.
    """
    first, last = (round(share * num_steps) for share in FAULTS_BETWEEN)
    source = random.Random(f"faults {seed}")
    order = source.sample(names, len(names))
    taken = [0, *accumulate(find_fault(name).duration + CALM_STEPS for name in order)]
    spare = last - first - taken[-1]
    if spare < 0:
        raise InputError(
            f"{len(names)} faults take {taken[-1]} steps, but {num_steps} steps have room for {last - first}"
        )
    gaps = sorted(source.randint(0, spare) for _ in order)
    return tuple(
        inject(name, first + gap + start, seed=seed) for name, gap, start in zip(order, gaps, taken, strict=False)
    )


def train(
    setup: Setup,
    guard: Guard,
    recorder: Supervisor,
    injections: Sequence[Injection] = (),
    on_step: Callable[[int], None] | None = None,
) -> tuple[Hit, ...]:
    """Train a setup to its end, with a guard, and with faults if there are any.

    Args:
        setup: what to train with; used up by it.
        guard: called after every backward.
        recorder: takes down the steps and reviews of the run.
        injections: the faults.
        on_step: called with each step that is done, from 1 on, such as to show progress.

    Returns:
        What the faults did, in order.
    """
    text = read_text()
    held_out = cut_held_out(text)
    small = held_out[:: len(held_out) // VALIDATE_ON]
    validate_after = {round(setup.num_steps * share / NUM_VALIDATIONS) for share in range(1, NUM_VALIDATIONS)}
    injector = Injector(injections, setup.model, setup.optimizer)
    for step in range(1, setup.num_steps + 1):
        injector.start(step)
        batch = injector.batch(step, draw_batch(text, setup.seed, step))
        loss = injector.loss(step, compute_loss(setup.model, batch))
        setup.optimizer.zero_grad()
        loss.backward()
        injector.gradients(step)
        if guard(loss):
            setup.optimizer.step()
        injector.end(step)
        setup.scheduler.step()
        if step in validate_after:
            recorder.review(val_loss=evaluate(setup.model, small))
        if on_step is not None:
            on_step(step)
    return tuple(injector.hits)


def run_demo(
    folder: Path,
    seed: int = 0,
    names: Sequence[str] = DEMO_FAULTS,
    num_steps: int = NUM_STEPS,
    on_step: Callable[[str, int], None] | None = None,
) -> Result:
    """Train the same model three times: healthy, with faults and the usual guard, with the same faults and supervised.

    Args:
        folder: where the three run folders and the page go.
        seed: the seed of weights, batches and faults.
        names: the faults to inject.
        num_steps: the steps of each run.
        on_step: called with the run and each step that is done, such as to show progress.

    Returns:
        The result; the page is `dashboard.html` in the folder.

    Raises:
        InputError: if there is no such fault, or the folder holds runs already.
    """
    injections = draw_faults(seed, num_steps, names)
    guards = {"healthy": clip, "usual_guard": clip_and_skip, "supervised": supervise}
    val_losses: dict[str, float] = {}
    hits: tuple[Hit, ...] = ()
    halted = ""
    for name in RUNS:
        setup = build_setup(seed, num_steps)
        acts = name == "supervised"
        supervisor = Supervisor(
            setup.model,
            setup.optimizer,
            *([setup.scheduler] if acts else []),
            clip_norm=CLIP_NORM if acts else None,
            policy=None if acts else Policy.observe(),
            run=folder / name,
        )
        guard = guards[name](setup, supervisor)
        given = () if name == "healthy" else injections
        report = None if on_step is None else partial(on_step, name)
        try:
            hits = train(setup, guard, supervisor, given, report)
        except Halted as halt:
            halted = str(halt)
        val_losses[name] = evaluate(setup.model, cut_held_out(read_text()))
        if not halted:
            supervisor.review(val_loss=val_losses[name])
        supervisor.finish()
    log = read_run(folder / "supervised")
    faults = tuple(judge_faults(log, injections, hits))
    return Result(seed, num_steps, val_losses, faults, measure_share(log), halted, folder)


def judge_faults(log: RunLog, injections: Sequence[Injection], hits: Sequence[Hit]) -> Iterator[FaultOutcome]:
    """What a supervised run made of each fault: its findings and actions up to where the next one begins."""
    ends = [each.step for each in injections[1:]] + [sys.maxsize]
    for injection, end in zip(injections, ends, strict=True):
        records = [each for (step, _), each in log.records.items() if injection.step <= step < end]
        findings = [finding for decision, _ in records for finding in decision.findings]
        yield FaultOutcome(
            injection.fault,
            injection.step,
            next((hit.target for hit in hits if hit.fault == injection.fault), ""),
            found_step=findings[0].step if findings else None,
            detectors=tuple(dict.fromkeys(finding.detector for finding in findings)),
            responses=tuple(action.verdict for decision, action in records if decision.responses),
            num_lost=sum(action.num_lost for _, action in records),
        )


def measure_share(log: RunLog) -> float:
    """The supervisor's share of the time of a run's steps."""
    timed = [each.values for each in log.measurements if "step_seconds" in each.values]
    spent, total = (np.sum([values[name] for values in timed]) for name in ("supervisor_seconds", "step_seconds"))
    return float(spent / total) if timed else 0.0
