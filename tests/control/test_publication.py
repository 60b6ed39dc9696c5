"""Weights on disk, and the card that says how they came to be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_model
from torch import nn

from trimtab import InputError
from trimtab.control.publication import Facts, publish, write_card
from trimtab.control.weights import BY_LOSS, BestWeights, write_weights
from trimtab.journal import FORMAT_VERSION

FACTS = Facts("finished", 40, 2, "A `list`.", "those of the last step", [{"epoch": 1, "step": 20, "val_loss": 0.25}])


class Tied(nn.Module):
    """A model with one tensor under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3, bias=False)
        self.outer = nn.Linear(3, 3, bias=False)
        self.outer.weight = self.inner.weight


MODELS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(3, 2),
    "running-statistics": lambda: nn.BatchNorm1d(3),
    "bfloat16": lambda: nn.Linear(3, 2, dtype=torch.bfloat16),
    "tied": Tied,
    "transposed": lambda: _transpose(nn.Linear(3, 2)),
}


def _transpose(model: nn.Linear) -> nn.Linear:
    model.weight = nn.Parameter(torch.randn(3, 2).T)
    return model


def _equal(left: nn.Module, right: nn.Module) -> bool:
    pairs = zip(left.state_dict().values(), right.state_dict().values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_weights_are_read_by_safetensors(tmp_path: Path, make: Callable[[], nn.Module]) -> None:
    """What is written is what every tool that knows the format reads."""
    model, other = make(), make()
    write_weights(model, tmp_path / "model.safetensors")
    load_model(other, tmp_path / "model.safetensors")
    assert _equal(model, other)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("has_folder", [False, True], ids=["in-memory", "on-disk"])
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_the_best_weights_come_back(tmp_path: Path, make: Callable[[], nn.Module], has_folder: bool) -> None:
    """Bit for bit, in the tensors the model has."""
    best, model, kept = BestWeights(tmp_path if has_folder else None), make(), make()
    assert not best.restore(model)
    kept.load_state_dict(model.state_dict())
    best.keep(model)
    places = [each.data_ptr() for each in model.parameters()]
    with torch.no_grad():
        for each in model.parameters():
            each.add_(1.0)
    assert best.restore(model)
    assert _equal(model, kept)
    assert [each.data_ptr() for each in model.parameters()] == places
    assert (tmp_path / BY_LOSS).exists() is has_folder


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    """A model that has changed since is not half overwritten."""
    best = BestWeights(tmp_path)
    best.keep(nn.Linear(3, 2))
    model, kept = nn.Linear(4, 2), nn.Linear(4, 2)
    kept.load_state_dict(model.state_dict())
    with pytest.raises(InputError, match="of another model"):
        best.restore(model)
    assert _equal(model, kept)


def _write_run(folder: Path, *events: dict[str, Any]) -> Path:
    manifest = {
        "format": FORMAT_VERSION,
        "started": "2026-01-01T00:00:00+00:00",
        "versions": {"python": "3.12"},
        "command_line": ["train.py", "--token", "***"],
        "dtypes": ["float32"],
        "clip_norm": 1.0,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return folder


def test_a_card_says_how_a_model_came_to_be(tmp_path: Path) -> None:
    """Data, steps, metrics and interventions, in Markdown."""
    decision = {
        "step": 7,
        "verdict": "skip",
        "responses": [{"kind": "skip"}],
        "reason": "loss is not finite | skip",
    }
    event = {"event": "decision", "step": 7, "decision": decision, "action": {"step": 7, "verdict": "skip"}}
    card = write_card(nn.Linear(3, 2), _write_run(tmp_path, event, {"event": "end", "status": "finished"}), FACTS)
    for line in (
        f"# {tmp_path.name}",
        "A `Linear` with 8 parameters, trained with `trimtab.fit`. The weights are those of the last step.",
        "A `list`.",
        "| steps | 40 |",
        "| gradient norm clipped to | 1.0 |",
        "| command line | train.py --token *** |",
        "| 1 | 20 | 0.25 |",
        "1 in all: skip 1.",
        "| 7 | skip | loss is not finite \\| skip |",
    ):
        assert line in card.splitlines()


def test_a_calm_run_has_no_interventions(tmp_path: Path) -> None:
    """The card says so; and that there was no validation, where there was none."""
    card = write_card(nn.Linear(3, 2), _write_run(tmp_path), Facts("paused", 0, 0, "A `list`.", "new", []))
    assert "None: the supervisor had nothing to put right." in card
    assert "The run has had no validation." in card


def test_an_export_is_replaced(tmp_path: Path) -> None:
    """The export of the end takes the place of one in the middle."""
    model = nn.Linear(3, 2)
    folder = publish(model, _write_run(tmp_path), FACTS)
    nn.init.zeros_(model.weight)
    assert publish(model, tmp_path, FACTS) == folder == tmp_path / "export"
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "model.safetensors"]
    other = nn.Linear(3, 2)
    load_model(other, folder / "model.safetensors")
    assert _equal(model, other)
