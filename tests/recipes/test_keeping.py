"""What a trial sets back: loaders of every kind, generators of every kind, and optimizers."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, RandomSampler

from tests.recipes.test_lint import is_same
from trimtab.recipes.keeping import keep_loader, keep_run


class Drawn(Dataset[float]):
    """Data from a generator of its own, of whichever kind."""

    def __init__(self, generator: Any) -> None:
        self.generator = generator

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> float:
        if isinstance(self.generator, torch.Generator):
            return float(torch.rand((), generator=self.generator))
        return float(self.generator.random())


class Plain(Dataset[int]):
    """Six numbers."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> int:
        return index


class Counter:
    """A loader that knows its place."""

    def __init__(self) -> None:
        self.place = 0

    def __iter__(self) -> Any:
        while self.place < 5:
            self.place += 1
            yield self.place

    def state_dict(self) -> dict[str, int]:
        return {"place": self.place}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.place = state["place"]


def make_own(generator: Any) -> DataLoader[Any]:
    return DataLoader(Drawn(generator), batch_size=2)


LOADERS: list[Any] = [
    pytest.param(lambda: make_own(np.random.default_rng(0)), id="numpy"),
    pytest.param(lambda: make_own(np.random.RandomState(0)), id="numpy-legacy"),
    pytest.param(lambda: make_own(random.Random(0)), id="python"),
    pytest.param(lambda: make_own(torch.Generator().manual_seed(0)), id="torch"),
    pytest.param(
        lambda: DataLoader(Plain(), sampler=RandomSampler(Plain(), generator=torch.Generator().manual_seed(0))),
        id="sampler",
    ),
    pytest.param(
        lambda: DataLoader(Plain(), shuffle=True, generator=torch.Generator().manual_seed(0), batch_size=2),
        id="shuffled",
    ),
    pytest.param(Counter, id="knows-its-place"),
    pytest.param(lambda: [1, 2, 3], id="list"),
]


@pytest.mark.parametrize("make", LOADERS)
def test_loader_gives_what_it_would_have_given(make: Any) -> None:
    """After some batches were taken within the block, a loader gives what it would have given without."""
    tried, plain = make(), make()
    with keep_loader(tried):
        for index, _ in enumerate(tried):
            if index == 1:
                break
    torch.manual_seed(0)
    after = list(tried)
    torch.manual_seed(0)
    assert is_same(after, list(plain))


def test_workers_that_are_kept_end() -> None:
    """Workers that would be kept for the next epoch are not left behind."""
    loader: DataLoader[Any] = DataLoader(Plain(), num_workers=1, persistent_workers=True)
    with keep_loader(loader):
        assert len(list(loader)) == 6
    assert loader._iterator is None


OPTIMIZERS: list[Any] = [
    pytest.param(lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9), id="momentum"),
    pytest.param(lambda parameters: torch.optim.AdamW(parameters, lr=0.1, amsgrad=True), id="adamw"),
    pytest.param(
        lambda parameters: torch.optim.Adam(parameters, lr=torch.tensor(0.1), capturable=False), id="tensor-rate"
    ),
    pytest.param(lambda parameters: torch.optim.Adafactor(parameters, lr=0.1), id="adafactor"),
    pytest.param(lambda parameters: torch.optim.Rprop(parameters, lr=0.1), id="rprop"),
]


@pytest.mark.parametrize("num_before", [0, 2])
@pytest.mark.parametrize("make", OPTIMIZERS)
def test_run_is_as_before(make: Any, num_before: int) -> None:
    """After steps, another rate, a loaded state and a scheduler within the block, all is bit for bit as before."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
    optimizer = make(model.parameters())

    def step() -> None:
        optimizer.zero_grad()
        model(torch.randn(8, 3)).square().mean().backward()
        optimizer.step()

    for _ in range(num_before):
        step()
    gradients = [each.grad for each in model.parameters()]
    attributes = set(vars(optimizer))
    before = copy.deepcopy([model.state_dict(), optimizer.state_dict(), gradients, torch.get_rng_state()])
    with keep_run(model, optimizer):
        model.eval()
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        model.train()
        for _ in range(3):
            step()
            scheduler.step()
    now = [each.grad for each in model.parameters()]
    assert is_same([model.state_dict(), optimizer.state_dict(), now, torch.get_rng_state()], before)
    assert all(left is right for left, right in zip(now, gradients, strict=True))
    assert set(vars(optimizer)) == attributes
    assert model.training


def test_run_is_as_before_after_an_error() -> None:
    """What is raised within the block comes out of it, and all is as before."""
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = copy.deepcopy(model.state_dict())

    def fail() -> None:
        with keep_run(model, optimizer):
            model(torch.randn(8, 3)).sum().backward()
            optimizer.step()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert is_same(model.state_dict(), before)


def test_parameters_that_no_optimizer_holds_are_kept_too() -> None:
    """What else writes to a parameter, such as an average of the weights within the model, is undone."""
    model = nn.ModuleList([nn.Linear(3, 1), nn.Linear(3, 1)])
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
    before = copy.deepcopy(model.state_dict())
    with keep_run(model, optimizer), torch.no_grad():
        for each in model.parameters():
            each.mul_(2.0)
    assert is_same(model.state_dict(), before)
