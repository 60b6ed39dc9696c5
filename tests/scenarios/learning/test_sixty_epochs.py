"""A run of sixty epochs on the digits of scikit-learn that stalls, is given fresh data, is finalized and stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from trimtab import fit
from trimtab.diagnosis import diagnose
from trimtab.loop import FitResult

TOLD = ("adaptation", "outcome", "stopped-early", "restored", "end")


def load_parts() -> list[TensorDataset]:
    """Six hundred digits to train on, as many to validate on, and the others for a test."""
    x, y = load_digits(return_X_y=True)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    images, labels = torch.tensor(x / 16, dtype=torch.float32)[order], torch.tensor(y)[order]
    bounds = [(0, 600), (600, 1200), (1200, len(x))]
    return [TensorDataset(images[begin:end], labels[begin:end]) for begin, end in bounds]


def compute_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The cross-entropy."""
    return functional.cross_entropy(model(batch[0]), batch[1])


def train(run: Path) -> tuple[FitResult, nn.Module]:
    """A network that soon knows two hundred digits by heart, with four hundred in reserve."""
    train_data, val_data, test_data = load_parts()
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    result = fit(
        model,
        torch.optim.AdamW(model.parameters(), lr=0.005),
        compute_loss,
        DataLoader(train_data, 50, shuffle=True),
        val_loader=val_data,
        test_loader=test_data,
        epochs=60,
        patience=5,
        min_delta=0.005,
        partitions=3,
        run=run,
    )
    return result, model


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[FitResult, nn.Module, list[dict[str, Any]]]:
    """The run, made once."""
    run = tmp_path_factory.mktemp("run") / "run"
    result, model = train(run)
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    return result, model, [each for each in events if each["event"] in TOLD]


def test_fresh_data_then_finalization_then_stop_then_the_best_weights(trained: Any) -> None:
    """Everything happens in this order, and the run folder tells it."""
    result, _, events = trained
    names = [each.get("name", each["event"]) for each in events if each["event"] != "outcome"]
    assert names == ["rotation-1", "rotation-2", "finalization-1", "stopped-early", "restored", "end"]
    assert result.status == "stopped-early"
    assert [each.name for each in result.adaptations] == names[:3]
    assert 30 <= result.adaptations[2].epoch <= result.num_epochs - 5 < 55
    assert events[-3]["num_epochs_left"] == 60 - result.num_epochs


def test_every_change_says_what_why_and_what_came_of_it(trained: Any) -> None:
    """Each has what, from, to, what asked for it and what is expected of it, and later its measured effect."""
    result, _, events = trained
    changes = [each for each in events if each["event"] == "adaptation"]
    assert [(each["what"], each["from"], each["to"]) for each in changes] == [
        ("partition", 0, 1),
        ("partition", 1, 2),
        ("rate_factor", 1.0, 0.0),
    ]
    assert all(each["trigger"] == "plateau" and "has not improved for 5" in each["why"] for each in changes)
    assert all(each["expected"] and each["num_judged"] == 5 for each in changes)
    outcomes = [each for each in events if each["event"] == "outcome"]
    assert [each["of"] for each in outcomes] == [each["name"] for each in changes]
    for change, outcome in zip(changes, outcomes, strict=True):
        assert outcome["step"] == change["step"] + outcome["num_steps"]
        is_lower = outcome["after"] < outcome["before"] - outcome["margin"]
        assert (outcome["verdict"] == "helped") is is_lower
    assert any(each["verdict"] == "helped" for each in outcomes[:2])
    assert min(each.score for each in result.reviews) < result.reviews[changes[0]["epoch"] - 1].score - 0.03


def test_the_finalization_begins_with_the_best_weights_and_ends_at_no_learning_rate(trained: Any) -> None:
    """The learning rate falls to a twentieth of a share, and the loss does not go back up to where it had stalled."""
    result, _, _ = trained
    last = result.timeline.happened[-5:]
    assert [each.phase for each in last] == ["finalization"] * 5
    rates = [each.learning_rate for each in last]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0.005 / 20)
    assert all(each.learning_rate == 0.005 for each in result.timeline.planned)
    assert set(result.timeline.departures) >= {each.epoch for each in last} | set(range(result.num_epochs + 1, 61))


def test_the_best_weights_are_there_and_their_choice_is_accounted_for(trained: Any) -> None:
    """The model has the weights of the review that is named, on which it gives the same loss again."""
    result, model, events = trained
    restored = events[-2]
    _, val_data, test_data = load_parts()
    model.eval()
    with torch.no_grad():
        val_loss, test_loss = (float(compute_loss(model, each[:])) for each in (val_data, test_data))
    assert result.restored.epoch == restored["epoch"]
    assert val_loss == pytest.approx(restored["val_loss_after"], rel=1e-4)
    assert test_loss == pytest.approx(result.test_metrics["test_loss"], rel=1e-4)
    assert restored["val_cost"] == restored["val_loss_after"] - restored["best_by_loss"]["val_loss"] >= 0
    assert {"by-loss", "by-composite"} == {
        path.stem.removeprefix("best-") for path in result.run.glob("best-*.safetensors")
    }


def test_the_changes_are_told_by_the_result_and_the_diagnosis(trained: Any) -> None:
    """Both say of each change what, from, to, why, what was expected and what came of it."""
    result, _, events = trained
    told = diagnose(result.run)
    assert len(told.adaptations) == len(result.adaptations) == 3
    outcomes = {each["of"]: each["verdict"] for each in events if each["event"] == "outcome"}
    for change, line in zip(result.adaptations, told.adaptations, strict=True):
        assert line.startswith(f"{change.name} at epoch {change.epoch}, step {change.step}: {change.what} ")
        assert f"{change.before:g} → {change.after:g}, by plateau: {change.why}; expected: {change.expected}" in line
        assert f"; {outcomes[change.name]}: val_loss " in line
        assert line in str(result)
    assert "changed by the run itself:" in str(told)
    assert str(result).startswith("stopped-early after ")
