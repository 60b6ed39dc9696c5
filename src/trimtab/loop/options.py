"""What `fit` is asked for, and whether it can be done."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from trimtab.control.early_stopping import validate_patience
from trimtab.control.rows import RowTracker
from trimtab.errors import InputError
from trimtab.journal.format import MANIFEST
from trimtab.loop.reviews import Criterion, Embed
from trimtab.ranks import is_distributed

if TYPE_CHECKING:
    from torch.amp.grad_scaler import GradScaler

    from trimtab.journal import Tracker
    from trimtab.policy import Policy
    from trimtab.probes.groups import Grouping


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What `fit` was asked for, beside model, optimizer, loss and data; its docstring says what each is."""

    epochs: int
    schedulers: tuple[Any, ...]
    run: Path | None
    goes_on: bool
    insists: bool
    clip_norm: float | None
    groups: Grouping | None
    scaler: GradScaler | None
    policy: Policy | None
    accumulate: int
    micro_batch: int | None
    patience: int | None
    min_delta: float
    restore_best: bool | Criterion
    partitions: int | Sequence[Iterable[Any]] | None
    adaptive: bool
    rows: RowTracker | None
    embed: Embed | None
    checkpoint_every: int
    trackers: Sequence[Tracker]
    progress: bool | None

    @property
    def criterion(self) -> Criterion:
        """By what the best weights are chosen."""
        return "loss" if self.restore_best == "loss" else "composite"


def list_schedulers(scheduler: Any) -> tuple[Any, ...]:
    """None, a schedule or several, as several."""
    if scheduler is None:
        return ()
    return tuple(scheduler) if isinstance(scheduler, (list, tuple)) else (scheduler,)


def validate_parts(
    model: object, optimizer: object, compute_loss: object, train_loader: object, schedulers: Iterable[object]
) -> None:
    """See that what is trained can be.

    Raises:
        InputError: if it cannot.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"fit: model is a {type(model).__name__!r}; it has to be a torch.nn.Module")
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise InputError(f"fit: optimizer is a {type(optimizer).__name__!r}; it has to be a torch.optim.Optimizer")
    if not callable(compute_loss):
        raise InputError(f"fit: compute_loss is {compute_loss!r}; it has to be a function compute_loss(model, batch)")
    if not isinstance(train_loader, Iterable):
        raise InputError(
            f"fit: train_loader is a {type(train_loader).__name__!r}; it has to be an iterable of batches, such as a "
            "DataLoader"
        )
    for each in schedulers:
        if not callable(getattr(each, "step", None)):
            raise InputError(
                f"fit: scheduler is a {type(each).__name__!r}, which has no method step; pass one of "
                "torch.optim.lr_scheduler"
            )
    if is_distributed():
        raise InputError("fit: it trains in one process; in a distributed run use trimtab.Supervisor in your own loop")


def validate_numbers(options: Options, *, has_scores: bool) -> None:
    """See that the options make sense, alone and together.

    Args:
        options: the options.
        has_scores: True if there is something to validate on.

    Raises:
        InputError: if they do not.
    """
    counts = {"epochs": options.epochs, "accumulate": options.accumulate, "checkpoint_every": options.checkpoint_every}
    if options.micro_batch is not None:
        counts["micro_batch"] = options.micro_batch
    for name, value in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"fit: {name} is {value!r}; it has to be a whole number above 0")
    validate_patience(options.patience, options.min_delta, has_scores=has_scores)
    if options.restore_best not in (True, False, "loss", "composite"):
        raise InputError(
            f"fit: restore_best is {options.restore_best!r}; it has to be True, False, 'composite' or 'loss', or None "
            "for True where there is patience"
        )
    if options.restore_best and not has_scores:
        raise InputError("fit: restore_best needs a validation loss to judge by; pass val_loader= too")
    if options.partitions is not None and options.patience is None:
        raise InputError("fit: partitions needs patience, which says when a run has stalled; pass patience= too")
    if options.adaptive and not has_scores:
        raise InputError("fit: adaptive needs a validation loss to judge by; pass val_loader= too")
    if options.embed is not None and not callable(options.embed):
        raise InputError(f"fit: embed is {options.embed!r}; it has to be a function embed(model)")
    if options.embed is not None and not has_scores:
        raise InputError("fit: embed is called at validations; pass val_loader= too")
    if options.rows is not None and not isinstance(options.rows, RowTracker):
        raise InputError(
            f"fit: rows is a {type(options.rows).__name__!r}; it has to be a trimtab.control.rows.RowTracker"
        )
    if any(isinstance(each, ReduceLROnPlateau) for each in options.schedulers) and not has_scores:
        raise InputError("fit: a ReduceLROnPlateau needs a validation loss to judge by; pass val_loader= too")


def choose_to_go_on(run: str | Path | None, resume: object) -> bool:
    """Whether to go on with a run that may be in the folder already.

    Raises:
        InputError: if `resume` is nothing of the kind, or there is no run to insist on.
    """
    if resume not in (True, False, "auto"):
        raise InputError(f"fit: resume is {resume!r}; it has to be True, False or 'auto'")
    if resume is True and (run is None or not (Path(run) / MANIFEST).is_file()):
        where = "no run folder was given" if run is None else f"there is no run in {str(run)!r}"
        raise InputError(f"fit: resume is True, but {where}; pass run= with the folder of a run, or resume='auto'")
    return run is not None and resume is not False
