"""Trainings to go through the checklist with: a sound one, and what breaks each of its lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

Parts = dict[str, Any]

NUM_CLASSES = 3


def make_data(num: int, seed: int = 0) -> TensorDataset:
    """Points of three classes, each around a place of its own."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(NUM_CLASSES, (num,), generator=generator)
    centers = torch.tensor([[1.0, 0.0, -1.0, 0.5], [-1.0, 1.0, 0.0, -0.5], [0.0, -1.0, 1.0, 0.0]])
    return TensorDataset(centers[labels] + 0.3 * torch.randn(num, 4, generator=generator), labels)


def make_network(*last: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    body = [nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, NUM_CLASSES)]
    return nn.Sequential(*body, *last)


def compute_loss(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def make_sound(model: nn.Module | None = None, **more: Any) -> Parts:
    """A training that has nothing wrong, but for what is given."""
    model = make_network() if model is None else model
    rate = more.pop("rate", 3e-2)
    parts = {
        "model": model,
        "optimizer": torch.optim.AdamW(model.parameters(), lr=rate),
        "compute_loss": compute_loss,
        "train_loader": DataLoader(make_data(256), batch_size=32, shuffle=True),
        "val_loader": DataLoader(make_data(64, seed=1), batch_size=64),
    }
    return parts | more


def load(inputs: Tensor, labels: Tensor) -> DataLoader[Any]:
    return DataLoader(TensorDataset(inputs, labels), batch_size=32, shuffle=True)


def labels(num: int = 256) -> Tensor:
    return torch.randint(NUM_CLASSES, (num,))


def put_nan() -> Parts:
    inputs = torch.randn(256, 4)
    inputs[:, 2] = torch.nan
    return make_sound(train_loader=load(inputs, labels()))


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """A stream that every worker reads from the beginning."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(*make_data(128).tensors, strict=True)


def leak() -> Parts:
    data = make_data(256)
    return make_sound(
        train_loader=DataLoader(data, 32, shuffle=True), val_loader=DataLoader(TensorDataset(*data[:64]), 64)
    )


class Log(nn.Module):
    """The logarithm of what may be 0."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.relu().log()


def sink(num_layers: int = 14) -> Parts:
    """A deep network of sigmoids, in which gradients vanish."""
    torch.manual_seed(0)
    layers = [each for _ in range(num_layers) for each in (nn.Linear(8, 8), nn.Sigmoid())]
    return make_sound(nn.Sequential(nn.Linear(4, 8), *layers, nn.Linear(8, NUM_CLASSES)))


def descend(rate: float) -> Parts:
    """A network without normalization under plain gradient descent, with squares that can explode."""

    def compute(model: nn.Module, batch: Any) -> Tensor:
        return F.mse_loss(model(batch[0]), F.one_hot(batch[1], NUM_CLASSES).float())

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, NUM_CLASSES))
    return make_sound(model, optimizer=torch.optim.SGD(model.parameters(), lr=rate), compute_loss=compute)


def smooth() -> Parts:
    """Labels that are smoothed: their entropy is the floor of the loss."""
    smoothed = nn.CrossEntropyLoss(label_smoothing=0.4)
    return make_sound(compute_loss=lambda model, batch: smoothed(model(batch[0]), batch[1]))


def zero_head() -> Parts:
    """A last layer that begins at 0, so that nothing before it has a gradient at first."""
    model = make_network()
    with torch.no_grad():
        for each in model[4].parameters():
            each.zero_()
    return make_sound(model)


def code_softly() -> Parts:
    """Targets that are probabilities, and a loss that raises where it is given NaN."""

    def compute(model: nn.Module, batch: Any) -> Tensor:
        return F.binary_cross_entropy(model(batch[0]).sigmoid(), F.one_hot(batch[1], NUM_CLASSES) * 0.8 + 0.1)

    return make_sound(compute_loss=compute)


def embed_sparsely() -> Parts:
    """Sparse gradients, of few rows of an embedding."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(50, 8, sparse=True), nn.Flatten(), nn.Linear(16, NUM_CLASSES))
    words = torch.randint(50, (256, 2), generator=torch.Generator().manual_seed(0))
    return make_sound(
        model,
        optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
        train_loader=load(words, words.sum(1) % NUM_CLASSES),
        val_loader=None,
        clip_norm=5.0,
    )


def kill_units() -> Parts:
    model = make_network()
    torch.nn.init.constant_(next(model[1].parameters()), 0.0)  # BatchNorm's factor: all is its bias
    for name, each in model[1].named_parameters():
        if name == "bias":
            torch.nn.init.constant_(each, -1.0)
    return make_sound(model)


def be_sure() -> Parts:
    model = make_network()
    with torch.no_grad():
        for each in model[4].parameters():
            each.mul_(100.0)
    return make_sound(model)


def drop_all() -> Parts:
    """Dropout that leaves next to nothing."""
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.99), nn.Linear(16, NUM_CLASSES))
    return make_sound(model, rate=1e-3)


def decay_all() -> Parts:
    """A training in which weight decay is stronger than what is learned."""
    model = make_network()
    with torch.no_grad():
        for each in model.parameters():
            each.mul_(0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=25.0)
    return make_sound(model, optimizer=optimizer)


class Cancel(nn.Module):
    """A small difference of large numbers, which lower precision has no room for."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Linear(4, 4, bias=False)
        nn.init.eye_(self.shift.weight)
        self.head = nn.Linear(4, NUM_CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.head(8 * (self.shift(inputs + 1000.0).float() - 1000.0))
        return out


class Counting(nn.Module):
    """A model that keeps something beside its state dict: how often it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls = nn.Linear(4, NUM_CLASSES), 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        out: Tensor = self.layer(inputs) * (1 + 0.01 * (self.calls % 7))
        return out


class Jittered(Dataset[tuple[Tensor, Tensor]]):
    """Data with noise from a generator of their own, which no checkpoint has."""

    def __init__(self) -> None:
        self.data, self.generator = make_data(256), np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        point, label = self.data[index]
        return point + 0.1 * torch.tensor(self.generator.normal(size=4), dtype=torch.float32), label


def make_ladder() -> dict[str, Callable[[], Parts]]:
    """Three rungs, of which the second has a part that explodes."""
    return {
        "minimal": make_sound,
        "advanced": lambda: make_sound(
            nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, NUM_CLASSES, bias=False)),
            compute_loss=lambda model, batch: 1000 * compute_loss(model, batch),
        ),
        "all": make_sound,
    }


def warm_up() -> Parts:
    """A schedule that begins at a rate of 0."""
    parts = make_sound()
    return parts | {
        "scheduler": torch.optim.lr_scheduler.LambdaLR(parts["optimizer"], lambda step: min(1.0, step / 100))
    }


BROKEN: list[tuple[str, str, str, str, Callable[[], Parts]]] = [
    ("no-batch", "batch", "fail", "gives no batch", lambda: make_sound(train_loader=[])),
    ("nan-in-data", "nonfinite-inputs", "fail", "not finite", put_nan),
    (
        "labels-from-one",
        "labels-out-of-range",
        "fail",
        "out of range",
        lambda: make_sound(train_loader=load(torch.randn(256, 4), labels() + 1)),
    ),
    (
        "one-class-rules",
        "labels",
        "warn",
        "class 2 has 9",
        lambda: make_sound(train_loader=load(torch.randn(256, 4), torch.arange(256).clamp(max=4) // 2)),
    ),
    (
        "workers-read-alike",
        "repeats",
        "fail",
        "from 2 workers",
        lambda: make_sound(train_loader=DataLoader(Stream(), 32, num_workers=2)),
    ),
    (
        "never-shuffled",
        "order",
        "warn",
        "same batches",
        lambda: make_sound(train_loader=DataLoader(make_data(256), 32)),
    ),
    ("leaked", "leakage", "fail", "100.0% of 64", leak),
    (
        "nothing-to-learn",
        "overfit",
        "fail",
        "only gets from",
        lambda: make_sound(train_loader=load(torch.zeros(256, 4), labels())),
    ),
    ("rate-too-small-to-overfit", "overfit", "warn", "ten times", lambda: make_sound(rate=6e-4)),
    ("logarithm-of-zero", "nonfinite", "fail", "values not finite", lambda: make_sound(make_network(Log()))),
    ("sure-of-nothing", "initial-loss", "warn", "chance among 3", be_sure),
    ("sigmoids-all-the-way", "gradient-flow", "warn", "a factor of", sink),
    ("units-off", "gradient-flow", "fail", "is 0", kill_units),
    ("rate-too-large", "learning-rate", "fail", "yours is 10", lambda: descend(10.0)),
    ("rate-too-small", "learning-rate", "warn", "yours is 0.001", lambda: descend(1e-3)),
    ("too-much-dropout", "regularization", "fail", "with dropout", drop_all),
    ("too-much-decay", "regularization", "fail", "with weight decay", decay_all),
    ("large-numbers-cancel", "mixed-precision", "fail", "under autocast in bfloat16", lambda: make_sound(Cancel())),
    ("counts-calls", "resume", "warn", "is another run", lambda: make_sound(Counting())),
    ("own-generator", "resume", "warn", "is another run", lambda: make_sound(train_loader=DataLoader(Jittered(), 32))),
    ("loss-raises-on-nan", "guard-nan-weight", "warn", "the loop ends in RuntimeError", code_softly),
    ("rung-explodes", "rung-advanced", "fail", "gradient norm", lambda: make_sound(ladder=make_ladder())),
]
"""A name, the line that is to tell, how it ends, what it says, and the training."""

SOUND: list[tuple[str, Callable[[], Parts]]] = [
    ("plain", make_sound),
    ("warms-up-from-zero", warm_up),
    ("smoothed-labels", smooth),
    ("head-at-zero", zero_head),
]
"""Trainings with nothing wrong, and their names."""
