"""The loop for people who have none: `fit`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trimtab.control.review import Review
from trimtab.control.rows import RowTracker
from trimtab.loop.assembly import assemble
from trimtab.loop.options import Options, choose_to_go_on, list_schedulers, validate_numbers, validate_parts
from trimtab.loop.result import FitResult
from trimtab.loop.reviews import Embed
from trimtab.loop.training import Training
from trimtab.probes.rerun import ComputeLoss

if TYPE_CHECKING:
    from torch import nn
    from torch.amp.grad_scaler import GradScaler
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

    from trimtab.journal import Tracker
    from trimtab.policy import Policy
    from trimtab.probes.groups import Grouping

__all__ = ["FitResult", "Review", "fit"]


def fit(
    model: nn.Module,
    optimizer: Optimizer,
    compute_loss: ComputeLoss,
    train_loader: Iterable[Any],
    *,
    val_loader: Any = None,
    test_loader: Any = None,
    epochs: int = 1,
    scheduler: LRScheduler | ReduceLROnPlateau | Sequence[Any] | None = None,
    run: str | Path | None = None,
    resume: bool | Literal["auto"] = "auto",
    clip_norm: float | None = None,
    groups: Grouping | None = None,
    scaler: GradScaler | None = None,
    policy: Policy | None = None,
    accumulate: int = 1,
    micro_batch: int | None = None,
    patience: int | None = None,
    min_delta: float = 0.0,
    restore_best: bool | Literal["composite", "loss"] | None = None,
    partitions: int | Sequence[Iterable[Any]] | None = None,
    adaptive: bool = False,
    rows: RowTracker | None = None,
    embed: Embed | None = None,
    checkpoint_every: int = 200,
    trackers: Sequence[Tracker] = (),
    progress: bool | None = None,
) -> FitResult:
    """Train a model under supervision, from the first batch or from where the run was left.

    With a run folder the run goes on by itself, bit for bit, from its newest checkpoint: after a pause, a crash, or
    with more epochs. When memory runs out, the step is computed again in smaller micro-batches, with the same samples
    and the same gradient up to rounding. Signals are acted on between two batches, see `trimtab.signals`.

    Args:
        model: the model, on its device; batches are moved there.
        optimizer: its optimizer.
        compute_loss: `compute_loss(model, batch)`: the loss of a batch, a 0-d tensor that is a mean over its samples,
            or a dict of such tensors whose sum is the loss. Autocast is its business.
        train_loader: gives the batches, anew in each epoch: a `DataLoader`, a list, or any other iterable.
        val_loader: gives the batches of the validation after each epoch, or a `Dataset`.
        test_loader: gives batches that take no part in any choice, or a `Dataset`: measured once, at the end.
        epochs: how many epochs the run has altogether.
        scheduler: stepped once per optimizer step; a `ReduceLROnPlateau` once per validation. Or several, one of which
            may be a schedule of something else, such as `trimtab.recipes.DropoutSchedule`.
        run: the run folder; None for none, and then nothing is saved.
        resume: "auto" to go on with a run that is in the folder, True to insist on one, False to insist on none.
        clip_norm: gradients are clipped to this total norm; None for no clipping.
        groups: the parameter groups to measure by, as for the supervisor; by default the model's own modules.
        scaler: the `GradScaler` of mixed-precision training.
        policy: what the supervisor finds and how it answers; `Policy.default()` if None.
        accumulate: how many batches make one step, weighted by their samples.
        micro_batch: the most samples of one forward pass; None for whole batches, until memory runs out.
        patience: the validations without an improvement after which the run has stalled and is stopped, with the
            safeguards in `docs/howto/fit.md`; 10 is a good number. None to go through all epochs.
        min_delta: by how much the validation loss has to fall to count as an improvement.
        restore_best: leave the model with the weights of its best validation, by `composite` of loss and spectra or by
            `loss` alone; True is `composite`. If None, where there is `patience`.
        partitions: go on with fresh data where the run has stalled: in how many parts the data of `train_loader` are
            divided, of which it trains on one at a time, or a list of loaders to go to after `train_loader`.
        adaptive: change the learning rate on top of the schedule, within bounds: less on a plateau, more where there
            is room to push; given back where it did not help.
        rows: follows each row of the data; `train_loader` is one over `IndexedRows`, and `compute_loss` gets the batch
            without the row numbers and returns a loss for each row, whose mean is the loss.
        embed: `embed(model)`, called at each validation in eval mode: what the model makes of a fixed sample, a mapping
            with `embeddings`, and where there are any `views` and `columns`, as for `Supervisor.review`. If
            `compute_loss` has a dict `weights` that it reads, a `RepresentationGuard` moves them; if it has a dict
            `columns` of the modules that encode columns, by name, the guard makes dead ones anew. If it has a mapping
            `final_weights`, those of its weights go there in a finalization.
        checkpoint_every: steps between two checkpoints.
        trackers: who is told of the run beside its folder, as for the supervisor.
        progress: whether to show a progress bar; None for where standard error is a terminal.

    Returns:
        How the run ended. A run that the supervisor halted is no exception: its status is `halted`.

    Raises:
        InputError: if something handed over cannot be used.
        OutOfMemory: if memory runs out whatever the size of a micro-batch.
        Exception: whatever `compute_loss` or a loader raises, once the last whole step is saved.
    """
    schedulers = list_schedulers(scheduler)
    validate_parts(model, optimizer, compute_loss, train_loader, schedulers)
    options = Options(
        epochs=epochs,
        schedulers=schedulers,
        run=None if run is None else Path(run),
        goes_on=choose_to_go_on(run, resume),
        insists=resume is True,
        clip_norm=clip_norm,
        groups=groups,
        scaler=scaler,
        policy=policy,
        accumulate=accumulate,
        micro_batch=micro_batch,
        patience=patience,
        min_delta=min_delta,
        restore_best=patience is not None if restore_best is None else restore_best,
        partitions=partitions,
        adaptive=adaptive,
        rows=rows,
        embed=embed,
        checkpoint_every=checkpoint_every,
        trackers=trackers,
        progress=progress,
    )
    validate_numbers(options, has_scores=val_loader is not None)
    parts = assemble(model, optimizer, compute_loss, train_loader, val_loader, test_loader, options)
    return Training(parts, options).fit()
