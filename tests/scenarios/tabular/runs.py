"""Small trainings on a real table, in which a column can be made to go wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from trimtab.loop import FitResult
from trimtab.tabular.batches import Batch, Rows
from trimtab.tabular.encoders import NumberParameters, Tokens
from trimtab.tabular.inference import ColumnType, infer_types
from trimtab.tabular.network import Shape, TableModel
from trimtab.tabular.objective import TableLoss
from trimtab.tabular.preparing import Encoding, apply, prepare
from trimtab.tabular.reading import read_table
from trimtab.tabular.training import Settings, fit_model

NUM_ROWS, NUM_HELD_OUT = 1536, 512
SETTINGS = Settings(
    shape=Shape(hidden=64, dimensions=32), epochs=24, batch_size=128, learning_rate=3e-3, tracks_rows=False
)
ONSET = 64
"""Steps of a healthy training before a trouble begins that does not come with its data; an epoch has eight."""

ZIP = "zip_code"
DEAD = ("carat", "depth", "price")


@cache
def read_diamonds() -> pd.DataFrame:
    """Diamonds, with the code of the shop that each is sold in."""
    from plotnine.data import diamonds

    chosen = diamonds.iloc[np.random.default_rng(0).permutation(len(diamonds))[:NUM_ROWS]].reset_index(drop=True)
    shops = np.random.default_rng(1).choice(np.arange(98101, 98141), NUM_ROWS)
    return pd.DataFrame(chosen).astype({"price": float}).assign(**{ZIP: shops})


class Spoilt(TableLoss):
    """The loss of a training in which something happens to the model at a step."""

    def __init__(self, spoil: Callable[[TableModel], None], at_step: int, *, guarded: bool) -> None:
        super().__init__()
        self._spoil, self._num_left = spoil, at_step
        if not guarded:  # of knobs that cannot be moved there is no guard
            self.weights = MappingProxyType(self.weights)

    def __call__(self, model: Any, batch: Batch) -> dict[str, Tensor]:
        """The parts of the loss."""
        if model.training:
            self._num_left -= 1
            if self._num_left == -1:
                self._spoil(model)
        return super().__call__(model, batch)


class RawTokens(Tokens):
    """Tokens of which one is a number times a vector, without the normalization that all others have."""

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The tokens, missing cells and keys."""
        tokens, missing, keys = super().forward(batch)
        place = [each for each, told in enumerate(self.columns) if isinstance(told, NumberParameters)][-1]
        parameters = self.columns[place]
        assert isinstance(parameters, NumberParameters)
        values = ((batch["numbers"][:, -1] - parameters.shift) / parameters.stretch).float()
        raw = values[:, None] * parameters.weight[0]
        return torch.cat([tokens[:, :place], raw[:, None], tokens[:, place + 1 :]], 1), missing, keys


def keep_raw(encoding: Encoding) -> Encoding:
    """The zip code as it is, in bins of numbers around 0."""
    bounds = tuple(np.linspace(-3, 3, len(encoding.knots)).tolist())
    return replace(encoding, center=0.0, scale=1.0, knots=bounds) if encoding.name == ZIP else encoding


def add_raw(model: TableModel) -> None:
    """Do without normalization."""
    model.tokens.__class__ = RawTokens


def kill_columns(model: TableModel) -> None:
    """Weights so large, and all in one direction, that tokens are the same whatever the number, and stay so."""
    for name in DEAD:
        weight = model.list_columns()[name].weight
        assert isinstance(weight, Tensor)
        with torch.no_grad():
            weight[:3] = 0
            weight[3:] = 1e6 * weight[4]


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """A training and what became of it."""

    result: FitResult
    """How it ended."""

    metrics: list[Mapping[str, Any]]
    """The numbers of each review."""

    types: Mapping[str, ColumnType]
    """What columns were taken for."""

    @property
    def recall(self) -> float:
        """The recall of the last three reviews, their mean."""
        return float(np.mean([each["recall_at_1"] for each in self.metrics[-3:]]))

    @property
    def decisions(self) -> list[str]:
        """What was found at steps and reviews, in words."""
        assert self.result.log is not None
        return [each["decision"]["reason"] for each in self.result.log.events if each["event"] == "decision"]


def fit(
    frame: pd.DataFrame,
    *,
    kinds: Mapping[str, str] | None = None,
    change: Callable[[Encoding], Encoding] = lambda each: each,
    build: Callable[[TableModel], None] = lambda _: None,
    spoil: Callable[[TableModel], None] = lambda _: None,
    guarded: bool = True,
) -> Run:
    """Train a model of a table, with something wrong in it."""
    table = read_table(frame)
    types = infer_types(table, kinds=kinds)
    encodings = [change(each) for each in prepare(table, types)]
    arrays = apply(table, encodings)
    torch.manual_seed(0)
    model = TableModel(encodings, SETTINGS.shape)
    build(model)
    loss = Spoilt(spoil, ONSET, guarded=guarded)
    order = np.random.default_rng(0).permutation(NUM_ROWS)
    data, held_out = Rows(arrays, order[NUM_HELD_OUT:]), Rows(arrays, order[:NUM_HELD_OUT])
    result = fit_model(model, data, held_out, SETTINGS, loss=loss)
    recorded = result.to_frame("pandas")
    return Run(result, recorded[recorded["clock"] == "review"].to_dict("records"), types)


@cache
def train_healthy(**kinds: str) -> Run:
    """The training of the table as it is."""
    return fit(read_diamonds(), kinds=kinds)
