"""The same batch in both modes: what is seen of it, and that the training goes on as if it had not been computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from trimtab import Policy, Supervisor

Batch = tuple[Tensor, Tensor]


class Plain(nn.Module):
    """A network whose dropout is a function, or hidden in a list that eval mode does not reach, or as it should be."""

    def __init__(self, drop: str) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 2)
        self.drop = drop
        self.hidden = [nn.Dropout(0.4)]
        self.module = nn.Dropout(0.4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.first(x))
        if self.drop == "function":
            hidden = functional.dropout(hidden, 0.4)
        if self.drop == "told":
            hidden = functional.dropout(hidden, 0.4, self.training)
        if self.drop == "list":
            hidden = self.hidden[0](hidden)
        if self.drop == "module":
            hidden = self.module(hidden)
        if self.drop == "attention":
            given = hidden[:, None, None]
            hidden = functional.scaled_dot_product_attention(given, given, given, dropout_p=0.4)[:, 0, 0]
        return self.last(hidden)  # type: ignore[no-any-return]


def make_norm(momentum: float = 0.1) -> nn.Module:
    """A network with running statistics."""
    return nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16, momentum=momentum), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 2)
    )


def compute_loss(model: nn.Module, batch: Batch) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def make_batch(step: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    x = 3 + 2 * torch.randn(32, 6, generator=generator)
    return x, (x.sum(1) > 18).long()


def train(
    make: Callable[[], nn.Module], num_steps: int, given: Any = compute_loss, **options: Any
) -> tuple[nn.Module, Supervisor | None, list[str]]:
    """Train for some steps; returns the model, its supervisor if `given` is not None, and what was found."""
    torch.manual_seed(0)
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9)
    supervisor = None
    found: list[str] = []
    if given is not None:
        options.setdefault("strict", True)
        supervisor = Supervisor(model, optimizer, policy=Policy.observe(), compute_loss=given, **options)
    for step in range(num_steps):
        batch = make_batch(step)
        loss = compute_loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        if supervisor is not None:
            found += [each.detector for each in supervisor.check(loss, batch=batch).findings]
        optimizer.step()
    if supervisor is not None:
        supervisor.finish()
    return model, supervisor, found


def read(supervisor: Supervisor | None, metric: str) -> list[float]:
    """A metric of the run at the steps at which it was measured."""
    assert supervisor is not None
    if not supervisor.history.has(metric):
        return []
    column = supervisor.history.column(metric)
    return [float(each) for each in column[column == column]]


@pytest.mark.parametrize("drop", ["function", "list", "attention"])
def test_dropout_that_is_active_in_eval_mode_is_seen(drop: str) -> None:
    """By a function, by a module that eval mode does not reach, or within attention; said once, at step 2."""
    _, supervisor, found = train(lambda: Plain(drop), 110)
    assert read(supervisor, "eval_dropouts") == [1.0, 1.0]
    assert len(read(supervisor, "eval_mode_loss_again")) == 2
    assert found == ["eval-dropout"]


@pytest.mark.parametrize("drop", ["module", "told", "none"])
def test_dropout_that_is_off_in_eval_mode_is_none(drop: str) -> None:
    """Where dropout follows the mode, or there is none, nothing is found and one pass is enough."""
    _, supervisor, found = train(lambda: Plain(drop), 110)
    assert read(supervisor, "eval_dropouts") == [0.0, 0.0]
    assert read(supervisor, "eval_mode_loss_again") == []
    assert found == []


def test_augmentation_is_no_dropout() -> None:
    """A loss that draws random numbers of its own differs from pass to pass, and nothing is found."""

    def augment(model: nn.Module, batch: Batch) -> Tensor:
        return compute_loss(model, (batch[0] + torch.randn_like(batch[0]), batch[1]))

    assert train(lambda: Plain("module"), 110, augment)[2] == []


@pytest.mark.parametrize(
    ("momentum", "found"), [pytest.param(0.001, ["batch-norm-lag"], id="lags"), pytest.param(0.1, [], id="follows")]
)
def test_statistics_that_lag_are_seen(momentum: float, found: list[str]) -> None:
    """The loss by running statistics that lag is far above that by the statistics of the same samples."""
    _, supervisor, told = train(lambda: make_norm(momentum), 310)
    usual, by_batch = read(supervisor, "eval_mode_loss"), read(supervisor, "batch_norm_loss")
    assert len(usual) == len(by_batch) == 4
    assert told == found
    if found:
        assert usual[-1] > 2 * by_batch[-1]


@pytest.mark.parametrize("make", [make_norm, lambda: Plain("function")], ids=["norm", "dropout"])
def test_the_training_is_bit_for_bit_the_same(make: Callable[[], nn.Module]) -> None:
    """Weights, statistics, modes and random numbers are those of a run without a supervisor."""
    watched, supervisor, _ = train(make, 210)
    state = torch.random.get_rng_state()
    assert len(read(supervisor, "eval_mode_loss")) == 3
    alone, _, _ = train(make, 210, None)
    assert torch.equal(state, torch.random.get_rng_state())
    for name, each in alone.state_dict().items():
        assert torch.equal(each, watched.state_dict()[name]), name
    assert [each.training for each in watched.modules()] == [each.training for each in alone.modules()]


def test_norms_that_are_fixed_on_purpose_are_left_alone() -> None:
    """Norms in eval mode have no statistics of the batch to be compared with."""

    class Fixed(nn.Sequential):
        def train(self, mode: bool = True) -> Fixed:
            super().train(mode)
            self[1].eval()
            return self

    _, supervisor, _ = train(lambda: Fixed(*make_norm().children()).train(), 10)
    assert len(read(supervisor, "eval_mode_loss")) == 1
    assert read(supervisor, "batch_norm_loss") == []


def test_what_cannot_be_computed_in_eval_mode_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """A loss that fails in eval mode is a warning, the steps are judged, and it is not tried again."""

    def refuse(_model: nn.Module, _batch: Batch) -> Tensor:
        raise RuntimeError("only training is supported")

    _, supervisor, found = train(lambda: Plain("module"), 210, refuse, strict=False)
    told = [each.getMessage() for each in caplog.records if "eval mode" in each.getMessage()]
    assert len(told) == 1
    assert "RuntimeError" in told[0]
    assert read(supervisor, "eval_mode_loss") == []
    assert len(read(supervisor, "loss")) == 210
    assert found == []


def test_batches_without_tensors_are_left_alone() -> None:
    """Of a batch that cannot be cut nothing is computed."""
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Supervisor(model, optimizer, compute_loss=compute_loss, strict=True) as supervisor:
        for _ in range(3):
            loss = model(torch.ones(4, 2)).square().mean()
            loss.backward()
            supervisor.check(loss, batch="some text")
            optimizer.step()
        assert read(supervisor, "eval_mode_loss") == []
