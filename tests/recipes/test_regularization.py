"""Dropout: advice, uncertainty, a schedule that resumes; and which normalization suits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import datasets
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import trimtab
from trimtab import InputError
from trimtab.recipes import DropoutSchedule, advise_dropout, advise_normalization, predict_with_dropout


def make_mlp(probability: float = 0.5, *, first: float | None = None) -> nn.Sequential:
    begin = [] if first is None else [nn.Dropout(first)]
    return nn.Sequential(*begin, nn.Linear(8, 32), nn.ReLU(), nn.Dropout(probability), nn.Linear(32, 3))


def make_cnn(drop: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), drop, nn.Flatten(), nn.Linear(144, 3))


class Reader(nn.Module):
    """A recurrent network with dropout on its states."""

    def __init__(self, between: float = 0.3) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 8, num_layers=2, dropout=between, batch_first=True)
        self.drop, self.head = nn.Dropout(0.3), nn.Linear(8, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.head(self.drop(self.lstm(inputs)[0])[:, -1])
        return scores


def make_transformer(probability: float = 0.1) -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, probability, batch_first=True), 2)


DROPOUTS: dict[str, tuple[nn.Module, list[str]]] = {
    "usual-hidden": (make_mlp(), []),
    "little-hidden": (make_mlp(0.1), ["more, if it overfits"]),
    "much-on-inputs": (make_mlp(first=0.5), ["less"]),
    "usual-on-inputs": (make_mlp(first=0.1), []),
    "single-numbers-after-a-convolution": (make_cnn(nn.Dropout(0.2)), ["nn.Dropout2d"]),
    "whole-channels": (make_cnn(nn.Dropout2d(0.2)), []),
    "much-of-whole-channels": (make_cnn(nn.Dropout2d(0.5)), ["less"]),
    "recurrent-with-a-new-mask": (Reader(), ["nn.Dropout1d"]),
    "recurrent-with-little": (Reader(0.05), ["more, if it overfits", "nn.Dropout1d"]),
    "transformer": (make_transformer(), []),
    "transformer-with-much": (make_transformer(0.5), ["less"] * 8),
    "none": (nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), ["0.3 to 0.5 is usual"]),
}


@pytest.mark.parametrize(("model", "fixes"), DROPOUTS.values(), ids=DROPOUTS.keys())
def test_dropout_beside_what_is_usual(model: nn.Module, fixes: list[str]) -> None:
    """Each dropout has a line, and what is not usual a fix."""
    advices = advise_dropout(model)
    given = [each.fix for each in advices if each.fix]
    assert len(given) == len(fixes), str(advices)
    assert all(fix.startswith(part) or part in fix for fix, part in zip(given, fixes, strict=True)), str(advices)


NORMALIZATIONS: dict[str, tuple[nn.Module, int | None, list[str]]] = {
    "convolutions-in-large-batches": (make_cnn(nn.Identity()), 64, []),
    "convolutions-in-tiny-batches": (make_cnn(nn.Identity()), 4, ["nn.GroupNorm(4, 4)"]),
    "transformer": (make_transformer(), 4, []),
    "batch-norm-in-a-transformer": (nn.Sequential(make_transformer(), nn.BatchNorm1d(16)), 64, ["nn.LayerNorm"]),
    "batch-norm-after-a-recurrent-layer": (nn.Sequential(nn.GRU(4, 4), nn.BatchNorm1d(4)), 64, ["nn.LayerNorm"]),
    "frozen": (nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4).eval()), 64, ["momentum=0.1"]),
    "no-running-statistics": (
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
        64,
        ["track_running_stats=True"],
    ),
    "instance-norm-in-a-classifier": (
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4), nn.Flatten(), nn.Linear(4, 2)),
        64,
        ["keep it for the transfer of style"],
    ),
    "deep-without": (nn.Sequential(*[nn.Linear(4, 4) for _ in range(6)]), 256, ["batch normalization"]),
    "deep-without-in-small-batches": (nn.Sequential(*[nn.Linear(4, 4) for _ in range(6)]), 4, ["nn.LayerNorm"]),
    "shallow-without": (make_mlp(), 256, []),
}


@pytest.mark.parametrize(("model", "batch_size", "fixes"), NORMALIZATIONS.values(), ids=NORMALIZATIONS.keys())
def test_normalization_that_suits(model: nn.Module, batch_size: int | None, fixes: list[str]) -> None:
    """What does not suit the model or its batches is named, with what does."""
    advices = advise_normalization(model, batch_size)
    assert len(advices) == len(fixes), str(advices)
    assert all(fix in each.fix for each, fix in zip(advices, fixes, strict=True)), str(advices)


def test_uncertainty_is_higher_where_nothing_was_learned() -> None:
    """Trained on digits, the model disagrees with itself on noise more than on digits."""
    x, y = datasets.load_digits(return_X_y=True)
    inputs, labels = torch.from_numpy((x / 16).astype(np.float32)), torch.from_numpy(y)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Dropout(0.4), nn.Linear(128, 10))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[:1200]), labels[:1200]).backward()
        optimizer.step()
    state = {name: each.clone() for name, each in model.state_dict().items()}
    rng = torch.get_rng_state()
    known = predict_with_dropout(model, inputs[1200:], apply=lambda scores: scores.softmax(-1))
    assert torch.equal(rng, torch.get_rng_state())
    assert model.training
    assert all(torch.equal(each, state[name]) for name, each in model.state_dict().items())
    noise = torch.rand(300, 64, generator=torch.Generator().manual_seed(0))
    unknown = predict_with_dropout(model, noise, apply=lambda scores: scores.softmax(-1))
    assert float(unknown.mutual_information.mean()) > 2 * float(known.mutual_information.mean())
    assert float((known.mean.argmax(-1) == labels[1200:]).float().mean()) > 0.85
    assert torch.allclose(known.mean.sum(-1), torch.ones(len(labels) - 1200), atol=1e-5)
    again = predict_with_dropout(model, inputs[1200:], apply=lambda scores: scores.softmax(-1))
    assert torch.equal(known.samples, again.samples)
    assert known.std.shape == known.mean.shape


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        pytest.param(0.0, 1.0, [0.0, 0.1, 0.2, 0.3, 0.4, 0.4], id="rising"),
        pytest.param(1.0, 0.0, [0.4, 0.3, 0.2, 0.1, 0.0, 0.0], id="falling"),
    ],
)
def test_dropout_moves_and_resumes(first: float, last: float, expected: list[float]) -> None:
    """It goes in a straight line, stays, and goes on from its state in a new model."""
    model = make_mlp(0.4)
    schedule = DropoutSchedule(model, 5, first=first, last=last)
    drop = model[2]
    seen, states = [], []
    for _ in expected:
        seen.append(drop.p)
        states.append(schedule.state_dict())
        schedule.step()
    assert seen == pytest.approx(expected)
    other = make_mlp(0.4)
    resumed = DropoutSchedule(other, 5, first=first, last=last)
    for state, value in zip(states, expected, strict=True):
        resumed.load_state_dict(state)
        assert other[2].p == pytest.approx(value)


def test_dropout_between_recurrent_layers_and_in_attention_moves_too() -> None:
    """What is no layer of its own is scheduled as well."""
    for model, part in ((Reader(), "lstm"), (make_transformer(), "layers.0.self_attn")):
        schedule = DropoutSchedule(model, 3)
        held = dict(model.named_modules())[part]
        assert held.dropout == 0.0
        schedule.step()
        schedule.step()
        assert held.dropout in (0.3, 0.1)


def test_fit_resumes_a_dropout_schedule(tmp_path: Path) -> None:
    """A run that was left in the middle ends with the same weights; both schedules are stepped and saved."""

    def run(folder: Path, *epochs: int) -> list[Tensor]:
        for num in epochs:
            torch.manual_seed(0)
            model = make_mlp(0.4)
            loader = DataLoader(TensorDataset(torch.randn(96, 8), torch.arange(96) % 3), 16, shuffle=True)
            optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
            schedules = [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99), DropoutSchedule(model, 18)]

            def compute_loss(model: nn.Module, batch: Any) -> Tensor:
                return nn.functional.cross_entropy(model(batch[0]), batch[1])

            trimtab.fit(
                model, optimizer, compute_loss, loader, epochs=num, scheduler=schedules, run=folder, progress=False
            )
        assert model[2].p == pytest.approx(0.4)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-2 * 0.99**18)
        return [each.detach().clone() for each in model.parameters()]

    for plain, resumed in zip(run(tmp_path / "a", 3), run(tmp_path / "b", 3), strict=True):
        assert torch.equal(plain, resumed)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        pytest.param(lambda: DropoutSchedule(nn.Linear(2, 2), 5), "no dropout layer", id="nothing-to-schedule"),
        pytest.param(lambda: DropoutSchedule(make_mlp(), 0), "num_steps is 0", id="no-step"),
        pytest.param(lambda: DropoutSchedule(make_mlp(0.5), 5, last=2.0), "last 2.0", id="all-dropped"),
        pytest.param(lambda: predict_with_dropout(nn.Linear(2, 2), torch.zeros(1, 2)), "no dropout", id="no-dropout"),
        pytest.param(lambda: predict_with_dropout(make_mlp(), torch.zeros(1, 8), times=1), "times is 1", id="once"),
        pytest.param(lambda: advise_normalization(make_mlp(), 0), "batch_size is 0", id="no-batch"),
        pytest.param(
            lambda: DropoutSchedule(make_mlp(), 5).load_state_dict({"num_done": 1, "probabilities": []}),
            "build the model as it was",
            id="state-of-another-model",
        ),
    ],
)
def test_says_what_is_wrong(call: Any, message: str) -> None:
    """In one sentence."""
    with pytest.raises(InputError, match=message):
        call()
