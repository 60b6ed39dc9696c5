"""A weight that something overwrites between two steps is found by the next check or the one after, and mended."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.laws.training import Training, capture_weights, list_differences
from tests.scenarios.recovery.runs import get_supervisor, list_findings, make_run, probed_policy

HIT = 61
"""The step after whose update a bit flips."""

LARGEST_EXPONENT_BIT, LARGEST_MANTISSA_BIT = 30, 22
"""Of a float32."""

UNREAD = 8 * 33
"""A number of an embedding row that the data never asks for."""


class Reader(nn.Module):
    """A network of words with each kind of parameter; a row of numbers is read as words."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(40, 8)
        self.inner = nn.Linear(8, 16)
        self.norm = nn.LayerNorm(16)
        self.outer = nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        words = (10 * x).long() % 20  # half of the rows are never read
        outputs: Tensor = self.outer(torch.relu(self.norm(self.inner(self.words(words).mean(1)))))
        return outputs.squeeze(-1)


def flip(bit: int) -> Callable[[Tensor], object]:
    """Flip one bit of float32 numbers."""
    return lambda numbers: numbers.view(torch.int32).bitwise_xor_(1 << bit)


def run_with_hit(
    name: str, index: int, hit: Callable[[Tensor], object], table: dict[str, Any], *, is_probed: bool = True
) -> tuple[Training, float]:
    """A run in which one number of a parameter is hit once; returns it 20 steps later, and what the number became."""
    became: list[float] = []

    def strike(training: Training) -> None:
        if training.batches.position == HIT and not became:
            number = training.model.get_parameter(name).detach().view(-1)[index : index + 1]
            hit(number)
            became.append(float(number))

    def probe(model: nn.Module) -> float:
        x = torch.randn(32, 6, generator=torch.Generator().manual_seed(7))
        return float((model(x) - x @ torch.linspace(-1, 1, 6) - 2.0).square().mean())

    training = make_run(None, model=Reader, after_update=strike)
    training.supervise(data=training.batches, probe=probe if is_probed else None, policy=probed_policy(table))
    return training.run(HIT + 20), became[0]


PARAMETERS = [
    pytest.param("inner.weight", 5, id="linear-weight"),
    pytest.param("inner.bias", 3, id="bias"),
    pytest.param("outer.bias", 0, id="last-bias"),
    pytest.param("norm.weight", 2, id="norm-gain"),
    pytest.param("norm.bias", 2, id="norm-bias"),
    pytest.param("words.weight", 8 * 3, id="embedding-row"),
    pytest.param("words.weight", UNREAD, id="embedding-row-that-is-not-read"),
]


@pytest.mark.parametrize("is_probed", [pytest.param(True, id="probed"), pytest.param(False, id="not-probed")])
@pytest.mark.parametrize(("name", "index"), PARAMETERS)
def test_flipped_exponent_bit_is_found_and_mended(name: str, index: int, is_probed: bool) -> None:
    """Whichever parameter is hit, the run is rolled back at the next check or the one after, and goes on unharmed."""
    training, became = run_with_hit(name, index, flip(LARGEST_EXPONENT_BIT), {}, is_probed=is_probed)
    supervisor = get_supervisor(training)
    acted = [each for each in supervisor.ledger if each.responses and each.step > HIT]
    assert not abs(became) < 1e18
    assert acted[0].step == HIT + 1
    assert "rollback" in {each.verdict for each in acted if each.step <= HIT + 2}
    healthy = make_run(None, model=Reader).run(HIT + 20)
    assert list_differences(capture_weights(training), capture_weights(healthy)) == []


@pytest.mark.parametrize(
    ("table", "is_undone"),
    [
        pytest.param({}, False, id="default"),
        pytest.param({"weight-jump": {"ladder": ["rollback", "halt"]}}, True, id="with-a-ladder"),
    ],
)
@pytest.mark.parametrize(("name", "index"), PARAMETERS)
def test_stray_write_is_found(name: str, index: int, table: dict[str, Any], is_undone: bool) -> None:
    """A number far too large, though far from overflow, is found at once; undone where the policy says so."""
    training, _ = run_with_hit(name, index, lambda numbers: numbers.fill_(1e4), {"detectors": table})
    found = [step for step, _ in list_findings(get_supervisor(training)) if step > HIT]
    assert found[0] == HIT + 1
    if is_undone:
        healthy = make_run(None, model=Reader).run(HIT + 20)
        assert training.verdicts[HIT] == "rollback"
        assert list_differences(capture_weights(training), capture_weights(healthy)) == []


@pytest.mark.parametrize(("name", "index"), PARAMETERS)
def test_flipped_mantissa_bit_is_not_found(name: str, index: int) -> None:
    """A flipped mantissa bit changes a weight by half at most: neither found nor harmful, as documented."""
    training, became = run_with_hit(name, index, flip(LARGEST_MANTISSA_BIT), {})
    assert math.isfinite(became)
    assert set(training.verdicts) == {"proceed"}
