"""The probe `missing_gradients`, on models with parameters that no gradient reaches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.laws.models import Frozen, Net, Unused, Words
from tests.laws.training import make_training
from trimtab.probes import probes
from trimtab.probes.subject import Moment, Subject


class Detached(Net):
    """A network whose first layer is cut off from the loss."""

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.outer(torch.relu(self.norm(self.inner(x).detach())))
        return outputs.squeeze(-1)


class Zeroed(Net):
    """A network whose first layer gets a gradient that is 0."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0 * self.inner.bias.sum()


@pytest.mark.parametrize(
    ("model", "counts"),
    [
        pytest.param(Net, {}, id="all-get-one"),
        pytest.param(Unused, {"idle": 2.0}, id="a-layer-that-is-not-called"),
        pytest.param(Detached, {"inner": 2.0}, id="a-layer-that-is-cut-off"),
        pytest.param(Zeroed, {}, id="a-gradient-of-0-is-one"),
        pytest.param(Frozen, {}, id="frozen-parameters-need-none"),
        pytest.param(Words, {}, id="a-sparse-gradient-is-one"),
    ],
)
def test_counts_parameters_without_gradient(model: Callable[[], nn.Module], counts: dict[str, float]) -> None:
    """At a sampled step of a real run, each group's parameters without any gradient are counted."""
    supervisor = make_training(lambda given: torch.optim.SGD(given, lr=0.01), model=model).supervise().run(5).supervisor
    assert supervisor is not None
    column = supervisor.history.column("missing_gradients")
    assert np.flatnonzero(np.isfinite(column).all(axis=1)).tolist() == [1], "only step 2 is sampled"
    found = dict(zip(supervisor.history.groups, column[1].tolist(), strict=True))
    assert {group: count for group, count in found.items() if count} == counts


def test_parameter_frozen_after_the_start_is_not_counted() -> None:
    """A parameter that needs no gradient any more has none, and none is missing."""
    training = make_training("sgd").supervise()
    training.model.get_parameter("inner.weight").requires_grad_(False)
    assert training.run(2).supervisor is not None
    assert training.supervisor is not None
    assert training.supervisor.history.newest.values["missing_gradients"] == (0.0, 0.0, 0.0)


def test_costs_nothing_at_other_steps() -> None:
    """Where the step is not sampled it yields no number."""
    model = Net()
    moment = Moment(Subject(model, torch.optim.SGD(model.parameters(), lr=0.1)))
    each = probes["missing_gradients"]
    assert each.size(moment) == 0
    with pytest.raises(StopIteration):
        next(each.look(moment))  # type: ignore[arg-type]
