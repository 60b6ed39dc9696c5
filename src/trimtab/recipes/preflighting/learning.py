"""Short trainings: one batch by heart, the learning rate, regularization, the schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from math import isfinite
from typing import Any

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from torch.optim.lr_scheduler import OneCycleLR

from trimtab.recipes.calls import is_index
from trimtab.recipes.preflighting.flight import Course, Flight
from trimtab.recipes.preflighting.result import MORE_TIME, Line, Status

OVERFIT_STEPS = 300
"""The most steps on one batch."""

NEAR = 0.1
"""How near a batch has to come to its floor: a tenth of where it began."""

FACTORS = (0.01, 0.1, 1.0, 10.0, 100.0)
"""The multiples of the learning rate that are tried."""

MUCH = 0.5
"""A rate is slow if a trial leaves more than half of the loss, and another rate leaves less than half of that."""

SHOWN = {10.0: "ten times", 100.0: "a hundred times", 0.1: "a tenth of"}
"""The multiples of the rate at which a batch is tried that is not learned at the rate itself, in words."""

HALF = 0.5
"""The share of the loss that has to go for a batch to be on its way to its floor."""


def is_dropping(module: nn.Module) -> bool:
    """True for a layer that drops activations while it trains, recurrent ones with dropout between layers too."""
    if isinstance(module, nn.RNNBase):
        return module.dropout > 0
    return isinstance(module, _DropoutNd) and module.p > 0


def drop_regularization(flight: Flight, *, keeps_decay: bool = False, keeps_dropout: bool = False) -> None:
    """Turn dropout and weight decay off, within `Flight.keep`, which turns them on again."""
    for group in flight.optimizer.param_groups:
        if "weight_decay" in group and not keeps_decay:
            group["weight_decay"] = 0.0
    for module in flight.model.modules():
        if is_dropping(module) and not keeps_dropout and not isinstance(module, nn.RNNBase):
            module.eval()


def check_overfit(flight: Flight) -> Iterator[Line]:
    """One batch is learned by heart with regularization off; at another rate if need be."""
    floor, best, course = find_floor(flight), float("inf"), Course()
    for factor in (1.0, *SHOWN):
        with flight.keep():
            drop_regularization(flight)
            flight.set_rate(factor)
            goal = floor + NEAR * abs(float(flight.compute_total(flight.model, flight.batches[0]).detach()) - floor)
            course = flight.train(OVERFIT_STEPS, batches=flight.batches[:1], until=goal)
        last = course.losses[-1] if course.losses and course.is_finite else float("inf")
        best = min(best, last)
        if last <= goal:
            yield _tell_overfit(flight, course, factor)
            return
        if flight.clock.is_late:
            break
    if not course.losses:
        yield Line("overfit", "skipped", None, "there was no time for a step", MORE_TIME)
        return
    first = course.losses[0]
    reason = (
        f"one batch only gets from {first:.4g} to {best:.4g}, and {goal:.4g} would be near its floor of {floor:.4g}"
    )
    if first - best > HALF * (first - floor):
        fix = "give it more time: --budget" if flight.clock.is_late else "see whether the loss has a floor, and say it"
        yield Line("overfit", "warn", best, reason, fix)
    else:
        fix = "look at labels, loss and what the optimizer holds; if the loss cannot be near 0, say its floor"
        yield Line("overfit", "fail", best, reason, fix)


def _tell_overfit(flight: Flight, course: Course, factor: float) -> Line:
    """The line of a batch that was learned by heart."""
    last = course.losses[-1]
    reached = f"one batch falls from {course.losses[0]:.4g} to {last:.4g} in {len(course.losses)} steps"
    if factor == 1.0:
        return Line("overfit", "pass", last, reached)
    other = factor * flight.rate
    how = f"{reached} at {SHOWN[factor]} the learning rate, {other:.3g}, and not at {flight.rate:.3g}"
    return Line("overfit", "warn", last, how, f"try a learning rate near {other:.2g}")


def find_floor(flight: Flight) -> float:
    """The floor that was given, or what the targets of a cross entropy leave: their entropy, where they are soft."""
    losses = flight.trial.losses
    if flight.floor or len(losses) != 1 or flight.trial.loss is None:
        return flight.floor
    scores, target = losses[0].args[:2]
    if losses[0].function == "cross_entropy":
        smoothing = float(losses[0].kwargs.get("label_smoothing", 0.0))
        if is_index(target):
            target = torch.nn.functional.one_hot(target.clamp(min=0).flatten(), scores.shape[1]).float()
        target = target * (1 - smoothing) + smoothing / scores.shape[1]
        return float(torch.special.entr(target).sum(1).mean())
    if losses[0].function.startswith("binary_cross_entropy"):
        return float((torch.special.entr(target) + torch.special.entr(1 - target)).mean())
    return flight.floor


def train_shortly(
    flight: Flight, *, factor: float = 1.0, prepare: Callable[[Flight], Any] | None = None, schedule: Any = None
) -> Course:
    """A short training on the first batches, from the state and the random numbers at hand; all is set back.

    Args:
        flight: what is trained.
        factor: the multiple of the learning rate.
        prepare: called before it.
        schedule: makes a scheduler of the optimizer and the number of steps.
    """
    with flight.keep():
        flight.set_rate(factor)
        if prepare is not None:
            prepare(flight)
        return flight.train(
            flight.num_steps, scheduler=None if schedule is None else schedule(flight.optimizer, flight.num_steps)
        )


def check_rate(flight: Flight) -> Iterator[Line]:
    """The range of learning rates at which the loss falls, and whether yours is within it."""
    courses = {}
    for factor in sorted(FACTORS, key=lambda each: (each != 1.0, each)):
        course = train_shortly(flight, factor=factor)
        if course.is_long:
            courses[factor] = course
    if 1.0 not in courses or len(courses) < 3:
        yield Line(
            "learning-rate", "skipped", None, f"there was time for {len(courses)} of {len(FACTORS)} trials", MORE_TIME
        )
        return
    falling = sorted(factor for factor, each in courses.items() if each.trend == "falls")
    own, floor = courses[1.0], find_floor(flight)
    if not falling:
        reason = f"the loss falls at no rate from {flight.rate * min(courses):.2g} to {flight.rate * max(courses):.2g}"
        status: Status = "fail" if all(each.trend == "rises" for each in courses.values()) else "warn"
        yield Line("learning-rate", status, flight.rate, reason, "look at data and loss before the rate")
        return
    best = min(courses[factor].last for factor in falling) - floor
    near = next(factor for factor in falling if courses[factor].last - floor <= max(2 * best, 0.0))
    span = f"the loss falls at rates from {flight.rate * falling[0]:.2g} to {flight.rate * falling[-1]:.2g}"
    reason = f"{span}; yours is {flight.rate:.2g}, at which {_tell(own)}"
    is_slow = own.last - floor > max(MUCH * (own.first - floor), 2 * (courses[near].last - floor))
    if own.trend == "rises":
        yield Line("learning-rate", "fail", flight.rate, reason, f"try {flight.rate * near:.2g}")
    elif own.trend == "flat" or is_slow:
        reason += f", and to {courses[near].last:.4g} at {flight.rate * near:.2g}"
        yield Line("learning-rate", "warn", flight.rate, reason, f"try {flight.rate * near:.2g}, or train longer")
    else:
        yield Line("learning-rate", "pass", flight.rate, reason)


def _tell(course: Course) -> str:
    return f"it goes from {course.first:.4g} to {course.last:.4g} in {len(course.losses)} steps"


def check_regularization(flight: Flight) -> Iterator[Line]:
    """Weight decay and dropout, put on one after the other: with each the loss has to go on falling."""
    has_decay = any(group.get("weight_decay", 0.0) > 0 for group in flight.optimizer.param_groups)
    has_dropout = any(map(is_dropping, flight.model.modules()))
    rungs = [("none", False, False)]
    rungs += [("weight decay", True, False)] if has_decay else []
    rungs += [("dropout", has_decay, True)] if has_dropout else []
    told, plain = [], None
    for name, decays, drops in rungs:
        course = train_shortly(flight, prepare=partial(drop_regularization, keeps_decay=decays, keeps_dropout=drops))
        if not course.is_long:
            yield Line("regularization", "skipped", None, f"there was no time for the trial with {name}", MORE_TIME)
            return
        told.append(f"{name}: {course.first:.4g} to {course.last:.4g}")
        plain = plain or course
        if course.trend != "falls":
            what = "without regularization" if name == "none" else f"with {name}"
            fix = "look at the learning rate" if name == "none" else f"use less {name}"
            reason = f"{what} the loss does not fall: {course.first:.4g} to {course.last:.4g}"
            is_grave = course.trend == "rises" or course.first - course.last < HALF * (plain.first - plain.last)
            yield Line("regularization", "fail" if is_grave else "warn", course.last, reason, fix)
            return
    yield Line("regularization", "pass", float(len(rungs) - 1), f"the loss falls with each: {'; '.join(told)}")


def check_schedule(flight: Flight) -> Iterator[Line]:
    """One-cycle against a constant rate, over as many steps."""
    constant = train_shortly(flight)
    cycled = train_shortly(flight, schedule=make_cycle)
    if not (constant.is_long and cycled.is_long):
        yield Line("schedule", "skipped", None, "there was no time for two trials", MORE_TIME)
        return
    reason = (
        f"after {len(constant.losses)} steps the loss is {constant.last:.4g} at a constant rate, {cycled.last:.4g} "
    )
    reason += "with one cycle"
    ratio = cycled.last / constant.last if constant.last else float("nan")
    if "falls" not in (constant.trend, cycled.trend):
        status: Status = "fail" if {constant.trend, cycled.trend} == {"rises"} else "warn"
        yield Line("schedule", status, ratio, f"{reason}: it falls with neither", "look at the learning rate")
    elif flight.scheduler is None and isfinite(cycled.last) and not constant.is_finite:
        yield Line("schedule", "warn", ratio, f"{reason}: a constant rate diverges", "warm up")
    else:
        yield Line("schedule", "pass", ratio, reason)


def make_cycle(optimizer: torch.optim.Optimizer, num_steps: int) -> OneCycleLR:
    """One cycle over some steps up to the rates that the optimizer has; momentum cycles where there is any."""
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    has_momentum = all("betas" in group or group.get("momentum", 0.0) > 0 for group in optimizer.param_groups)
    return OneCycleLR(optimizer, rates, total_steps=num_steps + 1, cycle_momentum=has_momentum)
