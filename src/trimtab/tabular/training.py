"""Training a model of a table, unattended: what to train on, for how long, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trimtab.control.rows import RowTracker
from trimtab.errors import InputError
from trimtab.loop import FitResult, fit
from trimtab.policy import Policy
from trimtab.recipes.schedules import four_phase
from trimtab.tabular.batches import Rows, make_loader
from trimtab.tabular.columns import Table
from trimtab.tabular.inference import ColumnType, infer_types, shorten
from trimtab.tabular.network import Shape, TableModel
from trimtab.tabular.objective import WEIGHTS, TableLoss
from trimtab.tabular.observing import Observer
from trimtab.tabular.preparing import apply, prepare

NUM_STEPS = 3000
"""The steps that a training is planned for, where the epochs are not given."""

FEWEST_EPOCHS, MOST_EPOCHS = 4, 60
"""The epochs that are planned at least and at most."""

HELD_OUT, MOST_HELD_OUT = 0.1, 4096
"""The share of rows that is held out for validation, and the most of them."""

FEWEST_HELD_OUT = 8
"""With fewer held-out rows than this, there is nothing to validate on but the rows that are trained on."""

FEWEST_ROWS = 2
"""One row is like no other."""

CLIP_NORM = 1.0
"""What gradients are clipped to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a model is trained."""

    shape: Shape = field(default_factory=Shape)
    """The shape of the model."""

    epochs: int | None = None
    """Epochs; None for as many as make about `NUM_STEPS` steps."""

    batch_size: int = 256
    """Rows of a batch."""

    learning_rate: float = 1e-3
    """Of AdamW, at its highest."""

    weight_decay: float = 1e-4
    """Of AdamW."""

    weights: Mapping[str, float] = field(default_factory=dict)
    """Knobs of the loss that differ from `trimtab.tabular.objective.WEIGHTS`."""

    patience: int = 10
    """Validations without an improvement after which the run has stalled."""

    partitions: int | None = None
    """Parts that the rows are divided into, of which it trains on one at a time; None for all rows at once."""

    seed: int = 0
    """Of the initial weights, the order of the rows and the cells that are hidden."""

    tracks_rows: bool = True
    """Follow each row of the data, for `rows.parquet`."""

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return asdict(self)

    def validate(self) -> None:
        """See that one can train so.

        Raises:
            InputError: if not.
        """
        self.shape.validate()
        for name in ("epochs", "batch_size", "patience", "partitions"):
            value = getattr(self, name)
            least = 2 if name == "batch_size" else 1
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise InputError(f"tabular: {name} is {value!r}; it has to be a whole number from {least} up")
        unknown = set(self.weights) - set(WEIGHTS)
        if unknown:
            raise InputError(f"tabular: there is no weight {min(unknown)!r}; there are {', '.join(WEIGHTS)}")


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """What a training gives."""

    model: TableModel
    """The model."""

    types: Mapping[str, ColumnType]
    """What each column of the table was taken for."""

    result: FitResult
    """How the run ended."""

    settings: Settings
    """How it was trained, with the number of epochs."""

    num_trained_on: int
    """Rows it was trained on."""

    num_held_out: int
    """Rows it was validated on."""

    notes: tuple[str, ...]
    """What was noticed, a sentence each."""


def train(
    table: Table,
    *,
    types: Mapping[str, ColumnType] | None = None,
    settings: Settings | None = None,
    run: str | Path | None = None,
    rows: NDArray[Any] | None = None,
    progress: bool | None = None,
) -> Trained:
    """Train a model of a table.

    Args:
        table: the table.
        types: what its columns are; inferred if None.
        settings: how to train; the usual way if None.
        run: the run folder; None for none.
        rows: the rows to train on, by number; all if None. The others are not looked at.
        progress: whether to show a progress bar; None for where standard error is a terminal.

    Raises:
        InputError: if there is nothing to learn from, or a setting cannot be.
    """
    settings = Settings() if settings is None else settings
    settings.validate()
    types = infer_types(table) if types is None else types
    chosen = np.arange(table.num_rows) if rows is None else np.asarray(rows)
    require_learnable(table, types, len(chosen))
    order = chosen[np.random.default_rng(settings.seed).permutation(len(chosen))]
    num_held_out = min(int(len(order) * HELD_OUT), MOST_HELD_OUT)
    held_out, trained_on = order[:num_held_out], np.sort(order[num_held_out:])
    notes = list(table.notes)
    if num_held_out < FEWEST_HELD_OUT:
        held_out = trained_on = np.sort(order)
        notes.append(f"{len(order)} rows are too few to hold some out: it is validated on those it is trained on")
    encodings = prepare(table.take(trained_on), types)
    arrays = apply(table, encodings)
    settings = replace(settings, epochs=settings.epochs or choose_epochs(len(trained_on), settings.batch_size))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = TableModel(encodings, settings.shape)
        data = Rows(arrays, trained_on, is_numbered=settings.tracks_rows)
        result = fit_model(model, data, Rows(arrays, held_out), settings, run=run, progress=progress)
    model.eval()
    return Trained(model, types, result, settings, len(trained_on), len(held_out), tuple(notes))


def require_learnable(table: Table, types: Mapping[str, ColumnType], num_rows: int) -> None:
    """See that there is something to learn from.

    Raises:
        InputError: if there is not.
    """
    if num_rows < FEWEST_ROWS:
        raise InputError(
            f"{table.source} has {num_rows} row (1 sample), and an embedding tells rows from each other; a few hundred "
            "are better"
        )
    if not any(each.is_feature for each in types.values()):
        reasons = shorten([f"{each.name} ({each.reason})" for each in types.values()], 4)
        raise InputError(f"{table.source} has no column that says anything: {reasons}; see --column to overrule it")


def choose_epochs(num_rows: int, batch_size: int) -> int:
    """As many epochs as make about `NUM_STEPS` steps, within bounds."""
    num_steps = max(num_rows // batch_size, 1)
    return min(max(ceil(NUM_STEPS / num_steps), FEWEST_EPOCHS), MOST_EPOCHS)


def fit_model(
    model: TableModel,
    data: Rows,
    held_out: Rows,
    settings: Settings,
    *,
    loss: TableLoss | None = None,
    run: str | Path | None = None,
    progress: bool | None = False,
) -> FitResult:
    """Train a model, by `trimtab.fit` and nothing else.

    Args:
        model: the model.
        data: the rows to train on, numbered where `settings.tracks_rows`.
        held_out: the rows to validate on.
        settings: how to train.
        loss: the loss; that of the settings if None.
        run: the run folder; None for none.
        progress: whether to show a progress bar; None for where standard error is a terminal.
    """
    epochs = settings.epochs or choose_epochs(len(data), settings.batch_size)
    batch_size = min(settings.batch_size, len(data))
    loader = make_loader(data, batch_size, shuffles=True)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    if loss is None:
        loss = TableLoss({**WEIGHTS, **settings.weights}, by_row=settings.tracks_rows)
    loss.columns = model.list_columns()
    return fit(
        model,
        optimizer,
        loss,
        loader,
        val_loader=make_loader(held_out, batch_size),
        epochs=epochs,
        scheduler=four_phase(optimizer, epochs * len(loader)),
        clip_norm=CLIP_NORM,
        groups=model.list_groups(),
        policy=Policy.preset("absolute-tiers"),
        patience=settings.patience,
        partitions=settings.partitions,
        rows=RowTracker(len(data)) if settings.tracks_rows else None,
        embed=Observer(held_out),
        run=run,
        progress=progress,
    )


def embed_rows(model: TableModel, table: Table, batch_size: int = 512) -> NDArray[np.float32]:
    """The embeddings of all rows of a table; shape (rows, dimensions).

    The last batch is filled up with its first row: matrices of one size are multiplied in one way, so that the
    embedding of a row does not depend on how many others are embedded with it.

    Args:
        model: a trained model.
        table: a table with all of its columns, or some: what is not there is missing.
        batch_size: rows that are embedded at a time.
    """
    rows = Rows(apply(table, model.encodings))
    device = model.mask.device
    model.eval()
    found = []
    with torch.inference_mode():
        for begin in range(0, len(rows), batch_size):
            places = [each if each < len(rows) else begin for each in range(begin, begin + batch_size)]
            batch = rows.__getitems__(places)
            found.append(model({name: each.to(device) for name, each in batch.items()}).float().cpu())
    return torch.cat(found)[: len(rows)].numpy() if found else np.empty((0, model.shape.dimensions), np.float32)


def list_missing(model: TableModel, names: Sequence[str]) -> list[str]:
    """The columns of a model that a table lacks."""
    return [each for each in model.names if each not in names]
