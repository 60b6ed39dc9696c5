"""The probe `dead_units`, on layers with units of which it is known whether they are dead."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from math import isnan

import pytest
import torch
from torch import Tensor, nn

from trimtab.probes import measure
from trimtab.probes.dead_units import MIN_PLACES, UnitWatch
from trimtab.probes.subject import Moment, Subject

NUM = 4
"""Units of each layer."""


def kill(layer: nn.Module, num: int) -> nn.Module:
    """Make the first units of a layer dead and the others alive, whatever the inputs are."""
    with torch.no_grad():
        assert isinstance(layer.bias, Tensor)
        layer.bias.fill_(100.0)[:num] = -100.0
    return layer


def look(model: nn.Module, *batches: Tensor, groups: list[str] | None = None) -> dict[str, float]:
    """The share of dead units of each group after some micro-batches, where there is one; the hooks are gone."""
    subject = Subject(model, torch.optim.SGD(model.parameters(), lr=0.1), grouping=groups)
    watch = UnitWatch(subject)
    for batch in batches:
        model(batch).sum().backward()
    watch.close()
    assert not any(module._forward_hooks for module in model.modules())
    with torch.no_grad():
        moment = Moment(subject, is_sampled=True, watches={"dead_units": watch})
        shares = measure(2, moment, only=["dead_units"]).values.get("dead_units", ())
    assert isinstance(shares, tuple)
    return {group: share for group, share in zip(subject.groups, shares, strict=False) if not isnan(share)}


BATCH = torch.randn(MIN_PLACES, 6)
TOKENS = torch.randn(4, 8, 6)
SERIES = torch.randn(4, 6, 10)
IMAGES = torch.randn(4, 6, 5, 5)
VOLUMES = torch.randn(4, 6, 3, 3, 3)


@pytest.mark.parametrize(
    ("layer", "act", "batch", "num_dead"),
    [
        pytest.param(nn.Linear(6, NUM), nn.ReLU(), BATCH, 0, id="all-alive"),
        pytest.param(nn.Linear(6, NUM), nn.ReLU(), BATCH, 4, id="all-dead"),
        pytest.param(nn.Linear(6, NUM), nn.ReLU(), BATCH, 1, id="one-dead"),
        pytest.param(nn.Linear(6, NUM), nn.ReLU(inplace=True), BATCH, 1, id="in-place"),
        pytest.param(nn.Linear(6, NUM), nn.ReLU6(), BATCH, 1, id="relu6"),
        pytest.param(nn.Linear(6, NUM), nn.ReLU(), TOKENS, 1, id="features-of-tokens"),
        pytest.param(nn.Linear(5, NUM), nn.ReLU(), IMAGES, 1, id="linear-on-images"),
        pytest.param(nn.Conv1d(6, NUM, 3), nn.ReLU(), SERIES, 1, id="channels-of-a-series"),
        pytest.param(nn.Conv2d(6, NUM, 3), nn.ReLU(), IMAGES, 1, id="channels-of-an-image"),
        pytest.param(nn.Conv3d(6, NUM, 2), nn.ReLU(), VOLUMES, 1, id="channels-of-a-volume"),
    ],
)
def test_share_of_dead_units(layer: nn.Module, act: nn.Module, batch: Tensor, num_dead: int) -> None:
    """Of each kind of layer, the units that are 0 at every place of the batch are counted."""
    model = nn.Sequential(kill(layer, num_dead), act)
    assert look(model, batch, groups=["0"]) == {"0": num_dead / NUM}


@pytest.mark.parametrize(
    ("make", "batch"),
    [
        pytest.param(lambda: nn.Sequential(nn.Linear(6, NUM), nn.LeakyReLU()), BATCH, id="leaky"),
        pytest.param(lambda: nn.Sequential(nn.Linear(6, NUM), nn.GELU()), BATCH, id="gelu"),
        pytest.param(lambda: nn.Sequential(nn.Linear(6, NUM), nn.SiLU()), BATCH, id="silu"),
        pytest.param(lambda: nn.Sequential(nn.Linear(6, NUM), nn.Hardtanh()), BATCH, id="hardtanh"),
        pytest.param(lambda: nn.Sequential(nn.ReLU(), nn.Linear(6, NUM)), BATCH, id="before-all-trained-layers"),
        pytest.param(lambda: nn.Sequential(nn.Linear(6, NUM), nn.ReLU()), BATCH[1:], id="one-place-too-few"),
        pytest.param(lambda: nn.Sequential(nn.Linear(6, NUM), nn.ReLU()), BATCH[0], id="no-batch"),
    ],
)
def test_what_is_not_counted(make: Callable[[], nn.Module], batch: Tensor) -> None:
    """Units that are never exactly 0, that follow nothing trained, or were seen too seldom have no share."""
    assert look(make(), batch) == {}


def test_group_of_the_layer_before() -> None:
    """A ReLU counts for the group of the trained layer before it, a frozen one passed over; its units add up."""
    model = nn.Sequential(
        *(kill(nn.Linear(6, NUM), 1), nn.ReLU(), nn.Linear(NUM, NUM).requires_grad_(False), nn.ReLU()),
        *(kill(nn.Linear(NUM, 2), 1), nn.ReLU(), nn.Linear(2, 1)),
    )
    kill(model[2], 3)
    assert look(model, BATCH) == {"0": 4 / 8, "4": 1 / 2}


def test_units_dead_in_one_micro_batch_only_are_alive() -> None:
    """A unit is dead if it is 0 in all micro-batches of the step."""
    layer = nn.Linear(6, NUM)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[0, 0] = layer.weight[1, 1] = 1.0
        layer.bias.zero_()
    left, right = torch.zeros(2, MIN_PLACES, 6)
    left[:, 0] = right[:, 1] = 1.0
    model = nn.Sequential(layer, nn.ReLU())
    assert look(model, left, groups=["0"]) == {"0": 3 / 4}
    assert look(model, left, right, groups=["0"]) == {"0": 2 / 4}


class Shared(nn.Module):
    """One ReLU module at two places of different widths."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow, self.act = kill(nn.Linear(6, 8), 4), kill(nn.Linear(8, 2), 2), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.act(self.narrow(self.act(self.wide(x))))
        return outputs


def test_one_module_at_two_places() -> None:
    """A module that is called at places of different widths counts once for each, on every micro-batch."""
    assert look(Shared(), BATCH, BATCH, groups=["narrow", "wide"]) == {"narrow": pytest.approx(6 / 10)}


def test_activations_are_let_go_and_unchanged() -> None:
    """An output is the same as without hooks, and is not kept alive by them."""
    model = nn.Sequential(nn.Linear(6, NUM), nn.ReLU())
    expected = model(BATCH)
    watch = UnitWatch(Subject(model, torch.optim.SGD(model.parameters(), lr=0.1)))
    outputs = model(BATCH)
    assert torch.equal(outputs, expected)
    assert outputs.grad_fn.name() == expected.grad_fn.name()
    kept = weakref.ref(outputs)
    del outputs
    assert kept() is None
    watch.close()


class Odd(nn.ReLU):
    """A ReLU whose outputs cannot be reduced."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).to(torch.complex64)


def test_fault_of_a_hook_waits_for_the_check() -> None:
    """What fails in a hook does not disturb the forward pass; it is raised when the probe looks."""
    model = nn.Sequential(nn.Linear(6, NUM), Odd())
    subject = Subject(model, torch.optim.SGD(model.parameters(), lr=0.1))
    watch = UnitWatch(subject)
    model(BATCH)
    watch.close()
    with pytest.raises(RuntimeError):
        watch.judge(subject)
