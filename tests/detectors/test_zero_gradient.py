"""`zero-gradient`: the smallest histories it reports, and those on which it stays silent."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, nan

import pytest
from torch import Tensor, nn
from torch.nn import functional

from tests.laws.training import Training, make_training
from trimtab.detectors import detect
from trimtab.history import History
from trimtab.types import Measurement, Value


def watch(norms: Sequence[float | None], losses: Sequence[float | None] | None = None, **settings: int) -> list[int]:
    """The steps at which a finding is made; None where a metric was not measured."""
    history, steps = History(), []
    for step, (norm, loss) in enumerate(zip(norms, losses or [1.0] * len(norms), strict=True), 1):
        values: dict[str, Value | None] = {"grad_norm": norm, "loss": loss}
        history.append(Measurement(step, {name: value for name, value in values.items() if value is not None}))
        steps += [finding.step for finding in detect(history, {"zero-gradient": settings})]
        history.close(accepted=True)
    return steps


@pytest.mark.parametrize(
    ("norms", "losses", "settings", "steps"),
    [
        pytest.param([0.0] * 3, None, {}, [3], id="from-the-first-step-on"),
        pytest.param([0.0] * 205, None, {}, [3, 103, 203], id="once-in-a-hundred-steps"),
        pytest.param([1.0] * 9 + [0.0] * 3, None, {}, [12], id="after-a-healthy-start"),
        pytest.param([0.0] * 3, [0.0] * 3, {}, [3], id="with-a-loss-of-0-that-was-never-learned"),
        pytest.param([0.0] * 3, [5.0, -1.0, 3.0], {}, [3], id="whatever-the-loss-does"),
        pytest.param([1.0, 0.0], None, {"steps": 1}, [2], id="one-step-if-asked"),
    ],
)
def test_reports(
    norms: list[float | None], losses: list[float | None] | None, settings: dict[str, int], steps: list[int]
) -> None:
    """A gradient norm of exactly 0 for some steps is found."""
    assert watch(norms, losses, **settings) == steps


@pytest.mark.parametrize(
    ("norms", "losses"),
    [
        pytest.param([0.0] * 2, None, id="two-steps-are-not-enough"),
        pytest.param([0.0, 0.0, 1.0] * 20, None, id="never-three-in-a-row"),
        pytest.param([1.0] * 50, None, id="constant"),
        pytest.param([1e-30] * 50, None, id="tiny-is-not-0"),
        pytest.param([10.0**-step for step in range(300)], None, id="falling"),
        pytest.param([0.0, 0.0, nan, 0.0, inf, 0.0, 0.0], None, id="not-finite-in-between"),
        pytest.param([0.0, 0.0, None, 0.0, 0.0, None], None, id="not-measured-in-between"),
        pytest.param([0.0] * 4, [nan] * 4, id="loss-not-finite"),
        pytest.param([0.0] * 4, [None] * 4, id="loss-not-known"),
        pytest.param([1.0] + [0.0] * 9, [1.0] + [0.0] * 9, id="a-hinge-loss-that-is-met"),
        pytest.param([None] * 9, None, id="never-measured"),
    ],
)
def test_stays_silent(norms: list[float | None], losses: list[float | None] | None) -> None:
    """Single zeros, small norms, what was not measured, and a loss that was learned to 0 are no faults."""
    assert watch(norms, losses) == []


class Hidden(Training):
    """A run whose gradients are lost: the model's outputs come from behind `detach`, and one idle weight is kept."""

    def backward(self, x: Tensor, y: Tensor) -> Tensor:
        weight = next(self.model.parameters())
        loss = functional.mse_loss(self.model(x).detach(), y) + 0 * weight.sum()
        loss.backward()
        return loss.detach()


class Dead(nn.Module):
    """A network whose units are all far below zero."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(6, 16), nn.Linear(16, 1, bias=False)
        nn.init.constant_(self.inner.bias, -100.0)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.outer(functional.relu(self.inner(x)))
        return outputs.squeeze(-1)


def test_real_detached_loss_is_found() -> None:
    """A loss that does not depend on the weights is found at the third step, and told once."""
    made = make_training("sgd")
    training = Hidden(made.model, made.optimizer).supervise().run(5)
    found = [(finding.step, finding.detector) for each in training.decisions for finding in each.findings]
    assert found == [(3, "zero-gradient")]
    assert set(training.verdicts) == {"proceed"}


def test_real_dead_network_is_found() -> None:
    """A network without a live unit is found at the third step, though its ReLU is no module."""
    training = make_training("sgd", model=Dead).supervise().run(3)
    assert [finding.detector for finding in training.decisions[-1].findings] == ["zero-gradient"]
