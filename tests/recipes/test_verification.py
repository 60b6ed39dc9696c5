"""`verify_initialization`: the layer at which signals collapse or explode, the first loss, and nothing changed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.recipes.sound import SOUND, Case
from tests.recipes.test_lint import copy_all, is_same
from trimtab import InputError
from trimtab.recipes import initialize, verify_initialization
from trimtab.recipes.verification import find_break

DEPTH = 12


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def make_deep(make: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """A plain network with `DEPTH` hidden layers, numbers 0, 2, 4 and so on."""
    layers = [part for _ in range(DEPTH - 1) for part in (nn.Linear(64, 64), make())]
    return nn.Sequential(nn.Linear(16, 64), make(), *layers, nn.Linear(64, 5))


def make_batch() -> tuple[Tensor, Tensor]:
    return torch.randn(64, 16), torch.arange(64) % 5


def scale(model: nn.Sequential, layer: int, factor: float) -> nn.Sequential:
    with torch.no_grad():
        for each in model[layer].parameters():
            each.mul_(factor)
    return model


@pytest.mark.parametrize("layer", [2, 8, 16, 22])
@pytest.mark.parametrize(("factor", "how"), [(1e-4, "collapse"), (1e4, "explode")])
def test_layer_that_breaks_the_signal_is_named(layer: int, factor: float, how: str) -> None:
    """In a network that is well drawn but for one layer, the flaw names that layer."""
    model = make_deep()
    initialize(model)
    assert verify_initialization(model, make_batch()).flaws == ()
    flaws = verify_initialization(scale(model, layer, factor), make_batch()).flaws
    assert flaws[0].startswith(f"activations {how} at {layer}: "), flaws


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_layers_that_each_lose_or_gain_a_little_are_found(factor: float) -> None:
    """Where every layer shrinks or grows the signal, the flaw is at the layer at which it passes the limit."""
    model = make_deep()
    initialize(model)
    for layer in range(0, 2 * DEPTH, 2):
        scale(model, layer, factor)
    forward, backward = verify_initialization(model, make_batch()).flaws[:2]
    how, name = forward.split(":")[0].split(" at ")
    assert how == ("activations collapse" if factor < 1 else "activations explode")
    assert name in ("4", "6")  # a factor of 100 in each variance, give or take, and 10,000 in two or three
    assert backward.startswith("gradients vanish" if factor < 1 else "gradients explode")


@pytest.mark.parametrize(
    "make",
    [pytest.param(each, id=each.__name__) for each in (nn.ReLU, nn.Tanh, nn.GELU, nn.SELU, nn.LeakyReLU)],
)
def test_initialize_mends_a_deep_network(make: Callable[[], nn.Module]) -> None:
    """A plain deep network that PyTorch drew is flagged; after `initialize` it is not."""
    model = nn.Sequential(*list(make_deep(make))[:-1], *list(make_deep(make))[2:])
    batch = make_batch()
    assert any("collapse" in each or "vanish" in each for each in verify_initialization(model, batch).flaws)
    initialize(model)
    assert verify_initialization(model, batch).flaws == ()


@pytest.mark.parametrize("make", SOUND)
def test_sound_models_are_left_alone(make: Callable[[], Case]) -> None:
    """Well-made models of all kinds have no flaw as they are made, nor after `initialize`."""
    case = make()
    given = {name: case[name] for name in ("loss_fn", "compute_loss") if name in case}
    assert verify_initialization(case["model"], case["batch"], **given).flaws == ()
    initialize(case["model"], overwrites=True)
    assert verify_initialization(case["model"], case["batch"], **given).flaws == ()


def test_sure_head_is_flagged_by_the_first_loss() -> None:
    """A last layer that is too large makes the first loss far from chance; a fair one is at it."""
    model = make_deep()
    initialize(model)
    fair = verify_initialization(model, make_batch())
    assert fair.initial_loss is not None
    assert fair.initial_loss.num_classes == 5
    assert fair.initial_loss.expected == pytest.approx(1.609, abs=1e-3)
    assert fair.initial_loss.measured == fair.loss == pytest.approx(1.609, abs=0.05)
    sure = verify_initialization(scale(model, 2 * DEPTH, 1000.0), make_batch())
    assert sure.flaws[0].startswith("the first loss is")


def test_saturated_units_lose_the_gradient_alone() -> None:
    """Tanh units that are saturated pass the signal on, so that activations are not what is flagged."""
    model = make_deep(nn.Tanh)
    initialize(model)
    for layer in range(0, 2 * DEPTH, 2):
        scale(model, layer, 30.0)
    flaws = verify_initialization(model, make_batch()).flaws
    assert not [each for each in flaws if each.startswith("activations")]


@pytest.mark.parametrize(
    ("values", "place"),
    [
        pytest.param([1.0, 1.0, 1.0], None, id="flat"),
        pytest.param([1.0, 1e-5, 1.0], None, id="dip-that-recovers"),
        pytest.param([1.0, 0.5, 1e-5, 1e-6], "2", id="collapse"),
        pytest.param([1e-5, 1.0, 10.0], "1", id="explosion"),
        pytest.param([1.0, 1.0, 0.0], "2", id="to-zero"),
        pytest.param([0.0, 0.0], None, id="all-zero"),
        pytest.param([1.0, float("nan"), float("nan")], "1", id="nan"),
        pytest.param([float("inf"), 1.0], "0", id="infinite-from-the-start"),
        pytest.param([], None, id="none"),
    ],
)
def test_break_is_where_values_stay_beyond_the_limit(values: list[float], place: str | None) -> None:
    """A place is named from which on all values are beyond the limit, and none where some come back."""
    assert find_break([str(index) for index in range(len(values))], values)[0] == place


@pytest.mark.parametrize("is_training", [True, False])
def test_nothing_is_changed(is_training: bool) -> None:
    """Model, gradients, optimizer, flags, hooks, loader and random numbers are bit for bit as before."""
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
    model.train(is_training)
    batch = torch.randn(16, 4), torch.arange(16) % 3
    F.cross_entropy(model(batch[0]), batch[1]).backward()
    optimizer = torch.optim.AdamW(model.parameters())
    loader = SimpleNamespace(generator=torch.Generator())
    before, shown = copy_all(model, optimizer, loader), copy.deepcopy(batch)
    verify_initialization(model, batch)
    assert is_same(copy_all(model, optimizer, loader), before)
    assert is_same(batch, shown)


def test_result_is_a_table_and_a_plot() -> None:
    """Printed, each layer has a line; the plot has both variances of each layer."""
    found = verify_initialization(make_deep(), make_batch())
    lines = str(found).split("\n")
    assert len(lines) >= DEPTH + 3
    assert lines[1].split()[0] == "0"
    figure = found.plot()
    assert [len(each.x) for each in figure.data] == [DEPTH + 1, DEPTH + 1]
    assert figure.layout.yaxis.type == "log"


@pytest.mark.parametrize(
    ("give", "message"),
    [
        pytest.param({"model": 1}, "model is a 'int'", id="no-model"),
        pytest.param({"batch": (torch.randn(4, 16), torch.randn(4, 5))}, "the loss is not known", id="no-loss"),
        pytest.param({"batch": (torch.randn(4, 9), torch.zeros(4).long())}, "cannot be computed", id="wrong-width"),
        pytest.param({"loss_fn": F.cross_entropy, "compute_loss": F.cross_entropy}, "both", id="both-losses"),
    ],
)
def test_what_cannot_be_is_a_sentence(give: dict[str, Any], message: str) -> None:
    """What cannot be verified is refused in one sentence."""
    with pytest.raises(InputError, match=message):
        verify_initialization(**{"model": make_deep(), "batch": make_batch(), **give})
