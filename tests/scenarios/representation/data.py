"""Real images and a real table, what a view of them lacks, and the encoders that are trained on them."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trimtab.bench.workloads.images import read_digits
from trimtab.probes.embeddings import Column

NUM_SAMPLE = 256
HIDDEN = 128

MASKED, NOISE = 0.2, 0.05
"""The share of pixels that a view of an image lacks, and the noise on all of them."""

HIDES = 0.3
"""The share of columns that a view of a row lacks."""

SCALARS = ("carat", "depth", "table", "price", "x", "y", "z")
CATEGORIES = ("cut", "color", "clarity")


class Images:
    """Digits; a view lacks some pixels and has noise on it."""

    def __init__(self) -> None:
        (self.rows, _), (held_out, _) = read_digits()
        generator = torch.Generator().manual_seed(5)
        self.held_out = held_out[:NUM_SAMPLE]
        self.sample = self.draw(self.held_out, generator), self.draw(self.held_out, generator)

    def draw(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """A view of some rows."""
        kept = torch.rand(rows.shape, generator=generator) >= MASKED
        return rows * kept + NOISE * torch.randn(rows.shape, generator=generator)

    def build(self, dimensions: int) -> nn.Module:
        """An encoder."""
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, dimensions),
        )

    def read_values(self, rows: Tensor) -> Tensor:
        """A number for each column of pixels, the same for the same pixels; shape (rows, columns)."""
        return (16 * rows[:, 0].double() * 17.0 ** torch.arange(8)[:, None]).sum(1)

    def observe(self, model: nn.Module) -> dict[str, Any]:
        """What a review is handed."""
        first, second = (model(each) for each in self.sample)
        return {"embeddings": first, "views": second}


class Strips(Images):
    """The digits cut into their eight columns of pixels, each a column of a table."""

    def build(self, dimensions: int) -> nn.Module:
        """An encoder."""
        return Striped(dimensions)

    def observe(self, model: nn.Module) -> dict[str, Any]:
        """What a review is handed."""
        assert isinstance(model, Striped)
        tokens, values = model.encode(self.held_out), self.read_values(self.held_out)
        columns = {name: (values[:, index], tokens[:, index]) for index, name in enumerate(model.columns)}
        return {**super().observe(model), "columns": columns}


class Table:
    """Diamonds: seven numbers and three categories; a view lacks some of the columns."""

    def __init__(self) -> None:
        from plotnine.data import diamonds

        chosen = diamonds.iloc[np.random.default_rng(0).permutation(len(diamonds))[: 768 + NUM_SAMPLE]]
        numbers = chosen[list(SCALARS)].to_numpy(np.float64)
        numbers = (numbers - numbers.mean(0)) / numbers.std(0)
        codes = np.stack([chosen[name].cat.codes.to_numpy() for name in CATEGORIES], 1)
        shown = np.ones((len(chosen), len(SCALARS) + len(CATEGORIES)))
        rows = torch.from_numpy(np.concatenate([numbers, codes, shown], 1)).float()
        self.rows, self.held_out = rows[NUM_SAMPLE:], rows[:NUM_SAMPLE]
        generator = torch.Generator().manual_seed(5)
        self.sample = self.draw(self.held_out, generator), self.draw(self.held_out, generator)

    def draw(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """A view of some rows."""
        view = rows.clone()
        num = len(SCALARS) + len(CATEGORIES)
        view[:, num:] = (torch.rand(len(rows), num, generator=generator) >= HIDES).float()
        return view

    def show(self, names: tuple[str, ...]) -> Tensor:
        """The sample, of which some columns alone are seen."""
        view = self.held_out.clone()
        all_names = (*SCALARS, *CATEGORIES)
        view[:, len(all_names) :] = torch.tensor([float(name in names) for name in all_names])
        return view

    def build(self, dimensions: int) -> nn.Module:
        """An encoder."""
        return Tabular(dimensions)

    def read_values(self, rows: Tensor) -> Tensor:
        """What the columns hold; shape (rows, columns)."""
        return rows[:, : len(SCALARS) + len(CATEGORIES)]

    def observe(self, model: nn.Module) -> dict[str, Any]:
        """What a review is handed."""
        first, second = (model(each) for each in self.sample)
        assert isinstance(model, Tabular)
        tokens = model.encode(self.held_out)
        columns = {
            name: Column(self.held_out[:, index], tokens[:, index], "scalar" if name in SCALARS else "category")
            for index, name in enumerate((*SCALARS, *CATEGORIES))
        }
        views = {"joint": second, "scalar": model(self.show(SCALARS)), "category": model(self.show(CATEGORIES))}
        return {"embeddings": first, "views": views, "columns": columns}


class Columned(nn.Module):
    """An encoder that makes a token of each column."""

    columns: nn.ModuleDict

    dead: tuple[str, ...]
    """The columns that die where some do."""

    def encode(self, rows: Tensor) -> Tensor:
        """The tokens of all columns; shape (rows, columns, width)."""
        raise NotImplementedError


class Striped(Columned):
    """Each strip of pixels a token, and two layers over all of them."""

    dead = ("strip3", "strip4", "strip5")

    def __init__(self, dimensions: int, width: int = 16) -> None:
        super().__init__()
        self.columns = nn.ModuleDict(
            {f"strip{index}": nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, width)) for index in range(8)}
        )
        self.head = nn.Sequential(nn.Linear(8 * width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, dimensions))

    def encode(self, rows: Tensor) -> Tensor:
        """The tokens of all columns; shape (rows, columns, width)."""
        strips = rows[:, 0].unbind(2)
        return torch.stack([each(strip) for each, strip in zip(self.columns.values(), strips, strict=True)], 1)

    def forward(self, rows: Tensor) -> Tensor:
        """The embeddings; shape (rows, dimensions)."""
        embeddings: Tensor = self.head(self.encode(rows).flatten(1))
        return embeddings


class Tabular(Columned):
    """Each column a token, and two layers over all of them; what is hidden is 0."""

    dead = ("carat", "depth", "table", "price")

    def __init__(self, dimensions: int, width: int = 16) -> None:
        super().__init__()
        self.columns = nn.ModuleDict(
            {
                **{name: nn.Sequential(nn.Linear(1, 32), nn.GELU(), nn.Linear(32, width)) for name in SCALARS},
                **{name: nn.Embedding(8, width) for name in CATEGORIES},
            }
        )
        num = len(SCALARS) + len(CATEGORIES)
        self.head = nn.Sequential(nn.Linear(num * width + num, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, dimensions))

    def encode(self, rows: Tensor) -> Tensor:
        """The tokens of all columns; shape (rows, columns, width)."""
        tokens = [self.columns[name](rows[:, [index]]) for index, name in enumerate(SCALARS)]
        tokens += [
            self.columns[name](rows[:, index].long()) for index, name in enumerate(CATEGORIES, start=len(SCALARS))
        ]
        return torch.stack(tokens, 1)

    def forward(self, rows: Tensor) -> Tensor:
        """The embeddings; shape (rows, dimensions)."""
        shown = rows[:, len(SCALARS) + len(CATEGORIES) :]
        tokens = self.encode(rows) * shown[:, :, None]
        embeddings: Tensor = self.head(torch.cat([tokens.flatten(1), shown], 1))
        return embeddings


TASKS: dict[str, type[Images | Table]] = {"images": Images, "strips": Strips, "table": Table}
"""The data, by name."""


@cache
def load(name: str) -> Images | Table:
    """The data, read once."""
    return TASKS[name]()
