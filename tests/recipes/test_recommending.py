"""A recipe to start from: each part has a reason, and what it gives trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import datasets
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import trimtab
from tests.recipes.sound import SOUND, Case
from trimtab import InputError
from trimtab.recipes import lint, recommend

PARTS = [
    "initialization",
    "normalization",
    "optimizer",
    "schedule",
    "regularization",
    "clipping",
    "accumulation",
    "precision",
    "monitoring",
]


def load_digits(batch_size: int = 64) -> DataLoader[Any]:
    x, y = datasets.load_digits(return_X_y=True)
    data = TensorDataset(torch.from_numpy((x / 16).astype(np.float32)), torch.from_numpy(y))
    return DataLoader(data, batch_size, shuffle=True, generator=torch.Generator().manual_seed(0))


def compute_loss(model: nn.Module, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


MODELS: dict[str, tuple[Callable[[], nn.Module], int, dict[str, str]]] = {
    "multi-layer": (
        lambda: nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)),
        64,
        {"optimizer": "AdamW", "schedule": "one_cycle", "accumulation": "accumulate=1"},
    ),
    "convolutional": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
            nn.Linear(288, 10),
        ),
        64,
        {"optimizer": "SGD", "schedule": "four_phase", "normalization": "as it is"},
    ),
    "convolutional-in-tiny-batches": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
            nn.Linear(288, 10),
        ),
        8,
        {"normalization": "nn.GroupNorm(8, 8)", "accumulation": "accumulate=4"},
    ),
    "transformer": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (4, 16)), nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 1),
            nn.Flatten(), nn.Linear(64, 10),
        ),
        64,
        {"optimizer": "AdamW", "schedule": "warmup_cosine", "regularization": "as it is"},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("build", "batch_size", "expected"), MODELS.values(), ids=MODELS.keys())
def test_recipe_trains(build: Callable[[], nn.Module], batch_size: int, expected: dict[str, str]) -> None:
    """Each part is there with a reason, lint has nothing against it, and `fit` takes it as it is and learns."""
    torch.manual_seed(0)
    model, loader = build(), load_digits(batch_size)
    order = loader.generator.get_state() if loader.generator is not None else torch.zeros(0)
    before = [each.clone() for each in model.parameters()]
    found = recommend(model, loader)
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))
    assert loader.generator is not None
    assert torch.equal(order, loader.generator.get_state())
    assert [each.part for each in found.choices] == PARTS
    assert all(each.reason for each in found.choices)
    chosen = {each.part: each.choice for each in found.choices}
    assert all(choice in chosen[part] for part, choice in expected.items()), str(found)
    assert not [each for each in lint(model, found.settings["optimizer"]) if "decay" in each.check]
    result = trimtab.fit(model, compute_loss=compute_loss, train_loader=loader, progress=False, **found.settings)
    assert result.status == "finished"
    inputs, labels = next(iter(load_digits(1797)))
    assert float((model.eval()(inputs).argmax(1) == labels).float().mean()) > 0.9


@pytest.mark.parametrize("make", SOUND)
def test_well_made_models_have_a_recipe(make: Callable[[], Case]) -> None:
    """Of every architecture, with any kind of batch."""
    case = make()
    found = recommend(case["model"], [case["batch"]] if "batch" in case else [torch.zeros(4, 2)])
    assert [each.part for each in found.choices] == PARTS


def test_trained_model_is_moved_little() -> None:
    """A model that looks trained keeps its weights and gets a small rate."""
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    with torch.no_grad():
        next(model.parameters()).normal_(0, 1)
    found = recommend(model, load_digits())
    assert found.choices[0].choice == "none"
    assert max(each["lr"] for each in found.settings["optimizer"].param_groups) <= 2e-5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param({"train_loader": []}, "no batch", id="no-batch"),
        pytest.param({"train_loader": iter([(torch.zeros(2, 2),)])}, "no length", id="no-length"),
        pytest.param({"epochs": 0}, "epochs is 0", id="no-epoch"),
        pytest.param(
            {"model": nn.Linear(2, 2).requires_grad_(False)}, "no parameter of the model is trained", id="frozen"
        ),
    ],
)
def test_says_what_is_wrong(given: dict[str, Any], message: str) -> None:
    """In one sentence."""
    usual: dict[str, Any] = {"model": nn.Linear(2, 2), "train_loader": [torch.zeros(4, 2)]}
    with pytest.raises(InputError, match=message):
        recommend(**(usual | given))
