"""`parameter_groups`: what decays and what does not; and which optimizer has which kind of decay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tests.recipes.broken import decay
from tests.recipes.sound import SOUND, Case
from trimtab import InputError
from trimtab.recipes import lint, parameter_groups
from trimtab.recipes.hygiene import find_decay_kind


def name_decayed(model: nn.Module) -> list[str]:
    """The names of the parameters that decay."""
    decayed = {id(each) for group in parameter_groups(model, 0.1) if group["weight_decay"] for each in group["params"]}
    return [name for name, each in model.named_parameters() if id(each) in decayed]


class Tied(nn.Module):
    """A model whose output shares the weights of its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Embedding(5, 4), nn.LayerNorm((3, 4)), nn.Linear(4, 5)
        self.head.weight = self.embed.weight


@pytest.mark.parametrize(
    ("model", "decayed"),
    [
        pytest.param(nn.Linear(3, 2), ["weight"], id="linear"),
        pytest.param(nn.Conv2d(3, 2, 1), ["weight"], id="convolution"),
        pytest.param(nn.BatchNorm2d(3), [], id="batch-norm"),
        pytest.param(nn.LayerNorm((2, 3)), [], id="layer-norm-of-two-dimensions"),
        pytest.param(nn.Embedding(3, 2), [], id="embedding"),
        pytest.param(nn.LSTM(3, 2), ["weight_ih_l0", "weight_hh_l0"], id="lstm"),
        pytest.param(nn.MultiheadAttention(4, 2), ["in_proj_weight", "out_proj.weight"], id="attention"),
        pytest.param(
            nn.MultiheadAttention(4, 2, add_bias_kv=True), ["in_proj_weight", "out_proj.weight"], id="bias-kv"
        ),
        pytest.param(Tied(), [], id="tied-to-an-embedding"),
    ],
)
def test_weights_decay_and_nothing_else(model: nn.Module, decayed: list[str]) -> None:
    """Biases, normalization and embeddings do not decay; matrices do."""
    assert name_decayed(model) == decayed


@pytest.mark.parametrize("make", SOUND)
def test_groups_hold_each_trained_parameter_once(make: Callable[[], Case]) -> None:
    """An optimizer takes the groups, and holds every trained parameter once; lint finds nothing in it."""
    model = make()["model"]
    groups = parameter_groups(model, 0.01)
    held = [id(each) for group in groups for each in group["params"]]
    assert sorted(held) == sorted(id(each) for each in model.parameters() if each.requires_grad)
    assert lint(model, torch.optim.AdamW(groups)) == ()


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        pytest.param(torch.optim.SGD, "L2", id="sgd"),
        pytest.param(torch.optim.Adam, "L2", id="adam"),
        pytest.param(torch.optim.NAdam, "L2", id="nadam"),
        pytest.param(torch.optim.AdamW, "decoupled", id="adamw"),
        pytest.param(torch.optim.Adafactor, "decoupled", id="adafactor"),
        pytest.param(
            lambda params: torch.optim.RAdam(params, decoupled_weight_decay=True), "decoupled", id="radam-decoupled"
        ),
    ],
)
def test_kind_of_decay_is_what_the_optimizer_does(make: Any, kind: str) -> None:
    """With a gradient of 0, decoupled decay shrinks a weight by rate times decay; L2 goes another way."""
    weight = nn.Parameter(torch.ones(1))
    optimizer = make([weight])
    assert find_decay_kind(optimizer) == kind
    for group in optimizer.param_groups:
        group.update(lr=0.1, weight_decay=0.5)
    weight.grad = torch.full((1,), 1e-3)
    optimizer.step()
    if kind == "decoupled" and not isinstance(optimizer, (torch.optim.Adafactor, torch.optim.RAdam)):
        assert float(weight.detach()) == pytest.approx(1 - 0.1 * 0.5 - 0.1, abs=1e-3)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param((torch.optim.AdamW, 0.05), id="adamw-as-for-images"),
        pytest.param((torch.optim.AdamW, 0.001), id="adamw-small"),
        pytest.param((torch.optim.SGD, 5e-4), id="sgd-as-for-cifar"),
        pytest.param((torch.optim.Adam, 0.0), id="adam-without-decay"),
    ],
)
def test_usual_decays_are_left_alone(case: tuple[Any, float]) -> None:
    """Each kind with a size of its own is not reported."""
    assert lint(**decay(*case)) == ()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        pytest.param(lambda: parameter_groups(nn.Linear(1, 1), -1), "weight_decay is -1", id="negative"),
        pytest.param(lambda: parameter_groups(nn.Linear(1, 1).requires_grad_(False), 0.1), "is trained", id="frozen"),
        pytest.param(lambda: parameter_groups(nn.LazyLinear(1), 0.1), "has no numbers", id="lazy"),
    ],
)
def test_what_cannot_be_is_a_sentence(call: Callable[[], Any], message: str) -> None:
    """What cannot be grouped is refused in one sentence."""
    with pytest.raises(InputError, match=message):
        call()
