"""Runs of `fit` in which eval mode computes something else on the very same batch: found, and told with its cause."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from tests.scenarios.learning.runs import cut_images
from trimtab import fit
from trimtab.diagnosis import diagnose
from trimtab.journal import read_run


class Forgetful(nn.Module):
    """Dropout by a function that is not told of the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.dropout(torch.relu(self.first(x)), 0.3)
        return self.last(hidden)  # type: ignore[no-any-return]


def make_network(momentum: float) -> nn.Module:
    """Convolutions with running statistics of a momentum, and dropout."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8, momentum=momentum), nn.ReLU()),
        *(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16, momentum=momentum), nn.ReLU()),
        *(nn.Flatten(), nn.Dropout(0.2), nn.Linear(256, 10)),
    )


def compute_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def train(make: Callable[[], nn.Module], run: Path) -> list[str]:
    """Train a network on digits; returns the detectors that found something, each once."""
    torch.manual_seed(0)
    data = cut_images()
    model = make()
    fit(
        model,
        torch.optim.Adam(model.parameters(), 2e-3),
        compute_loss,
        DataLoader(TensorDataset(data.x, data.y), 32, shuffle=True),
        val_loader=DataLoader(TensorDataset(data.val_x, data.val_y), 200),
        epochs=11,
        run=run,
    )
    return list(dict.fromkeys(each.detector for decision, _ in read_run(run).decided for each in decision.findings))


@pytest.mark.parametrize(
    ("make", "detector", "cause"),
    [
        pytest.param(Forgetful, "eval-dropout", "dropout-in-evaluation", id="dropout-left-on"),
        pytest.param(
            lambda: make_network(0.0005), "batch-norm-lag", "batch-norm-statistics-lag", id="statistics-that-lag"
        ),
    ],
)
def test_mode_that_computes_otherwise_is_found(
    make: Callable[[], nn.Module], detector: str, cause: str, tmp_path: Path
) -> None:
    """The detector finds it, and the diagnosis of the run folder names the cause with its numbers."""
    assert detector in train(make, tmp_path / "run")
    named = {each.name: each for each in diagnose(tmp_path / "run").causes}
    assert cause in named
    assert any(character.isdigit() for line in named[cause].evidence for character in line)


def test_sound_network_is_silent(tmp_path: Path) -> None:
    """Norms and dropout as they are meant: nothing is found, and both modes agree."""
    assert train(lambda: make_network(0.1), tmp_path / "run") == []
    losses = [each.values for each in read_run(tmp_path / "run").measurements if "batch_norm_loss" in each.values]
    assert len(losses) == 5
    assert losses[-1]["eval_mode_loss"] == pytest.approx(losses[-1]["batch_norm_loss"], abs=0.05)
