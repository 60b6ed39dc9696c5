"""Numbers of one step: are they finite, do they reach every layer, are they the same in lower precision."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from math import isfinite
from statistics import median

import numpy as np
import torch
from torch import Tensor

from trimtab.control.batches import find_device
from trimtab.detectors.depth_gradient import MIN_CORRELATION, MIN_GROUPS, correlate_with_depth
from trimtab.probes.locate import locate_nonfinite
from trimtab.probes.reasons import list_values
from trimtab.recipes.advice import precision
from trimtab.recipes.footprint import count_kept
from trimtab.recipes.linting.wiring import name_some
from trimtab.recipes.preflighting.flight import Flight
from trimtab.recipes.preflighting.result import Line
from trimtab.recipes.verification import expect_loss, follow_signals

MOST_SPREAD = 1e4
"""How far the gradients of the first and the last layer may differ, each taken per weight, where they rise or fall with
depth; as for the detector depth-gradient."""

NUM_UPDATES = 3
"""Updates before gradients are looked at: what begins at 0 moves in the first, what is behind it in the second."""

MOST_DEAD = 0.2
"""The share of the layers that may have a gradient of 0."""

SAME_LOSS, NEAR_LOSS = 0.02, 0.1
"""How far the loss may be from the one in float32: bfloat16 rounds each number by up to 0.4 %, which adds up with
depth; a tenth of the loss is a fault."""

NUM_TIMED = 5
"""Steps that are timed."""


def check_nonfinite(flight: Flight) -> Iterator[Line]:
    """Loss and gradients are finite before the first update, and after it."""
    scale = 1.0 if flight.scaler is None else flight.scaler.get_scale()
    with flight.keep():
        flight.set_rate()
        for when in ("at the start", "after one update"):
            origin = locate_nonfinite(flight.model, flight.batches[0], flight.compute_total, scale=scale)
            if origin is not None:
                yield Line("nonfinite", "fail", 1.0, f"{when}, {origin.message}", origin.fix)
                return
            if when == "at the start":
                flight.backward(flight.batches[0])
                flight.update()
    yield Line("nonfinite", "pass", 0.0, "loss and gradients are finite, at the start and after one update")


def check_initial_loss(flight: Flight) -> Iterator[Line]:
    """A classifier begins at the loss of chance, −log(1 / classes)."""
    found = expect_loss(flight.trial)
    if found is None:
        return
    fix = "begin the last layer small: it is sure of something that it cannot know yet" if found.is_far else ""
    yield Line("initial-loss", "warn" if found.is_far else "pass", found.measured / found.expected, str(found), fix)


def check_signal(flight: Flight) -> Iterator[Line]:
    """Before the first step, signals keep their size through the depth, forward and backward."""
    with flight.keep():
        found = follow_signals(flight.model, flight.compute_total, flight.batches[0])
    flaws = [each for each in found.flaws if not each.startswith("the first loss")]
    variances = [each.activation_variance for each in found.layers]
    if not variances:
        yield Line("initial-signal", "skipped", None, "no layer with a matrix of weights ran")
        return
    spread = f"activations have variances from {min(variances):.2g} to {max(variances):.2g}"
    for flaw in flaws:
        reason, _, fix = flaw.rpartition("; ")
        yield Line("initial-signal", "warn", float(len(flaws)), reason, fix)
    if not flaws:
        yield Line("initial-signal", "pass", 0.0, f"{spread}, over {len(variances)} layers")


def check_flow(flight: Flight) -> Iterator[Line]:
    """The gradient reaches every layer, and does not vanish or explode from one end to the other.

    It is looked at after a few updates: heads, residual branches and adapters may begin at 0.
    """
    sizes = measure_flow(flight)
    alive = {name: size for name, size in sizes.items() if size > 0}
    dead = [name for name in sizes if name not in alive]
    if not sizes:
        yield Line("gradient-flow", "skipped", None, "no matrix of weights has a gradient")
        return
    if len(dead) > MOST_DEAD * len(sizes):
        reason = f"the gradient of {len(dead)} of {len(sizes)} layers is 0: {name_some(dead)}"
        fix = "look at the initialization, at ReLU units that are all off, and at what detaches"
        yield Line("gradient-flow", "warn" if alive else "fail", float(len(dead)), reason, fix)
        return
    least, most = min(alive, key=lambda each: alive[each]), max(alive, key=lambda each: alive[each])
    first, last = next(iter(alive)), list(alive)[-1]
    spread = max(alive[first] / alive[last], alive[last] / alive[first])
    reason = f"gradients per weight lie in {alive[least]:.2g} ({least}) to {alive[most]:.2g} ({most})"
    has_order = len(alive) >= MIN_GROUPS and abs(correlate_with_depth(np.array(list(alive.values())))) > MIN_CORRELATION
    if spread > MOST_SPREAD and has_order:
        fix = "normalize between layers, add residual paths, or initialize by trimtab.recipes"
        how = "vanish" if alive[first] < alive[last] else "explode"
        reason += f": they {how} towards the first layers by a factor of {spread:.2g}"
        yield Line("gradient-flow", "warn", spread, reason, fix)
    else:
        yield Line("gradient-flow", "pass", spread, f"{reason}, over {len(sizes)} layers")


def measure_flow(flight: Flight) -> dict[str, float]:
    """The root mean square of the gradient of each matrix of weights after a few updates, in the model's order."""
    with flight.keep():
        flight.set_rate()
        flight.train(NUM_UPDATES)
        flight.backward(flight.batches[0])
        scale = 1.0 if flight.scaler is None else flight.scaler.get_scale()
        return {
            name: measure_size(list_values(each.grad)) / scale
            for name, each in flight.model.named_parameters()
            if each.grad is not None and each.ndim > 1
        }


def measure_size(tensor: Tensor) -> float:
    """The root mean square of some numbers; 0 of none."""
    return float(tensor.float().square().mean().sqrt()) if tensor.numel() else 0.0


def check_precision(flight: Flight) -> Iterator[Line]:
    """The same loss in mixed precision; how fast it is, and what it needs for activations."""
    device = find_device(flight.model)
    advice = precision(device)
    dtypes = {each.dtype for each in flight.model.parameters() if each.is_floating_point()}
    if flight.trial.autocast or dtypes - {torch.float32} or advice.dtype == torch.float32:
        used = sorted(str(each).removeprefix("torch.") for each in flight.trial.autocast or dtypes)
        yield Line("mixed-precision", "skipped", None, f"it trains in {', '.join(used)} already")
        return
    name = str(advice.dtype).removeprefix("torch.")
    plain = _measure(flight, None)
    mixed = _measure(flight, advice.dtype)
    apart = abs(mixed[0] - plain[0]) / max(abs(plain[0]), 1e-12)
    reason = (
        f"the loss is {plain[0]:.5g} in float32 and {mixed[0]:.5g} under autocast in {name}, {apart:.2%} apart; a step "
        f"takes {1e3 * plain[1]:.3g} and {1e3 * mixed[1]:.3g} ms, activations {plain[2] / 2**20:.3g} and "
        f"{mixed[2] / 2**20:.3g} MB"
    )
    if not isfinite(mixed[0]) or apart > NEAR_LOSS:
        yield Line(
            "mixed-precision", "fail", apart, reason, "stay in float32, or keep the loss and what is summed in it"
        )
    elif apart > SAME_LOSS:
        yield Line("mixed-precision", "warn", apart, reason, "compare two whole runs before you use it")
    else:
        slower = "" if mixed[1] < plain[1] else "it is no faster on this device: stay in float32"
        yield Line("mixed-precision", "pass", apart, reason, slower)


def _measure(flight: Flight, dtype: torch.dtype | None) -> tuple[float, float, int]:
    """The loss of the first batch, seconds of a step, and bytes that the backward pass keeps."""
    device = find_device(flight.model)

    def compute() -> Tensor:
        with torch.autocast(device.type, dtype=dtype) if dtype is not None else nullcontext():
            return flight.compute_total(flight.model, flight.batches[0])

    with flight.keep():
        with count_kept(flight.model) as kept:
            loss = compute()
        number = float(loss.detach())
        seconds = [_time(lambda: compute().backward(), device) for _ in range(NUM_TIMED)]
    return number, median(seconds), sum(kept.values())


def _time(step: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began
