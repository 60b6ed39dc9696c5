"""The learning-rate finder: near the best of a grid, and the training as it was before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import datasets
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.utils.data import DataLoader, TensorDataset

from trimtab import InputError
from trimtab.recipes import find_learning_rate

GRID = [3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3]
SEEDS = (5, 6, 7)
"""Of the trainings of a grid, whose mean counts, and of as many sweeps, whose median does: one of either is noisy."""

NUM_STEPS = 100
FACTOR = 3.0


class Convolving(nn.Module):
    """Two convolutions with batch normalization, and a layer on top."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Scores of images of 64 pixels."""
        scores: Tensor = self.layers(x.view(-1, 1, 8, 8))
        return scores


class Recurring(nn.Module):
    """A recurrent network that reads an image line by line."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(8, 32, batch_first=True), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of images of 64 pixels."""
        scores: Tensor = self.head(self.gru(x.view(-1, 8, 8))[0][:, -1])
        return scores


def make_mlp(num_inputs: int, num_outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(num_inputs, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, num_outputs))


@dataclass(frozen=True)
class Case:
    """A model, its optimizer and its data."""

    load: Callable[..., Any]
    make: Callable[[], nn.Module]
    optimize: Callable[[Any, float], Optimizer]

    def build(self, seed: int, rate: float = 1e-3) -> tuple[nn.Module, Optimizer, DataLoader[Any]]:
        """All of it, from a seed."""
        x, y = self.load(return_X_y=True)
        inputs = torch.from_numpy(((x - x.mean(0)) / (x.std(0) + 0.1 * x.std())).astype(np.float32))
        if y.dtype.kind == "f":
            y = ((y - y.mean()) / y.std()).astype(np.float32)
        torch.manual_seed(seed)
        model = self.make()
        generator = torch.Generator().manual_seed(seed)
        data = TensorDataset(inputs, torch.from_numpy(y))
        loader = DataLoader(data, 32, shuffle=True, drop_last=True, generator=generator)
        return model, self.optimize(model.parameters(), rate), loader


def compute_loss(model: nn.Module, batch: list[Tensor]) -> Tensor:
    """Of classes or of a number."""
    outputs = model(batch[0])
    if batch[1].is_floating_point():
        return functional.mse_loss(outputs[:, 0], batch[1])
    return functional.cross_entropy(outputs, batch[1])


CASES = {
    "mlp-adamw": Case(datasets.load_digits, lambda: make_mlp(64, 10), lambda each, rate: AdamW(each, rate)),
    "cnn-sgd": Case(datasets.load_digits, Convolving, lambda each, rate: SGD(each, rate, momentum=0.9)),
    "gru-adam": Case(datasets.load_digits, Recurring, lambda each, rate: Adam(each, rate)),
    "regression-adamw": Case(datasets.load_diabetes, lambda: make_mlp(10, 1), lambda each, rate: AdamW(each, rate)),
}


def train(case: Case, rate: float, seed: int) -> float:
    """The mean training loss of the last steps at a constant rate; infinite if it is not finite."""
    model, optimizer, loader = case.build(seed, rate)
    losses: list[float] = []
    while len(losses) < NUM_STEPS:
        for batch in loader:
            loss = compute_loss(model, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    last = float(np.mean(losses[NUM_STEPS - 20 : NUM_STEPS]))
    return last if np.isfinite(last) else float("inf")


@pytest.mark.parametrize("name", CASES)
def test_the_best_rate_of_a_grid_is_near(name: str) -> None:
    """The suggestion is within a factor of 3 of the rate at which the training loss gets lowest in as many steps."""
    case = CASES[name]
    best = min(GRID, key=lambda rate: sum(train(case, rate, seed) for seed in SEEDS))
    suggestions = []
    for seed in SEEDS:
        model, optimizer, loader = case.build(seed)
        suggestions.append(find_learning_rate(model, optimizer, compute_loss, loader).suggestion or 0.0)
    suggestions.sort()
    assert best / FACTOR <= suggestions[1] <= best * FACTOR, (best, suggestions)


@pytest.mark.parametrize("name", CASES)
def test_everything_is_as_before(name: str) -> None:
    """Weights, buffers, moments, options, random numbers and the loader's order are bit for bit what they were."""

    def train_on(finds: bool) -> list[Tensor]:
        model, optimizer, loader = CASES[name].build(seed=3)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=50)
        for step, batch in enumerate(loader):
            if step == 4 and finds:
                rates = [group["lr"] for group in optimizer.param_groups]
                find_learning_rate(model, optimizer, compute_loss, loader, num_steps=30, highest=1.0)
                assert [group["lr"] for group in optimizer.param_groups] == rates
            optimizer.zero_grad()
            compute_loss(model, batch).backward()
            optimizer.step()
            scheduler.step()
            if step == 8:
                break
        state = [each.detach() for each in model.state_dict().values()]
        state += [each for kept in optimizer.state.values() for each in kept.values() if isinstance(each, Tensor)]
        return [*state, torch.rand(3), *next(iter(loader))]

    for one, other in zip(train_on(True), train_on(False), strict=True):
        assert torch.equal(one, other)


def test_groups_keep_their_ratios_and_all_is_said() -> None:
    """The rate is that of the group with the highest; the result says both suggestions and draws them."""
    model, _, loader = CASES["mlp-adamw"].build(seed=0)
    first, *others = model.parameters()
    seen: list[list[float]] = []

    class Watched(AdamW):
        """Notes the rates of its groups."""

        def step(self, closure: Any = None) -> Any:
            seen.append([float(group["lr"]) for group in self.param_groups])
            return super().step(closure)

    groups: list[dict[str, Any]] = [{"params": [first], "lr": 1e-4}, {"params": others}]
    optimizer = Watched(groups, lr=1e-3)
    found = find_learning_rate(model, optimizer, compute_loss, loader)
    assert [high for _, high in seen] == pytest.approx(found.rates[: len(seen)])
    assert [low / high for low, high in seen] == pytest.approx([0.1] * len(seen))
    assert found.rise is not None
    assert found.suggestion == found.rise / 10
    assert "falls fastest at" in str(found)
    assert {shape.x0 for shape in found.plot().layout.shapes} == {found.steepest, found.suggestion, found.current}


def test_a_loss_that_never_falls_gives_no_suggestion() -> None:
    """It is said that the rate is not the matter."""
    model, optimizer, loader = CASES["mlp-adamw"].build(seed=0)
    scale = iter(range(1, 1000))

    def compute_rising(model: nn.Module, batch: list[Tensor]) -> Tensor:
        return compute_loss(model, batch) * 0.0 + next(scale)

    found = find_learning_rate(model, optimizer, compute_rising, loader)
    assert (found.suggestion, found.steepest) == (None, None)
    assert str(found).startswith("the loss falls at no rate from 1e-07 to")


def compute_nothing(model: nn.Module, batch: list[Tensor]) -> Tensor:
    """NaN."""
    return compute_loss(model, batch) * float("nan")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"lowest": 1.0, "highest": 0.1}, "have to rise from 0", id="falling"),
        pytest.param({"num_steps": 3}, "num_steps is 3; it has to be a whole number from 20 up", id="few-steps"),
        pytest.param({"train_loader": []}, "train_loader gives no batch", id="no-batch"),
        pytest.param({"train_loader": iter([[torch.ones(4, 64), torch.zeros(4).long()]])}, "second time", id="once"),
        pytest.param({"compute_loss": compute_nothing}, "the loss of the first batch is not finite", id="nan"),
    ],
)
def test_what_cannot_be_swept_gets_one_sentence(options: dict[str, Any], message: str) -> None:
    """A call that cannot be served is refused in one sentence."""
    model, optimizer, loader = CASES["mlp-adamw"].build(seed=0)
    given: dict[str, Any] = {"compute_loss": compute_loss, "train_loader": loader, **options}
    with pytest.raises(InputError, match=message):
        find_learning_rate(model, optimizer, **given)
