"""Law 1 for the probes that watch: their hooks change not one bit, and are there on sampled steps alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from tests.laws.models import Net
from tests.laws.training import Event, Training, capture, list_differences, make_training
from trimtab.probes import probes
from trimtab.probes.subject import Moment, Subject


class Rectified(Net):
    """A network with ReLU modules, one of them in place, beside all else that makes bit-equality hard."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(6, 16), nn.ReLU(inplace=True), nn.Linear(16, 6), nn.ReLU6())

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.first(x))


def add_accumulation(training: Training) -> None:
    training.num_micro_batches = 3


def add_bfloat16(training: Training) -> None:
    training.autocast = torch.bfloat16


def add_scaler(training: Training) -> None:
    """Mixed precision with float16 and a scale that fits."""
    training.autocast = torch.float16
    training.scaler = GradScaler("cpu", init_scale=2.0**10)


def list_hooks(model: nn.Module) -> list[str]:
    """Where a model has hooks now."""
    modules = [name for name, each in model.named_modules() if each._forward_hooks]
    return modules + [name for name, each in model.named_parameters() if each._backward_hooks]


@pytest.mark.parametrize("num_steps", [pytest.param(2, id="first-sample"), pytest.param(103, id="second-sample")])
@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([], id="plain"),
        pytest.param([add_accumulation], id="accumulation"),
        pytest.param([add_bfloat16], id="bfloat16-autocast"),
        pytest.param([add_scaler], id="scaler"),
        pytest.param([add_accumulation, add_scaler], id="scaled-accumulation"),
    ],
)
def test_sampled_step_is_bit_equal(parts: list[Event], num_steps: int) -> None:
    """A run with sampled steps ends as one without a supervisor, and has found nothing."""

    def make(**fields: Any) -> Training:
        return make_training("adamw", *parts, model=Rectified, **fields)

    supervised = make().supervise().run(num_steps)
    state = capture(supervised)
    assert list_differences(state, capture(make().run(num_steps))) == []
    supervisor = supervised.supervisor
    assert supervisor is not None
    assert not supervisor.ledger, [decision.reason for decision in supervisor.ledger]
    if num_steps > 100:
        measured = supervisor.history.column("stale_gradients")[101], supervisor.history.column("dead_units")[101, 3]
        assert torch.tensor(measured).isfinite().all(), "the second sampled step was to be watched"


def test_hooks_are_there_on_sampled_steps_alone() -> None:
    """Hooks are registered before the forward pass of a sampled step, and gone after its check."""
    seen = {}

    def look(training: Training) -> None:
        seen[training.batches.position] = bool(list_hooks(training.model))

    make_training("adamw", model=Rectified, after_backward=look).supervise().run(104)
    assert [step for step, has_hooks in seen.items() if has_hooks] == [2, 102]


def test_hooks_are_gone_at_the_end() -> None:
    """A run that ends in front of a sampled step keeps no hook."""
    training = make_training("adamw", model=Rectified).supervise().run(1)
    assert list_hooks(training.model)
    assert training.supervisor is not None
    training.supervisor.finish()
    assert list_hooks(training.model) == []


@pytest.mark.parametrize("name", ["activations", "dead_units", "stale_gradients", "missing_gradients"])
def test_size_follows_from_what_all_ranks_share(name: str) -> None:
    """How many numbers a probe yields depends on the step, and not on whether a watch is there."""
    model = Rectified()
    subject = Subject(model, torch.optim.SGD(model.parameters(), lr=0.1))
    watched = {name: None}
    assert all(probes[name].size(Moment(subject, watches=watches)) == 0 for watches in ({}, watched))
    with_watch, without = (probes[name].size(Moment(subject, is_sampled=True, watches=each)) for each in (watched, {}))
    assert with_watch == without > 0


def list_watches(model: nn.Module) -> list[Any]:
    """The watches whose hooks a model has."""
    hooks: list[Any] = [hook for module in model.modules() for hook in module._forward_hooks.values()]
    return [getattr(hook, "func", hook).__self__ for hook in hooks]


def test_copy_of_a_watched_model_is_not_watched() -> None:
    """A copy made between two checks, as for an average of the weights, has hooks that do nothing."""
    training = make_training("adamw").supervise().run(1)
    twin = copy.deepcopy(training.model)
    assert all(each.is_open for each in list_watches(training.model))
    training.run(2)
    assert training.supervisor is not None
    seen = dict(training.supervisor.history.newest.values)
    twin(torch.zeros(48, 6))
    assert training.supervisor.history.newest.values == seen
    assert all(not each.is_open for each in list_watches(twin))
