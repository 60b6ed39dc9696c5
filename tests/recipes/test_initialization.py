"""`initialize`: what is drawn for which layer and why, and what is never touched."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.recipes.broken import fill
from tests.recipes.sound import make_resnet, pretrained, words
from trimtab import InputError
from trimtab.recipes import initialize, lint
from trimtab.recipes.activations import SUITING
from trimtab.recipes.initialization import measure_fans

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.fixture
def seeded() -> None:
    torch.manual_seed(0)


class Functional(nn.Module):
    """A network that calls its activation as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.last(torch.tanh(self.first(inputs)))
        return out


class Shared(nn.Module):
    """A network with one activation that is made first and used everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.LeakyReLU(0.2)
        self.first, self.second, self.last = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.last(self.act(self.second(self.act(self.first(inputs)))))
        return out


class Plain(nn.Module):
    """A residual block without normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.downsample = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.conv2(self.conv1(inputs).relu())
        out += self.downsample(inputs)
        return out


def stack(*activations: nn.Module) -> nn.Sequential:
    return nn.Sequential(*(part for each in activations for part in (nn.Linear(32, 32), each)), nn.Linear(32, 3))


XAVIER = sqrt(2 / 64)


@pytest.mark.parametrize(
    ("model", "parameter", "rule", "std"),
    [
        pytest.param(lambda: stack(nn.ReLU()), "0.weight", "he-normal", sqrt(2 / 32), id="relu"),
        pytest.param(lambda: stack(nn.GELU()), "0.weight", "he-normal", 1.534 / sqrt(32), id="gelu"),
        pytest.param(
            lambda: stack(nn.LeakyReLU(0.5)), "0.weight", "he-normal", sqrt(2 / 1.25 / 32), id="leaky-relu-with-slope"
        ),
        pytest.param(lambda: stack(nn.SELU()), "0.weight", "lecun-normal", sqrt(1 / 32), id="selu"),
        pytest.param(lambda: stack(nn.Tanh()), "0.weight", "xavier-normal", 5 / 3 * XAVIER, id="tanh"),
        pytest.param(lambda: stack(nn.Sigmoid()), "0.weight", "xavier-normal", XAVIER, id="sigmoid"),
        pytest.param(lambda: stack(nn.Identity(), nn.ReLU()), "0.weight", "xavier-normal", XAVIER, id="nothing"),
        pytest.param(
            lambda: stack(nn.Sequential(nn.Dropout(), nn.ReLU())), "0.weight", "xavier-normal", XAVIER, id="nested"
        ),
        pytest.param(lambda: stack(nn.ReLU()), "2.weight", "normal", 0.01, id="last-layer"),
        pytest.param(Functional, "first.weight", "xavier-normal", 5 / 3 * sqrt(2 / 12), id="called-in-forward"),
        pytest.param(Functional, "last.weight", "normal", 0.01, id="last-of-forward"),
        pytest.param(Shared, "second.weight", "he-normal", sqrt(2 / 1.04 / 8), id="shared-activation"),
        pytest.param(Shared, "last.weight", "normal", 0.01, id="last-with-shared-activation"),
        pytest.param(lambda: make_resnet()["model"], "0.weight", "he-normal", sqrt(2 / 147), id="convolution"),
        pytest.param(lambda: nn.BatchNorm2d(4), "weight", "constant", 1.0, id="batch-norm"),
        pytest.param(lambda: stack(nn.ReLU()), "0.bias", "constant", 0.0, id="bias"),
        pytest.param(lambda: nn.Embedding(9, 4), "weight", "kept", None, id="embedding-alone"),
        pytest.param(
            lambda: nn.TransformerEncoderLayer(16, 2), "self_attn.in_proj_weight", "normal", 0.02, id="attention"
        ),
        pytest.param(
            lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2), 3, enable_nested_tensor=False),
            "layers.1.linear2.weight",
            "normal",
            0.02 / sqrt(6),
            id="end-of-branch",
        ),
    ],
)
def test_each_layer_is_drawn_as_it_asks_for(
    model: Callable[[], nn.Module], parameter: str, rule: str, std: float | None
) -> None:
    """The rule and the number follow from the layer and what comes after it; the reason is in words."""
    line = next(each for each in initialize(model()) if each.parameter == parameter)
    assert line.rule == rule
    assert line.number == (None if std is None else pytest.approx(std))
    assert line.reason


@pytest.mark.parametrize(
    ("layer", "fans"),
    [
        pytest.param(nn.Linear(3, 5), (3, 5), id="linear"),
        pytest.param(nn.Conv2d(4, 8, 3), (36, 72), id="convolution"),
        pytest.param(nn.Conv2d(4, 8, 3, groups=4, stride=2), (9, 4.5), id="by-channel"),
        pytest.param(nn.ConvTranspose2d(4, 8, 4, stride=2), (16, 128), id="transposed"),
    ],
)
def test_fans_count_what_is_summed(layer: Any, fans: tuple[float, float]) -> None:
    """The fan in is what one output is summed from, as the variance of the output shows."""
    assert measure_fans(layer, layer.weight) == fans
    with torch.no_grad():
        layer.weight.normal_()
        shape = (64, 4, 24, 24) if layer.weight.ndim > 2 else (20_000, 3)
        out = layer(torch.randn(shape))
    if layer.weight.ndim > 2:
        out = out[:, :, 4:-4, 4:-4]
    assert float(out.var()) == pytest.approx(fans[0], rel=0.3)


@pytest.mark.parametrize("make", [nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell])
def test_recurrent_layers_begin_orthogonal_with_the_state_kept(make: Any) -> None:
    """Each gate's matrix from state to state is orthogonal; the gate that keeps the state begins open."""
    layer = make(6, 8)
    initialize(layer)
    named = dict(layer.named_parameters())
    recurrent = next(each for name, each in named.items() if name.startswith("weight_hh"))
    for gate in recurrent.detach().split(8):
        torch.testing.assert_close(gate @ gate.T, torch.eye(8), atol=1e-5, rtol=0)
    biases = sum(each.detach() for name, each in named.items() if "bias" in name)
    open_gates = {gate for gate, each in enumerate(torch.as_tensor(biases).split(8)) if bool((each == 1).all())}
    assert open_gates == ({1} if make is not nn.RNN else set())


def copy_numbers(model: nn.Module) -> dict[str, Tensor]:
    return {name: each.clone() for name, each in model.state_dict().items()}


def train(model: nn.Sequential) -> nn.Sequential:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(200):
        inputs = torch.randn(64, 32)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), inputs[:, :3].argmax(1)).backward()
        optimizer.step()
    return model


def own_way() -> nn.Sequential:
    model = stack(nn.ReLU())
    for name, each in model.named_parameters():
        nn.init.normal_(each, 0.0, 0.02 if "weight" in name else 0.01)
    return model


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: train(stack(nn.Tanh(), nn.Tanh())), id="trained"),
        pytest.param(lambda: train(nn.Sequential(nn.BatchNorm1d(32))), id="trained-norm"),
        pytest.param(lambda: train(nn.Sequential(nn.Linear(32, 3))), id="trained-regression"),
        pytest.param(own_way, id="drawn-by-its-library"),
        pytest.param(lambda: stack(nn.ReLU()).requires_grad_(False), id="frozen"),
        pytest.param(lambda: fill(0.0, 0, 2)["model"], id="at-0-on-purpose"),
    ],
)
def test_what_is_not_new_is_not_touched(make: Callable[[], nn.Module]) -> None:
    """Trained, frozen and zeroed weights stay bit for bit what they are, unless it is said that they need not."""
    model = make()
    before = copy_numbers(model)
    lines = initialize(model)
    assert all(each.is_kept and each.reason for each in lines)
    assert all(torch.equal(before[name], each) for name, each in model.state_dict().items())
    assert not any(each.is_kept for each in initialize(model, overwrites=True))


def test_new_head_on_a_trained_body_is_drawn_when_it_is_named() -> None:
    """Of a trained model with a new last layer nothing is drawn, or what is named alone."""
    model = train(stack(nn.Tanh(), nn.Tanh()))
    model[4] = nn.Linear(32, 10)
    lines = initialize(model)
    assert all(each.is_kept and "0 looks trained: its weight is not what Linear draws" in str(each) for each in lines)
    drawn = [each.parameter for each in initialize(model, overwrites=["4"]) if not each.is_kept]
    assert drawn == ["4.weight", "4.bias"]


def test_statistics_of_a_trained_norm_are_a_trace() -> None:
    """A batch norm that has seen batches tells that the model was trained, and keeps its statistics."""
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    model(torch.randn(8, 4))
    statistics = copy_numbers(model)
    assert {each.reason for each in initialize(model)} == {"1 looks trained: it has seen 1 batches"}
    assert all(torch.equal(statistics[name], each) for name, each in model.state_dict().items())
    initialize(model, overwrites=True)
    assert int(model.state_dict()["1.num_batches_tracked"]) == 0


@pytest.mark.parametrize("seed", range(20))
def test_what_was_just_made_is_known_as_new(seed: int) -> None:
    """Layers of any size that were just made are drawn, large and small ones."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Linear(3, 2), nn.Linear(300, 200), nn.Conv2d(3, 7, 3), nn.Conv1d(2, 2, 1, bias=False)]
    layers += [nn.LSTM(5, 7, 2, proj_size=3), nn.GRUCell(4, 4), nn.LayerNorm(9), nn.MultiheadAttention(8, 2)]
    layers += [nn.ConvTranspose2d(6, 4, 3, groups=2), nn.Linear(4, 4).bfloat16()]
    assert not [str(line) for each in layers for line in initialize(each) if line.is_kept]


def test_what_is_named_is_kept() -> None:
    """A module or a parameter that is named stays what it is, with all in it."""
    model = nn.Sequential(stack(nn.ReLU()), nn.Linear(3, 3))
    before = copy_numbers(model)
    lines = initialize(model, keep=["0", "1.bias"], overwrites=True)
    assert [each.parameter for each in lines if not each.is_kept] == ["1.weight"]
    assert [name for name, each in model.state_dict().items() if not torch.equal(each, before[name])] == ["1.weight"]


def test_units_that_begin_alike_are_told_apart() -> None:
    """What lint reports as identical weights, `initialize` mends, as lint says it does."""
    case = fill(0.5, 0)
    assert [each.check for each in lint(**case)] == ["identical-weights"]
    initialize(case["model"])
    assert lint(**case) == ()


def test_fixup_zeroes_the_end_of_each_branch() -> None:
    """Without normalization the last layer is 0 and those before it are smaller; with it, its scale is 0."""
    plain = nn.Sequential(*[Plain() for _ in range(4)])
    told = {each.parameter: each for each in initialize(plain, "fixup")}
    assert (told["1.conv2.weight"].number, told["1.downsample.weight"].rule) == (0.0, "he-normal")
    assert told["1.conv1.weight"].number == pytest.approx(sqrt(2 / 36) * 4**-0.5)
    assert not bool(plain.state_dict()["1.conv2.weight"].any())
    resnet = make_resnet()["model"]
    told = {each.parameter: each for each in initialize(resnet, "fixup", overwrites=True)}
    assert (told["4.layers.4.weight"].number, told["4.layers.3.weight"].rule) == (0.0, "he-normal")


@pytest.mark.parametrize("scheme", ["he", "xavier", "transformer"])
def test_one_scheme_for_all(scheme: Any) -> None:
    """A scheme by name draws every layer so, and the weights have the standard deviation it says."""
    model = nn.Sequential(nn.Linear(200, 300), nn.Tanh(), nn.Linear(300, 300))
    expected = {"he": sqrt(2 / 300), "xavier": sqrt(2 / 600), "transformer": 0.02}[scheme]
    line = initialize(model, scheme)[2]
    assert line.number == pytest.approx(expected)
    assert float(model.state_dict()["2.weight"].std()) == pytest.approx(expected, rel=0.02)


def test_tied_weights_are_drawn_once() -> None:
    """A parameter that two layers share is told of once, and its padding row stays 0."""
    model = pretrained("GPT2LMHeadModel", {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2}, words)["model"]
    lines = initialize(model, overwrites=True)
    assert len({each.parameter for each in lines}) == len(lines) == len(list(model.parameters()))
    padded = nn.Sequential(nn.Embedding(5, 4, padding_idx=0), nn.TransformerEncoderLayer(4, 2))
    initialize(padded)
    assert not bool(padded.state_dict()["0.weight"][0].any())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        pytest.param(lambda: initialize(nn.Linear(2, 2), "best"), "scheme is 'best'; it has to be one of", id="scheme"),  # type: ignore[arg-type]
        pytest.param(lambda: initialize(3), "model is a 'int'", id="no-model"),  # type: ignore[arg-type]
        pytest.param(lambda: initialize(nn.Linear(2, 2), keep=["head"]), "keep has 'head'", id="unknown-name"),
        pytest.param(lambda: initialize(nn.LazyLinear(2)), "has no numbers", id="lazy"),
        pytest.param(lambda: initialize(stack(nn.ReLU()), "fixup"), "found no residual branch", id="no-branch"),
    ],
)
def test_what_cannot_be_is_a_sentence(call: Callable[[], Any], message: str) -> None:
    """A scheme, a name or a model that cannot be used is refused in one sentence."""
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize(
    ("name", "function"),
    [
        pytest.param("relu", F.relu, id="relu"),
        pytest.param("gelu", F.gelu, id="gelu"),
        pytest.param("elu", F.elu, id="elu"),
        pytest.param("silu", F.silu, id="silu"),
        pytest.param("hardswish", F.hardswish, id="hardswish"),
        pytest.param("mish", F.mish, id="mish"),
        pytest.param("softplus", F.softplus, id="softplus"),
        pytest.param("selu", F.selu, id="selu"),
    ],
)
def test_gains_keep_the_mean_square(name: str, function: Callable[[Tensor], Tensor]) -> None:
    """Times its gain, an activation of a standard normal number has a mean square of 1."""
    grid = torch.linspace(-12, 12, 100_001, dtype=torch.float64)
    weights = torch.exp(-grid.square() / 2)
    mean_square = float((function(grid).square() * weights).sum() / weights.sum())
    assert SUITING[name][1] ** 2 * mean_square == pytest.approx(1.0, abs=2e-3)
