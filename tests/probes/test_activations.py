"""The probe `activations`, on layers of which it is known what they give."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from trimtab.probes import measure
from trimtab.probes.activations import METRICS, MIN_SAMPLES, ActivationWatch
from trimtab.probes.subject import Moment, Subject
from trimtab.types import Value

BATCH = torch.linspace(-2, 2, 64 * 8).reshape(64, 8)


class Held(nn.Module):
    """A layer that gives exactly its input, with something to train."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def look(model: nn.Module, *batches: Tensor, trains: bool = True) -> dict[str, Value]:
    """What is measured after some micro-batches; the hooks are gone."""
    subject = Subject(model, torch.optim.SGD(model.parameters(), lr=0.1))
    watch = ActivationWatch(subject)
    for batch in batches:
        with torch.set_grad_enabled(trains):
            model(batch)
    watch.close()
    assert not any(module._forward_hooks for module in model.modules())
    with torch.no_grad():
        moment = Moment(subject, is_sampled=True, watches={"activations": watch})
        return dict(measure(2, moment, only=["activations"]).values)


def first(values: dict[str, Value], metric: str) -> float:
    """The number of the first group."""
    found = values[metric]
    assert isinstance(found, tuple)
    return found[0]


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        pytest.param(nn.Identity(), BATCH, id="no-activation"),
        pytest.param(nn.ReLU(), BATCH.relu(), id="relu"),
        pytest.param(nn.ReLU(inplace=True), BATCH.relu(), id="relu-in-place"),
        pytest.param(nn.Tanh(), BATCH.tanh(), id="tanh"),
    ],
)
def test_numbers_are_those_of_the_values(act: nn.Module, expected: Tensor) -> None:
    """Mean, deviation between samples, largest magnitude and share of zeros are those over all micro-batches."""
    found = look(nn.Sequential(Held(), act, Held()), *BATCH.split(16))
    assert first(found, "activation_mean") == pytest.approx(float(expected.mean()), abs=1e-6)
    between = torch.stack([part.var(0, correction=0).mean() for part in expected.split(16)]).mean().sqrt()
    assert first(found, "activation_std") == pytest.approx(float(between), rel=1e-4)
    assert first(found, "activation_largest") == pytest.approx(float(expected.abs().max()))
    assert first(found, "zero_units") == pytest.approx(float((expected == 0).float().mean()))


@pytest.mark.parametrize(
    ("act", "share"),
    [
        pytest.param(nn.Tanh(), lambda x: x.tanh().abs() > 0.99, id="tanh"),
        pytest.param(nn.Sigmoid(), lambda x: (x.sigmoid() - 0.5).abs() > 0.495, id="sigmoid"),
        pytest.param(nn.Hardtanh(-1, 1), lambda x: x.abs() > 0.99, id="hardtanh"),
        pytest.param(nn.ReLU6(), lambda x: x > 5.97, id="relu6-is-dead-at-0-not-saturated"),
        pytest.param(nn.ReLU(), lambda x: x > 0.99 * x.max(), id="relu-near-its-largest"),
    ],
)
def test_saturation_is_at_the_bounds(act: nn.Module, share) -> None:  # type: ignore[no-untyped-def]  # a lambda
    """A value is saturated near a bound of its activation, or near the largest where there is none."""
    batch = 5 * BATCH
    found = look(nn.Sequential(Held(), act, Held()), batch)
    assert first(found, "saturated_units") == pytest.approx(float(share(batch).float().mean()), abs=1e-6)


def test_activation_of_the_output_is_not_seen() -> None:
    """What is behind the last trained module may saturate; then the module itself is seen."""
    found = look(nn.Sequential(Held(), nn.Sigmoid()), 100 * BATCH)
    assert first(found, "activation_largest") == 200.0


def test_spread_of_the_output() -> None:
    """It is 0 where all samples get the same, and not told of small batches."""
    assert look(Held(), torch.ones(64, 8))["output_spread"] == 0.0
    assert look(Held(), torch.randn(4096, 8))["output_spread"] == pytest.approx(1.0, rel=0.05)
    assert "output_spread" not in look(Held(), torch.ones(MIN_SAMPLES - 1, 100))


def test_validations_are_not_seen() -> None:
    """A forward pass without gradients, such as a validation between two steps, is not the training's."""
    assert look(nn.Sequential(Held(), nn.ReLU(), Held()), BATCH, trains=False) == {}


def test_few_values_say_nothing() -> None:
    """Of a layer that gave less than 256 values nothing is told."""
    assert not look(Held(), torch.randn(4, 8)).keys() & set(METRICS)
