"""What happens when something happens: is the loop taken up where it was left, and would Trimtab catch a NaN in it."""

from __future__ import annotations

import io
import itertools
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.control.workers import Workers
from trimtab.faults import Injector, inject
from trimtab.loop.data import TrainingData
from trimtab.probes.batch_fingerprint import take_fingerprint
from trimtab.recipes.keeping import can_save, keep_loader
from trimtab.recipes.linting.loops import is_call, list_scopes, walk
from trimtab.recipes.preflighting.flight import Flight
from trimtab.recipes.preflighting.result import MORE_TIME, Line
from trimtab.state.rng import capture_rng, restore_rng
from trimtab.supervisor import Supervisor

BEFORE, AFTER = 2, 3
"""Steps before the run is left, and steps after it that have to come again."""

FAULTS = ("nan-loss", "infinite-gradient", "nan-weight")
"""The faults that are caused: in the loss, in a gradient, in a weight."""

FAULT_STEP, NUM_STEPS = 6, 12
"""The step at which a fault is caused, and the steps of the loop that it is caused in."""

SAVING = ("save", "save_checkpoint", "save_pretrained", "save_model", "checkpoint", "fit", "save_state")
"""Calls that keep a checkpoint, or may."""


@dataclass(frozen=True, slots=True)
class Replay:
    """A few steps, as they can be compared with the same steps again."""

    losses: tuple[float, ...]
    """The loss of each."""

    batches: tuple[float, ...]
    """The fingerprint of the batch of each."""

    parameters: tuple[Tensor, ...]
    """The parameters at their end."""

    def is_same(self, other: Replay) -> bool:
        """True if both are the same, bit for bit."""
        pairs = zip(self.parameters, other.parameters, strict=True)
        return self.losses == other.losses and all(torch.equal(left, right) for left, right in pairs)


def check_resume(flight: Flight) -> Iterator[Line]:
    """A run that is left and taken up again comes to the same weights, bit for bit."""
    with keep_loader(flight.train_loader), flight.keep():
        data = _open(flight)
        _replay(flight, data, BEFORE)
        place, rng = data.state_dict(), capture_rng()
        saved = _save(flight)
        with flight.keep():
            first = _replay(flight, data, AFTER)
        data.close()
        restore_rng(rng)
        with flight.keep():
            again = _replay(flight, _open(flight, place, rng), AFTER)
        restore_rng(rng)
        _load(flight, saved)
        resumed = _replay(flight, _open(flight, place, rng), AFTER)
    yield _judge(first, again, resumed)


def _judge(first: Replay, again: Replay, resumed: Replay) -> Line:
    if first.is_same(again) and first.is_same(resumed):
        return Line("resume", "pass", 0.0, f"{AFTER} steps after a resume are the same, bit for bit")
    other = again if not first.is_same(again) else resumed
    pairs = enumerate(zip(first.losses, other.losses, strict=False), 1)
    step = next((index for index, (left, right) in pairs if left != right), AFTER)
    apart = max(
        float((a - b).abs().max()) for a, b in zip(first.parameters, other.parameters, strict=True) if a.numel()
    )
    reason = f"from step {step} after a resume on it is another run; after {AFTER} steps weights differ by {apart:.2g}"
    if first.batches != other.batches:
        fix = "the loader gives other batches: seed its generator, or give it state_dict and load_state_dict"
    elif not first.is_same(again):
        fix = "the computation itself differs: torch.use_deterministic_algorithms(True), no randomness of its own"
    else:
        fix = "something is not in state_dict: keep what changes in buffers, or save it beside the model"
    return Line("resume", "warn", apart, reason, fix)


def _open(flight: Flight, place: Any = None, rng: Any = None) -> TrainingData:
    data = TrainingData([flight.train_loader], 1, Workers(None))
    if place is not None:
        data.load_state_dict(place)
        restore_rng(rng)
    return data


def _replay(flight: Flight, data: TrainingData, num_steps: int) -> Replay:
    losses, prints = [], []
    for _ in range(num_steps):
        batch = data.fetch()
        if batch is None:
            data.end_epoch()
            batch = data.fetch()
        prints.append(float(take_fingerprint(batch)[0]))
        losses.append(flight.backward(flight.move(batch)))
        flight.update()
        if flight.scheduler is not None and not _waits(flight.scheduler):
            flight.scheduler.step()
        data.confirm()
    parameters = tuple(each.detach().clone() for each in flight.model.parameters())
    return Replay(tuple(losses), tuple(prints), parameters)


def _waits(scheduler: Any) -> bool:
    return isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)


def _save(flight: Flight) -> bytes:
    """What a checkpoint of the run's own would hold."""
    held: list[Any] = [flight.model, flight.optimizer, *flight.partners]
    buffer = io.BytesIO()
    torch.save([each.state_dict() for each in held], buffer)
    return buffer.getvalue()


def _load(flight: Flight, saved: bytes) -> None:
    held: list[Any] = [flight.model, flight.optimizer, *flight.partners]
    states = torch.load(io.BytesIO(saved), weights_only=False)
    for each, state in zip(held, states, strict=True):
        each.load_state_dict(state)


def check_saving(flight: Flight) -> Iterator[Line]:
    """How large a checkpoint is, and whether the script keeps one."""
    size = len(_save(flight)) / 2**20
    reason = f"a checkpoint takes {size:.3g} MB"
    if can_save(flight.train_loader):
        reason += ", and the loader knows its place itself"
    nodes = [node for scope in list_scopes(flight.source) for node in walk(scope)]
    if flight.source is None:
        return
    if any(is_call(node, name) for node in nodes for name in SAVING):
        yield Line("checkpoint", "pass", size, f"{reason}, and the script has a call that keeps one")
    else:
        fix = "trimtab.fit(..., run=...) or supervisor.checkpoint() keeps one every 200 steps"
        yield Line("checkpoint", "warn", size, f"{reason}, and nothing in the script keeps one", fix)


def check_guard(flight: Flight) -> Iterator[Line]:
    """A NaN in this loop is found at once, and nothing of it stays; the fault is caused, and undone."""
    if os.environ.get("TRIMTAB") == "off":
        yield Line("guard", "warn", None, "TRIMTAB is off in the environment: no NaN would be caught", "unset TRIMTAB")
        return
    for name in FAULTS:
        try:
            with flight.keep(), _keep_silent():
                flight.set_rate()
                delay, is_clean, told = _cause(flight, name)
        except Exception as error:  # the loop itself cannot go on with such a number
            reason = f"with {name} the loop ends in {type(error).__name__}: {str(error).partition(chr(10))[0]}"
            yield Line(f"guard-{name}", "warn", None, reason, "let the loss be NaN in place of raising: from scores")
            continue
        if delay is None and not told:
            yield Line(f"guard-{name}", "skipped", None, "there was no time for the steps it takes", MORE_TIME)
        elif delay is None or not is_clean:
            seen = "is not found" if delay is None else f"is found {_count(delay)}, and stays"
            yield Line(
                f"guard-{name}", "fail", delay, f"{name} {seen}", "run it with a Supervisor, and look at the page"
            )
        else:
            yield Line(f"guard-{name}", "pass", delay, f"{name} is found {_count(delay)}, and answered by a {told}")


def _count(delay: int) -> str:
    return "at once" if delay == 0 else f"{delay} step{'s' * (delay > 1)} later"


@contextmanager
def _keep_silent() -> Iterator[None]:
    """Say nothing of faults that are caused on purpose."""
    logger = logging.getLogger("trimtab")
    was_disabled, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = was_disabled


def _cause(flight: Flight, fault: str) -> tuple[int | None, bool, str]:
    """After how many steps a fault was found, whether all is finite at the end, and what was done; "" for no time."""
    trained = nn.ParameterList(each for each in flight.model.parameters() if each.requires_grad)
    injector = Injector([inject(fault, FAULT_STEP)], trained, flight.optimizer, scaler=flight.scaler)
    found: int | None = None
    told = ""
    batches = itertools.cycle(flight.batches)
    with Supervisor(
        flight.model, flight.optimizer, scaler=flight.scaler, clip_norm=flight.clip_norm, spectra_every=0
    ) as supervisor:
        try:
            for step in range(1, NUM_STEPS + 1):
                if flight.clock.is_late:
                    return None, False, ""
                decision = _step(flight, supervisor, injector, step, next(batches))
                if found is None and step >= FAULT_STEP and decision.findings:
                    found, told = step - FAULT_STEP, decision.verdict
        finally:
            injector.close()
    is_clean = all(bool(torch.isfinite(each).all()) for each in flight.model.parameters())
    return found, is_clean, told or "nothing"


def _step(flight: Flight, supervisor: Supervisor, injector: Injector, step: int, batch: Any) -> Any:
    injector.start(step)
    flight.optimizer.zero_grad()
    loss = injector.loss(step, flight.compute_total(flight.model, injector.batch(step, batch)))
    (loss if flight.scaler is None else flight.scaler.scale(loss)).backward()
    injector.gradients(step)
    decision = supervisor.check(loss)
    if flight.scaler is None:
        flight.optimizer.step()
    else:
        flight.scaler.step(flight.optimizer)
        flight.scaler.update()
    injector.end(step)
    return decision
