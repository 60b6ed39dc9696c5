"""The probe `stale_gradients`, on real loops that clear their gradients somewhere, or forget to."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

import pytest
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn import functional

from tests.laws.models import Net
from trimtab import Supervisor
from trimtab.probes import probes
from trimtab.probes.stale_gradients import GradientWatch
from trimtab.probes.subject import Moment, Subject


@dataclass
class Loop:
    """A loop whose body is told in words, each the name of a method."""

    model: nn.Module = field(default_factory=Net)
    scaler: GradScaler | None = None

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)
        self.supervisor = Supervisor(self.model, self.optimizer, scaler=self.scaler)
        self.loss = torch.zeros(())

    def run(self, body: str, num_steps: int = 3) -> list[str]:
        """Take some steps and list the detectors that found something, with the step."""
        for _ in range(num_steps):
            for word in body.split():
                getattr(self, word)()
        return [f"{finding.detector} {each.step}" for each in self.supervisor.ledger for finding in each.findings]

    def clear(self) -> None:
        self.optimizer.zero_grad()

    def zero(self) -> None:
        self.optimizer.zero_grad(set_to_none=False)

    def forward(self) -> None:
        x = torch.randn(8, 6)
        self.loss = functional.mse_loss(self.model(x), x.sum(1))

    def backward(self) -> None:
        (self.loss if self.scaler is None else self.scaler.scale(self.loss)).backward()

    def penalize(self) -> None:
        """A gradient that is asked for and goes nowhere."""
        torch.autograd.grad(self.loss, list(self.model.parameters()), retain_graph=True)

    def overflow(self) -> None:
        next(self.model.parameters()).grad = torch.full((16, 6), inf)

    def check(self) -> None:
        self.supervisor.check(self.loss)

    def update(self) -> None:
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()


CLEARED = [
    pytest.param("clear forward backward check update", id="cleared-before-forward"),
    pytest.param("forward clear backward check update", id="cleared-before-backward"),
    pytest.param("forward backward check update clear", id="cleared-after-the-update"),
    pytest.param("zero forward backward check update", id="zeroed-before-forward"),
    pytest.param("forward zero backward check update", id="zeroed-before-backward"),
    pytest.param("forward backward check update zero", id="zeroed-after-the-update"),
    pytest.param("clear forward backward forward backward check update", id="accumulation"),
    pytest.param("forward zero backward forward backward forward backward check update", id="zeroed-accumulation"),
    pytest.param("forward backward clear forward backward check update", id="another-backward-before-it-is-cleared"),
    pytest.param("forward penalize clear backward check update", id="a-gradient-penalty-before-it-is-cleared"),
    pytest.param("clear forward penalize backward check update", id="a-gradient-penalty-after-it"),
]

FORGOTTEN = [
    pytest.param("forward backward check update", id="forgotten"),
    pytest.param("forward backward forward backward check update", id="forgotten-with-accumulation"),
    pytest.param("forward penalize backward check update", id="forgotten-with-a-gradient-penalty"),
]


def make_scaler() -> GradScaler:
    return GradScaler("cpu", init_scale=8.0)


@pytest.mark.parametrize("is_scaled", [pytest.param(False, id="plain"), pytest.param(True, id="scaled")])
@pytest.mark.parametrize("body", FORGOTTEN)
def test_forgotten_gradients_are_found(body: str, is_scaled: bool) -> None:
    """A loop that never clears its gradients is found at the second step."""
    loop = Loop(scaler=make_scaler() if is_scaled else None)
    assert loop.run(body) == ["stale-gradient 2"]


@pytest.mark.parametrize("is_scaled", [pytest.param(False, id="plain"), pytest.param(True, id="scaled")])
@pytest.mark.parametrize("body", CLEARED)
def test_cleared_gradients_are_no_fault(body: str, is_scaled: bool) -> None:
    """Wherever and however gradients are cleared, nothing is found, and it was looked for."""
    loop = Loop(scaler=make_scaler() if is_scaled else None)
    assert loop.run(body) == []
    assert loop.supervisor.history.column("stale_gradients")[1] == 0


def test_long_healthy_loop_has_no_finding() -> None:
    """A loop past the second sampled step has no finding, and was looked at twice."""
    loop = Loop()
    assert loop.run("clear forward backward check update", num_steps=105) == []
    seen = loop.supervisor.history.column("stale_gradients")
    assert [step for step, number in enumerate(seen, 1) if number == 0] == [2, 102]


def test_step_after_an_overflow_is_judged_too() -> None:
    """Where a loss scaler has skipped the update before, the backward pass is watched all the same."""
    loop = Loop(scaler=make_scaler())
    assert loop.run("clear forward backward overflow check update", num_steps=1) == []
    assert loop.run("clear forward backward check update", num_steps=1) == []
    assert loop.supervisor.history.newest.values["stale_gradients"] == 0.0


class Mixed(nn.Module):
    """Parameters of every kind, the smallest of which do not matter."""

    def __init__(self) -> None:
        super().__init__()
        self.empty = nn.Parameter(torch.zeros(0))
        self.idle = nn.Parameter(torch.zeros(()))
        self.words = nn.Embedding(3, 2, sparse=True)
        self.narrow = nn.Linear(2, 2, dtype=torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        words = self.words((x[:, 0] > 0).long())
        outputs: Tensor = self.narrow(words.bfloat16()).float().sum(1)
        return outputs


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param("forward backward check update", ["stale-gradient 2"], id="forgotten"),
        pytest.param("clear forward backward check update", [], id="cleared"),
    ],
)
def test_parameters_of_every_kind(body: str, expected: list[str]) -> None:
    """Empty and unused parameters are passed over; sparse and bfloat16 gradients are looked at."""
    assert Loop(model=Mixed()).run(body) == expected


def test_looks_at_few_small_parameters() -> None:
    """Hooks are on the three smallest parameters alone, and on none once it is closed."""
    model = Net()
    watch = GradientWatch(Subject(model, torch.optim.SGD(model.parameters(), lr=0.1)))
    hooked = [name for name, each in model.named_parameters() if each._backward_hooks]
    assert hooked == ["inner.bias", "norm.weight", "outer.bias"]
    watch.close()
    assert not any(each._backward_hooks for each in model.parameters())


def test_missing_watch_leaves_its_place() -> None:
    """On a sampled step without a watch it yields NaN in its place, and no metric."""
    model = Net()
    subject = Subject(model, torch.optim.SGD(model.parameters(), lr=0.1))
    moment = Moment(subject, is_sampled=True)
    reading = probes["stale_gradients"].look(moment)
    assert not isinstance(reading, dict)
    numbers = next(reading)  # type: ignore[arg-type]
    assert isinstance(numbers, Tensor)
    assert numbers.isnan().tolist() == [True]
    with pytest.raises(StopIteration) as finished:
        reading.send(numbers)  # type: ignore[union-attr]
    assert finished.value.value == {}
