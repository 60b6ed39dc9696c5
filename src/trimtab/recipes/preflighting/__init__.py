"""Preflight: the checklist before the first step, in order, each line with a number, a reason and a fix."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import nn

from trimtab.errors import InputError
from trimtab.probes.rerun import ComputeLoss
from trimtab.recipes.preflighting import data, guarding, ladder, learning, numbers
from trimtab.recipes.preflighting.factory import load_factory, make_flight
from trimtab.recipes.preflighting.flight import Accuracy, Clock, Flight
from trimtab.recipes.preflighting.result import MORE_TIME, Line, Preflight

if TYPE_CHECKING:
    from torch.amp.grad_scaler import GradScaler
    from torch.optim import Optimizer

__all__ = ["Line", "Preflight", "preflight", "preflight_file"]

OnStage = Callable[[int, int, str], object]
"""`on_stage(num_done, num_all, name)`: told of each part of the checklist before it begins."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the checklist."""

    step: int
    """Its step; several parts may have one."""

    name: str
    """What it is called."""

    judge: Callable[[Flight], Iterator[Line]]
    """What tries it."""

    share: float
    """What it may take of the time that is left, beside the shares of those after it."""

    stopped_by: tuple[int, ...] = ()
    """The steps that must not fail before it."""


STAGES = (
    Stage(1, "batch", data.check_batch, 1.0),
    Stage(1, "lint", data.check_lint, 1.0, (1,)),
    Stage(1, "scale", data.check_scale, 0.2, (1,)),
    Stage(1, "labels", data.check_labels, 0.2, (1,)),
    Stage(1, "repeats", data.check_repeats, 1.0, (1,)),
    Stage(1, "leakage", data.check_leakage, 1.0, (1,)),
    Stage(2, "overfit", learning.check_overfit, 2.5, (1,)),
    Stage(3, "nonfinite", numbers.check_nonfinite, 0.5, (1,)),
    Stage(4, "initial-loss", numbers.check_initial_loss, 0.3, (1,)),
    Stage(4, "initial-signal", numbers.check_signal, 0.3, (1, 3)),
    Stage(4, "gradient-flow", numbers.check_flow, 0.5, (1, 3)),
    Stage(5, "learning-rate", learning.check_rate, 3.0, (1, 2, 3)),
    Stage(6, "regularization", learning.check_regularization, 1.5, (1, 2, 3)),
    Stage(7, "schedule", learning.check_schedule, 1.2, (1, 2, 3)),
    Stage(8, "mixed-precision", numbers.check_precision, 1.0, (1, 3)),
    Stage(9, "ladder", ladder.check_ladder, 2.0),
    Stage(10, "resume", guarding.check_resume, 0.7, (1, 3)),
    Stage(10, "checkpoint", guarding.check_saving, 0.1),
    Stage(11, "guard", guarding.check_guard, 1.5, (1, 3)),
)
"""The checklist: eight steps of debugging, then the ladder, resume, and what Trimtab would catch."""


STOPPING = frozenset(
    "batch nonfinite-inputs labels-out-of-range ids-out-of-range loss-fails loss-without-gradient overfit "
    "nonfinite".split()
)
"""The lines that make what comes after them senseless where they fail."""


def preflight(
    model: nn.Module,
    optimizer: Optimizer,
    compute_loss: ComputeLoss,
    train_loader: Iterable[Any],
    *,
    val_loader: Any = None,
    scheduler: Any = None,
    scaler: GradScaler | None = None,
    clip_norm: float | None = None,
    accuracy: Accuracy | None = None,
    floor: float = 0.0,
    ladder: Mapping[str, Callable[[], Any]] | None = None,
    budget: float = 120.0,
    on_stage: OnStage | None = None,
) -> Preflight:
    """Go through the debugging checklist before the first step, in order, as far as it makes sense.

    It trains for short stretches and sets everything back: model, optimizer, scheduler, scaler, loader and random
    numbers are bit for bit as before afterwards. The arguments are those of `trimtab.fit`, and a few more.

    Args:
        model: the model, on its device.
        optimizer: its optimizer.
        compute_loss: `compute_loss(model, batch)`: the loss, 0-d, or several by name.
        train_loader: gives the training batches, anew each time.
        val_loader: gives the validation batches; None for none.
        scheduler: stepped once per step; None for none.
        scaler: the loss scaler of float16; None for none.
        clip_norm: gradients are clipped to this total norm; None for no clipping.
        accuracy: `accuracy(model, batch)`, the share of a batch that is right; read off a cross entropy if None.
        floor: the lowest loss that a batch can have, such as its entropy under label smoothing.
        ladder: for a model with many special parts: by name, factories of trainings with more and more of them, such
            as minimal, mixed precision, advanced and all. Each returns a mapping with the names of these arguments.
        budget: seconds in all; what is not tried in time is skipped, and says so.
        on_stage: `on_stage(num_done, num_all, name)`, called before each part.

    Returns:
        The lines of the checklist.

    Raises:
        InputError: if something handed over cannot be used.
        Exception: whatever a loader raises.
    """
    given = {
        "model": model,
        "optimizer": optimizer,
        "compute_loss": compute_loss,
        "train_loader": train_loader,
        "val_loader": val_loader,
        "scheduler": scheduler,
        "scaler": scaler,
        "clip_norm": clip_norm,
        "accuracy": accuracy,
        "floor": floor,
        "ladder": ladder,
    }
    return _run(given, "the call", None, budget, on_stage)


def preflight_file(place: str, *, budget: float = 120.0, on_stage: OnStage | None = None) -> Preflight:
    """Go through the checklist with what a factory in a file returns; what lint reads of a loop it reads in the file.

    Args:
        place: `FILE.py` for its function `make`, or `FILE.py:FACTORY`. The function takes no argument and returns a
            mapping with the names of the arguments of `preflight`, or model, optimizer, compute_loss and train_loader.
        budget: seconds in all.
        on_stage: called before each part.

    Raises:
        InputError: if there is no such factory, or what it returns cannot be used.
        Exception: whatever the file raises.
    """
    factory, source = load_factory(place)
    return _run(factory(), f"the factory {place!r}", source, budget, on_stage)


def _run(given: Any, who: str, source: str | None, budget: float, on_stage: OnStage | None) -> Preflight:
    if not budget > 0:
        raise InputError(f"preflight: budget is {budget!r}; it has to be a number of seconds above 0")
    flight = make_flight(given, who, source=source, clock=Clock(budget))
    lines: list[Line] = []
    for index, stage in enumerate(STAGES):
        if on_stage is not None:
            on_stage(index, len(STAGES), stage.name)
        lines += (replace(each, step=stage.step) for each in _try(flight, stage, lines))
    if on_stage is not None:
        on_stage(len(STAGES), len(STAGES), "done")
    return Preflight(tuple(lines), flight.picture, flight.clock.seconds)


def _try(flight: Flight, stage: Stage, lines: list[Line]) -> Iterator[Line]:
    """The lines of a part; one that says why where it is skipped or breaks off."""
    failed = next((each for each in lines if each.status == "fail" and _stops(each, stage)), None)
    if failed is not None:
        yield Line(stage.name, "skipped", None, f"it says nothing while {failed.name} fails")
        return
    if flight.clock.is_over:
        yield Line(stage.name, "skipped", None, f"the budget of {flight.clock.budget:g} s is spent", MORE_TIME)
        return
    left = STAGES[STAGES.index(stage) :]
    flight.clock.allow(stage.share / sum(each.share for each in left))
    try:
        yield from stage.judge(flight)
    except InputError:
        raise
    except Exception as error:
        told = str(error).strip().split("\n")[0] or "without a word"
        yield Line(stage.name, "fail", None, f"{type(error).__name__}: {told}", "follow the traceback of one such step")


def _stops(line: Line, stage: Stage) -> bool:
    """True if a line that fails makes a later part senseless."""
    return line.step in stage.stopped_by and line.name in STOPPING
