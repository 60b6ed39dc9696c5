"""`fit` and representations: what is observed at each validation, and the guard of the loss's weights."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from trimtab import InputError, fit
from trimtab.loop import FitResult
from trimtab.losses import compute_spread, normalize_rows

ROWS = torch.randn(256, 16, generator=torch.Generator().manual_seed(3)) + 1
SAMPLE = ROWS[:64], ROWS[:64] + 0.3 * torch.randn(64, 16, generator=torch.Generator().manual_seed(4))


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Reviews of a collapsed run say so."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


class Attraction:
    """Two views drawn together, and spread by a weight."""

    def __init__(self, spread: float) -> None:
        self.weights = {"joint": 1.0, "spread": spread}

    def __call__(self, model: nn.Module, batch: list[Tensor]) -> dict[str, Tensor]:
        first, second = (model(batch[0] + 0.3 * torch.randn_like(batch[0])) for _ in range(2))
        together = 1 - (normalize_rows(first) * normalize_rows(second)).sum(-1).mean()
        spread = compute_spread(torch.cat([first, second]))
        return {"joint": self.weights["joint"] * together, "spread": self.weights["spread"] * spread}


def observe(model: nn.Module) -> dict[str, Any]:
    """The fixed sample."""
    assert not model.training
    first, second = SAMPLE
    return {"embeddings": model(first), "views": model(second)}


def run(spread: float, epochs: int, folder: Path | None = None, **kwargs: Any) -> tuple[FitResult, nn.Module]:
    """A small run."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 8))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    data = TensorDataset(ROWS)
    loader = DataLoader(data, 32, shuffle=True, generator=torch.Generator().manual_seed(1))
    given = {"embed": observe, **kwargs}
    compute_loss = given.pop("loss")() if "loss" in given else Attraction(spread)
    result = fit(
        model,
        optimizer,
        compute_loss,
        loader,
        val_loader=DataLoader(data, 64),
        epochs=epochs,
        run=folder,
        **given,
    )
    return result, model


def test_weights_are_moved_and_all_of_it_is_told(tmp_path: Path) -> None:
    """A loss that does not spread is found; the weight is an adaptation of the result, the timeline and the events."""
    result, _ = run(0.0, 8, tmp_path / "run")
    nudges = [each for each in result.adaptations if each.kind == "nudge"]
    assert nudges[0].what == "spread"
    assert {each.of for each in result.outcomes} >= {each.name for each in nudges}
    assert result.timeline.happened[-1].settings["loss_weight_spread"] > 0
    assert "nudge-1" in str(result.timeline)
    assert all({"embedding_r", "recall_at_1"} <= each.metrics.keys() for each in result.reviews)
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text("utf-8").splitlines()]
    assert [each["name"] for each in events if each["event"] == "adaptation"] == [
        each.name for each in result.adaptations
    ]


def test_a_healthy_run_is_as_without() -> None:
    """Observed or not, it has the same weights bit for bit, and nothing is done."""
    result, model = run(0.5, 4)
    _, other = run(0.5, 4, embed=None)
    assert result.adaptations == ()
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), other.parameters(), strict=True))


class Finalized(Attraction):
    """The same with a third part, which a finalization does without."""

    def __init__(self) -> None:
        super().__init__(0.5)
        self.weights["third"] = 0.1
        self.final_weights = {"third": 0.0, "unknown": 1.0}

    def __call__(self, model: nn.Module, batch: list[Tensor]) -> dict[str, Tensor]:
        return super().__call__(model, batch) | {"third": self.weights["third"] * model(batch[0]).square().mean()}


def test_a_finalization_moves_weights(tmp_path: Path) -> None:
    """They go to `final_weights`, slowly, and what the loss does not have is passed over."""
    given = {"patience": 2, "min_delta": 10.0, "loss": Finalized}
    result, _ = run(0.5, 40, tmp_path / "run", **given)
    begun = next(each for each in result.adaptations if each.kind == "finalization")
    moved = [each for each in result.adaptations if each.kind == "request"]
    assert [(each.what, each.before, each.after) for each in moved] == [("third", 0.1, 0.0)]
    weights = [each.settings["loss_weight_third"] for each in result.timeline.happened]
    assert weights[: begun.epoch] == [0.1] * begun.epoch
    assert weights[-1] == 0.0
    assert any(0.0 < each < 0.1 for each in weights)


def test_a_resumed_run_goes_on_with_its_weights(tmp_path: Path) -> None:
    """Three epochs and then one more are the same as four at once: knobs, adaptations and parameters."""
    at_once, model = run(0.0, 4, tmp_path / "at-once")
    run(0.0, 3, tmp_path / "in-two")
    resumed, other = run(0.0, 4, tmp_path / "in-two")
    assert resumed.adaptations == at_once.adaptations != ()
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        pytest.param({"embed": 3}, "has to be a function embed", id="no-function"),
        pytest.param({"embed": lambda _: ROWS}, "has to return a dict with 'embeddings'", id="no-dict"),
        pytest.param({"embed": lambda model: {"views": model(ROWS)}}, "has to return a dict", id="no-embeddings"),
    ],
)
def test_wrong_observations_are_refused(kwargs: dict[str, Any], said: str) -> None:
    """It is said what has to be given."""
    with pytest.raises(InputError, match=said):
        run(0.5, 1, **kwargs)


def test_without_validation_nothing_is_observed() -> None:
    """It is refused, since nothing would come of it."""
    model = nn.Linear(16, 8)
    with pytest.raises(InputError, match="embed is called at validations"):
        fit(model, torch.optim.SGD(model.parameters(), lr=0.1), Attraction(0.5), [[ROWS]], embed=observe)
