"""What a run of `fit` is made of, put together."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from trimtab.control.batches import find_device
from trimtab.control.course import Rules
from trimtab.control.guarding import RepresentationGuard
from trimtab.control.memory import MicroBatchSize
from trimtab.control.partitions import list_loaders
from trimtab.control.workers import Workers
from trimtab.loop.adapting import Adapting
from trimtab.loop.data import TrainingData, describe_data, gives_rows
from trimtab.loop.ending import Ending
from trimtab.loop.objective import Objective
from trimtab.loop.options import Options
from trimtab.loop.reviews import Reviews
from trimtab.loop.stages import Stages
from trimtab.loop.step import Stepper
from trimtab.loop.validation import make_loader, take_probe
from trimtab.probes.rerun import ComputeLoss
from trimtab.report.notebook import Memory
from trimtab.supervisor import Supervisor

if TYPE_CHECKING:
    from torch.optim import Optimizer

logger = logging.getLogger("trimtab")


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a run."""

    model: nn.Module
    """The model."""

    optimizer: Optimizer
    """Its optimizer."""

    objective: Objective
    """Gives the loss of a training batch."""

    supervisor: Supervisor
    """Judges every step and review."""

    folder: Path | None
    """The run folder, where there is one."""

    workers: Workers
    """Sees to the workers of all loaders."""

    data: TrainingData
    """Gives the training batches."""

    stepper: Stepper
    """Makes the steps."""

    reviews: Reviews
    """Validates, and keeps the best weights."""

    adapting: Adapting
    """Changes the run between epochs."""

    stages: Stages
    """What was planned and what happened."""

    ending: Ending
    """Leaves the model at its best."""

    described: str
    """The training data in a sentence."""

    memory: Memory | None
    """Records a run that has no folder."""
    guard: RepresentationGuard | None = None
    """Keeps representations alive, where there are any."""


def assemble(
    model: nn.Module,
    optimizer: Optimizer,
    compute_loss: ComputeLoss,
    train_loader: Iterable[Any],
    val_loader: Any,
    test_loader: Any,
    options: Options,
) -> Parts:
    """Put a run together.

    Args:
        model: the model.
        optimizer: its optimizer.
        compute_loss: gives the loss of a batch.
        train_loader: gives the training batches.
        val_loader: gives the validation batches, or is a data set; None for no validation.
        test_loader: gives the test batches, or is a data set; None for none.
        options: all else, validated.

    Raises:
        InputError: if something handed over cannot be used.
    """
    device = find_device(model)
    val_loader = None if val_loader is None else make_loader(val_loader, train_loader, device)
    test_loader = None if test_loader is None else make_loader(test_loader, train_loader, device)
    loaders = list_loaders(train_loader, options.partitions)
    by_row = options.rows is not None

    def warn(message: str) -> None:
        logger.warning("%s", message)
        supervisor.tell_event("out-of-memory", message=message)

    def make_objective(loader: Any = None) -> Objective:
        size = MicroBatchSize(options.micro_batch, warn)
        return Objective(compute_loss, device, size, by_row=by_row, unwraps=by_row and gives_rows(loader))

    objective = make_objective()
    memory = Memory() if options.run is None else None
    supervisor = Supervisor(
        model,
        optimizer,
        *options.schedulers,
        clip_norm=options.clip_norm,
        groups=options.groups,
        scaler=options.scaler,
        policy=options.policy,
        run=options.run,
        compute_loss=objective,
        probe=None if val_loader is None else take_probe(val_loader, tracks_rows=by_row),
        resume=options.goes_on,
        checkpoint_every=options.checkpoint_every,
        trackers=options.trackers if memory is None else [*options.trackers, memory],
        spectra_every=0,  # a validation measures them itself, for the choice of the best
    )
    folder = options.run if options.run is not None and options.run.is_dir() else None
    workers = Workers(folder)
    data = TrainingData(loaders, options.accumulate, workers, has_rows=by_row)
    keeps_best = bool(options.restore_best)
    reviews = Reviews(
        model, make_objective(val_loader), val_loader, workers, folder, keeps_best=keeps_best, embed=options.embed
    )
    weights, guard = getattr(compute_loss, "weights", None), None
    if options.embed is not None and isinstance(weights, MutableMapping):
        columns = getattr(compute_loss, "columns", None)
        guard = RepresentationGuard(supervisor, weights, columns=columns if isinstance(columns, Mapping) else None)
    final_weights = getattr(compute_loss, "final_weights", None)
    rules = Rules(
        epochs=options.epochs,
        patience=options.patience,
        min_delta=options.min_delta,
        num_partitions=len(loaders),
        is_adaptive=options.adaptive,
    )
    return Parts(
        model=model,
        optimizer=optimizer,
        objective=objective,
        supervisor=supervisor,
        folder=folder,
        workers=workers,
        data=data,
        stepper=Stepper(model, optimizer, objective, supervisor, options.scaler, options.schedulers, options.rows),
        reviews=reviews,
        adapting=Adapting(
            rules,
            reviews,
            data,
            supervisor,
            options.criterion,
            guard,
            final_weights if isinstance(final_weights, Mapping) else None,
        ),
        stages=Stages(model, compute_loss, supervisor),
        ending=Ending(model, reviews, supervisor, make_objective(test_loader), test_loader, workers),
        described=describe_data(train_loader, len(loaders)),
        memory=memory,
        guard=guard,
    )
