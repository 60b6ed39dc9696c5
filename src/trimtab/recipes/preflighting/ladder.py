"""A model with many special parts, put together rung by rung: the rung that breaks is named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.recipes.calls import CLASSIFYING, Call, is_index
from trimtab.recipes.keeping import keep_loader
from trimtab.recipes.preflighting.data import check_batch
from trimtab.recipes.preflighting.factory import make_flight
from trimtab.recipes.preflighting.flight import Course, Flight
from trimtab.recipes.preflighting.result import MORE_TIME, Line
from trimtab.recipes.trial import run_trial

MOST_NORM = 5.0
"""The largest gradient norm of a sound rung, in the second half of its steps."""


def check_ladder(flight: Flight) -> Iterator[Line]:
    """Each rung of the ladder in turn: the loss falls, norms stay below 5, nothing is infinite, something is right."""
    broken = ""
    for name, factory in flight.ladder.items():
        if broken:
            yield Line(f"rung-{name}", "skipped", None, f"the rung {broken} is broken, and this one is above it")
            continue
        rung = make_flight(factory(), f"the rung {name!r}")
        rung.clock = flight.clock
        line = _try(rung, name)
        broken = name if line.status == "fail" else ""
        yield line


def _try(rung: Flight, name: str) -> Line:
    title = f"rung-{name}"
    for each in check_batch(rung):
        if each.status == "fail":
            return Line(title, "fail", each.number, each.reason, each.fix)
    with keep_loader(rung.train_loader), rung.keep():
        rung.set_rate()
        course = rung.train(rung.num_steps)
        accuracy = measure_accuracy(rung)
    if not course.is_long:
        return Line(title, "skipped", None, f"there was time for {len(course.losses)} steps alone", MORE_TIME)
    number, problem = _judge(course, accuracy)
    shown = "" if accuracy is None else f", accuracy {accuracy:.0%}"
    reason = f"loss {course.first:.4g} to {course.last:.4g}, norms up to {_find_norm(course):.3g}{shown}"
    if problem:
        fix = f"the fault is in what {name} adds to the rung below it"
        return Line(title, "fail", number, f"{problem}: {reason}", fix)
    return Line(title, "pass", course.last, reason)


def _judge(course: Course, accuracy: float | None) -> tuple[float, str]:
    """What breaks a rung, with its number; no words where nothing does."""
    norm = _find_norm(course)
    if not course.is_finite:
        return course.losses[-1], f"step {len(course.losses)} is not finite"
    if course.trend != "falls":
        return course.last, "the loss does not fall"
    if not norm < MOST_NORM:
        return norm, f"a gradient norm is {norm:.3g}, and {MOST_NORM:g} is the limit"
    if accuracy is not None and not accuracy > 0:
        return 0.0, "nothing is right"
    return course.last, ""


def _find_norm(course: Course) -> float:
    return max(course.norms[len(course.norms) // 2 :], default=0.0)


def measure_accuracy(flight: Flight) -> float | None:
    """The accuracy on the first batches: by the user's function, or what the loss was given; None if there is none."""
    accuracies = []
    for batch in flight.batches:
        if flight.accuracy is not None:
            found: float | None = float(flight.accuracy(flight.model, batch))
        else:
            found = _read_accuracy(flight.model, flight, batch)
        if found is None:
            return None
        accuracies.append(found)
    return sum(accuracies) / len(accuracies)


def _read_accuracy(model: nn.Module, flight: Flight, batch: Any) -> float | None:
    """The share of the labels that the scores of the first loss have right."""
    calls = run_trial(model, flight.compute_total, batch, trains=False).losses
    return next((found for found in map(_score, calls) if found is not None), None)


def _score(call: Call) -> float | None:
    scores, target = call.args[:2]
    if not isinstance(scores, Tensor) or not isinstance(target, Tensor):
        return None
    if call.function in CLASSIFYING and is_index(target) and scores.ndim > 1:
        is_kept = target != call.get(4, "ignore_index", -100)
        return float((scores.argmax(1) == target)[is_kept].float().mean())
    if call.function == "binary_cross_entropy_with_logits":
        return float(((scores > 0) == (target > 0.5)).to(torch.float32).mean())
    return None
