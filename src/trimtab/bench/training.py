"""The one loop in which contestants train workloads; they differ in their guard alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingWarmRestarts,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    SequentialLR,
)

from trimtab.bench.workloads import Precision, Workload, workloads
from trimtab.errors import Halted
from trimtab.faults import Hit, Injection, Injector
from trimtab.probes.batches import map_tensors

WARMUP = 0.1
"""Share of the steps over which the learning rate rises, in the schedules that warm up."""

OPTIMIZERS: Mapping[str, Callable[[list[nn.Parameter], float], Optimizer]] = {
    "adamw": lambda parameters, rate: AdamW(parameters, rate),
    "adam": lambda parameters, rate: Adam(parameters, rate),
    "rmsprop": lambda parameters, rate: RMSprop(parameters, rate),
    "sgd": lambda parameters, rate: SGD(parameters, rate, momentum=0.9),
}
"""Name to optimizer of parameters and a learning rate."""


def _build_one_cycle(optimizer: Optimizer, num_steps: int) -> LRScheduler:
    rates = [group["lr"] for group in optimizer.param_groups]
    return OneCycleLR(optimizer, rates, num_steps, pct_start=WARMUP, cycle_momentum=False)


def _build_warm_up(optimizer: Optimizer, num_steps: int) -> LRScheduler:
    rise = max(round(WARMUP * num_steps), 1)
    parts: list[LRScheduler] = [
        LinearLR(optimizer, 0.01, 1.0, rise),
        LinearLR(optimizer, 1.0, 0.01, max(num_steps - rise, 1)),
    ]
    return SequentialLR(optimizer, parts, [rise])


SCHEDULES: Mapping[str, Callable[[Optimizer, int], LRScheduler]] = {
    "one-cycle": _build_one_cycle,
    "warm-up": _build_warm_up,
    "restarts": lambda optimizer, num_steps: CosineAnnealingWarmRestarts(optimizer, max(num_steps // 6, 1)),
    "steps": lambda optimizer, num_steps: MultiStepLR(optimizer, [round(0.5 * num_steps), round(0.8 * num_steps)]),
    "constant": lambda optimizer, _: ConstantLR(optimizer, 1.0, 1),
}
"""Name to schedule of an optimizer over a number of steps; it is stepped once a step."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a workload is trained; what is empty is the workload's own."""

    optimizer: str = ""
    """A name of `OPTIMIZERS`."""

    schedule: str = ""
    """A name of `SCHEDULES`."""

    precision: Precision | None = None
    """The dtype of autocast."""

    num_steps: int = 0
    """The optimizer steps of the run."""


@dataclass(slots=True, eq=False)
class Training:
    """A run that is made: what a guard is made for, and what the loop holds."""

    name: str
    """The name of the workload."""

    workload: Workload
    """The workload."""

    model: nn.Module
    """The model."""

    optimizer: Optimizer
    """The optimizer of all its parameters."""

    scheduler: LRScheduler
    """The schedule of the learning rate, stepped once a step."""

    scaler: GradScaler | None
    """The loss scaler of a run in float16; the guard unscales the gradients, `unscale` does it."""

    num_steps: int
    """The optimizer steps there are to make."""

    clip_norm: float | None
    """The limit of the routine clipping, which is the guard's to do; None for none."""

    measure_probe: Callable[[nn.Module], float]
    """The loss of the 16 held-out samples, for guards that look at them."""

    autocast: Callable[[], AbstractContextManager[Any]]
    """The context of every forward pass."""

    injections: Sequence[Injection] = ()
    """The faults it will be given."""

    batch: Any = None
    """The newest micro-batch, as the loader gave it."""

    memory: dict[str, Any] = field(default_factory=dict)
    """What the workload keeps from step to step."""

    def unscale(self) -> None:
        """Divide the gradients by the loss scale, if there is one."""
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)

    def clip(self) -> float:
        """Clip the gradients as routine, if there is a limit, and give their norm before it."""
        parameters = [each for each in self.model.parameters() if each.grad is not None]
        if self.clip_norm is not None:
            return float(nn.utils.clip_grad_norm_(parameters, self.clip_norm))
        return float(nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None]))


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a guard says of an update."""

    proceeds: bool = True
    """Whether the optimizer is to step."""

    acts: bool = False
    """Whether it intervened: the update is changed, left out or undone, beyond routine clipping."""

    names: tuple[str, ...] = ()
    """What it says it found, such as detectors and groups, the gravest first; empty if nothing."""

    told: str = ""
    """What it tells a person of it, such as the likely cause."""

    num_lost: int = 0
    """The updates that are lost by what it did."""


Guard: TypeAlias = Callable[[Tensor], Judgement]
"""Called with the loss after backward: unscales, clips, and judges the update that is about to happen."""

MakeGuard: TypeAlias = Callable[[Training], Guard]
"""Makes a guard for a run that is about to begin."""

NUM_PROBED = 16
"""Held-out samples that a guard may look at."""


def build_training(
    name: str,
    seed: int,
    recipe: Recipe | None = None,
    clip_norm: float | None = None,
    injections: Sequence[Injection] = (),
) -> Training:
    """A fresh run of a workload.

    Args:
        name: the name of the workload.
        seed: the seed of weights and batches.
        recipe: how to train, where not as the workload says.
        clip_norm: the limit of the routine clipping; None for none.
        injections: the faults it will be given.
    """
    workload, recipe = workloads[name], recipe or Recipe()
    model = workload.build_model(seed)
    kind = recipe.optimizer or next(iter(workload.rates))
    num_steps = recipe.num_steps or workload.num_steps
    optimizer = OPTIMIZERS[kind](list(model.parameters()), workload.rates[kind])
    scheduler = SCHEDULES[recipe.schedule or workload.schedule](optimizer, num_steps)
    precision = recipe.precision or workload.precision
    scaler = GradScaler("cpu", init_scale=2.0**12, growth_interval=100) if precision == "float16" else None

    def autocast() -> AbstractContextManager[Any]:
        dtype = getattr(torch, precision)
        return nullcontext() if precision == "float32" else torch.autocast("cpu", dtype)

    probe = make_measure(workload, NUM_PROBED)
    return Training(
        name, workload, model, optimizer, scheduler, scaler, num_steps, clip_norm, probe, autocast, injections
    )


@dataclass(frozen=True, slots=True)
class Run:
    """How a run went."""

    halted: str
    """Why the guard ended it; empty if it did not."""

    hits: tuple[Hit, ...]
    """What the faults did."""

    num_lost: int
    """The updates that the guard lost, with those that were never made after a halt."""


def train(
    training: Training,
    guard: Guard,
    seed: int,
    observe: Callable[[int, Judgement], None] | None = None,
) -> Run:
    """Train to the end.

    Args:
        training: what to train; used up by it.
        guard: called after every backward.
        seed: the seed of the batches, and of the global random numbers.
        observe: called after each step, from 1 on, with what the guard said; also for the steps after a halt.
    """
    workload, model, optimizer, scaler = training.workload, training.model, training.optimizer, training.scaler
    injector = Injector(training.injections, model, optimizer, scheduler=training.scheduler, scaler=scaler)
    torch.manual_seed(seed)
    halted, num_lost = "", 0
    for step in range(1, training.num_steps + 1):
        judgement = Judgement(proceeds=False, num_lost=1)
        if not halted:
            if workload.before_step is not None:
                workload.before_step(training, step)
            injector.start(step)
            optimizer.zero_grad()
            losses = []
            for index in range(workload.num_micro):
                number = (step - 1) * workload.num_micro + index + 1
                batch = training.batch = injector.batch(step, workload.draw_batch(seed, number))
                with training.autocast():
                    loss = injector.loss(step, workload.compute_loss(model, batch)) / workload.num_micro
                (loss if scaler is None else scaler.scale(loss)).backward()
                losses.append(loss.detach())
            injector.gradients(step)
            total = torch.stack(losses).sum()
            try:
                judgement = guard(total)
            except Halted as halt:
                halted = str(halt)
                judgement = Judgement(proceeds=False, acts=True, names=_name_halt(halt), told=str(halt), num_lost=1)
            except Exception as error:  # a guard that breaks the run it guards has lost what was still to be made
                halted = f"the guard failed: {type(error).__name__}: {error}"
                judgement = Judgement(proceeds=False, acts=True, told=halted, num_lost=1)
            if judgement.proceeds:
                optimizer.step() if scaler is None else scaler.step(optimizer)
            if scaler is not None and not halted:
                scaler.update()
            injector.end(step)
            training.scheduler.step()
            if workload.after_step is not None:
                workload.after_step(training, step, float(total))
        num_lost += judgement.num_lost
        if observe is not None:
            observe(step, judgement)
    injector.close()
    return Run(halted, tuple(injector.hits), num_lost)


def _name_halt(halt: Halted) -> tuple[str, ...]:
    return tuple(dict.fromkeys(each.detector for each in halt.decision.findings)) or ("halt",)


def make_measure(workload: Workload, *num_samples: int, skip: int = 0) -> Callable[[nn.Module], float]:
    """A function that measures the loss of held-out samples in eval mode; infinite if the model is broken.

    Args:
        workload: the workload.
        *num_samples: how many of the first ones; all if left out.
        skip: how many of them are left out, from the first on.
    """
    batch = map_tensors(workload.cut_held_out(*num_samples), lambda each: each[skip:])

    def measure(model: nn.Module) -> float:
        modes = {module: module.training for module in model.modules()}
        model.eval()
        with torch.no_grad():
            loss = workload.compute_loss(model, batch).item()
        for module, was_training in modes.items():
            module.training = was_training
        return loss if math.isfinite(loss) else math.inf

    return measure
