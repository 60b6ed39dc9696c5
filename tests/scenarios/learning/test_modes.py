"""The six ways in which a run does not learn, each provoked in a real training and found by name; sound ones silent."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from tests.scenarios.learning.runs import Data, Run, cut_images, cut_records, make_mlp, square

Make = Callable[[nn.Module], Optimizer]


def use_sgd(rate: float, momentum: float = 0.0) -> Make:
    return lambda model: torch.optim.SGD(model.parameters(), rate, momentum)


def use_adam(rate: float) -> Make:
    return lambda model: torch.optim.Adam(model.parameters(), rate)


def square_sigmoid(outputs: Tensor, labels: Tensor) -> Tensor:
    """Squared errors of probabilities, whose gradient vanishes where the sigmoid is saturated."""
    return functional.mse_loss(torch.sigmoid(outputs), functional.one_hot(labels, 10).float())


def make_dead() -> Run:
    """All outputs far in the flat part of their sigmoid."""
    head = nn.Linear(32, 10)
    with torch.no_grad():
        head.bias.fill_(-20.0)
        head.weight.mul_(0.1)
    model = nn.Sequential(make_mlp(64, 32), nn.ReLU(), head)
    return Run(model=model, loss=square_sigmoid, epochs=8)


def make_slow() -> Run:
    """Inputs of 1e-4, as where someone divides by 255 twice."""
    data = cut_images()
    small = Data(1e-4 * data.x, data.y, 1e-4 * data.val_x, data.val_y)
    return Run(small, nn.Linear(64, 10, bias=False), use_adam(1e-3), epochs=24, batch=1200)


def make_unstable() -> Run:
    """Data that is not shuffled: one epoch sees the low digits alone, the next the high ones, and forgets those."""
    images = cut_images()
    low, val_low = images.y < 5, images.val_y < 5
    data = Data(images.x, images.y, images.val_x[val_low], images.val_y[val_low])

    def alternate(epoch: int, _: nn.Module, __: Optimizer) -> None:
        rows = low if epoch % 2 else ~low
        data.x, data.y = images.x[rows], images.y[rows]

    return Run(data, optimizer=use_sgd(0.05, 0.9), epochs=24, before=alternate)


def shuffle_labels(data: Data) -> Data:
    """Labels that say nothing of the images."""
    order = torch.randperm(len(data.y), generator=torch.Generator().manual_seed(0))
    return Data(data.x, data.y[order], data.val_x, data.val_y)


@pytest.mark.parametrize(
    ("make", "mode"),
    [
        pytest.param(make_dead, "dead-network", id="saturated-outputs"),
        pytest.param(make_slow, "slow-learning", id="tiny-inputs"),
        pytest.param(lambda: Run(optimizer=use_sgd(1e-7), epochs=16), "no-learning", id="tiny-rate"),
        pytest.param(
            lambda: Run(cut_records(100), make_mlp(10, 128, 128, 1), use_adam(3e-3), square, 30, 32),
            "severe-overfitting",
            id="wide-network-on-100-records",
        ),
        pytest.param(
            lambda: Run(shuffle_labels(cut_images(400)), make_mlp(64, 128, 10), epochs=30),
            "severe-overfitting",
            id="labels-that-say-nothing",
        ),
        pytest.param(
            lambda: Run(cut_images(150), make_mlp(64, 256, 10), use_adam(3e-3), epochs=50, batch=32),
            "moderate-overfitting",
            id="wide-network-on-150-images",
        ),
        pytest.param(make_unstable, "unstable-training", id="not-shuffled"),
    ],
)
def test_mode_is_found(make: Callable[[], Run], mode: str) -> None:
    """Each mode is found by its name."""
    assert mode in {each.detector for each in make().train()}


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(Run, id="adam"),
        pytest.param(lambda: Run(epochs=80), id="adam-long"),
        pytest.param(lambda: Run(optimizer=use_sgd(0.1, 0.9), epochs=40), id="momentum"),
        pytest.param(lambda: Run(cut_images(1200, 200), epochs=40), id="200-rows-of-validation"),
        pytest.param(lambda: Run(cut_images(1200, 50), epochs=40), id="50-rows-of-validation"),
        pytest.param(lambda: Run(cut_records(), make_mlp(10, 1), use_adam(1e-2), square, 60, 32), id="linear"),
        pytest.param(lambda: Run(cut_records(), make_mlp(10, 8, 1), use_adam(1e-3), square, 40, 32), id="small"),
        pytest.param(lambda: Run(cut_records(), make_mlp(10, 1), use_sgd(0.1), square, 200, 300), id="converged"),
        pytest.param(lambda: Run(model=make_mlp(64, 10), optimizer=use_sgd(5.0), epochs=48), id="late-oscillation"),
        pytest.param(
            lambda: Run(model=make_mlp(64, 48, 48, 10, act=nn.Tanh), optimizer=use_sgd(0.2), epochs=40), id="tanh"
        ),
    ],
)
def test_sound_runs_are_silent(make: Callable[[], Run]) -> None:
    """No detector has anything to say of a sound run, from its first step to long after it has converged."""
    assert [(each.step, each.detector, each.message) for each in make().train()] == []


def make_saturated() -> Run:
    """Inputs that someone forgot to divide by 255, into a tanh."""
    data = cut_images()
    raw = Data(255 * data.x, data.y, 255 * data.val_x, data.val_y)
    return Run(raw, make_mlp(64, 32, 32, 10, act=nn.Tanh), use_sgd(0.01), epochs=8)


def make_shrinking() -> Run:
    """Eight layers whose weights are far too small."""
    model = make_mlp(64, *[32] * 8, 10, act=nn.Tanh)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.1 if parameter.ndim > 1 else 0.0)
    return Run(model=model, optimizer=use_sgd(1e-3), epochs=8)


def make_constant() -> Run:
    """An input that a layer loses: all its units are dead, and only the biases behind it are left."""
    model = make_mlp(64, 32, 10)
    with torch.no_grad():
        next(model.parameters()).mul_(0.0)
    return Run(model=nn.Sequential(model), optimizer=use_sgd(1e-8), epochs=14)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        pytest.param(make_saturated, "saturated-units", id="inputs-not-normalized"),
        pytest.param(make_shrinking, "depth-activation", id="weights-too-small"),
        pytest.param(make_constant, "constant-output", id="inputs-are-lost"),
    ],
)
def test_layers_are_found(make: Callable[[], Run], name: str) -> None:
    """What is the matter with the layers is found by its name."""
    assert name in {each.detector for each in make().train()}
