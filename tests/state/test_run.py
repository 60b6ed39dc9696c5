"""The state of a run: what is captured, what does not fit, and that it comes back in place and bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ExponentialLR

from tests.laws.models import Growing, Net, Recording
from tests.laws.training import OPTIMIZERS, Batches, capture, list_differences, make_training
from trimtab.errors import CheckpointError
from trimtab.state.run import RunState, restore_optimizer


def fail(sentence: str) -> None:
    """No partner refuses its state here."""
    raise AssertionError(sentence)


def copy_state(state: Any) -> Any:
    """What comes back from the disk: the same numbers in tensors of their own."""
    return copy.deepcopy(state)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_captured_state_comes_back_in_place(optimizer: str) -> None:
    """Whatever happened since, every bit is as it was, in the tensors there are."""
    training = make_training(optimizer).run(6)
    run = RunState(training.model, training.optimizer, [], training.batches)
    state, before = copy_state(run.capture()), capture(training)
    places = [each.data_ptr() for each in training.model.parameters()]
    training.run(11)
    run.require_fit(state)
    run.restore(state, fail)
    assert list_differences(before, capture(training)) == []
    assert [each.data_ptr() for each in training.model.parameters()] == places


def test_state_made_since_is_deleted() -> None:
    """The state of an optimizer that had made none is empty again."""
    training = make_training("adamw")
    run = RunState(training.model, training.optimizer)
    state = copy_state(run.capture())
    training.run(3)
    run.restore(state, fail)
    assert training.optimizer.state == {}


def test_moments_keep_their_dtype() -> None:
    """Moments in float32 of weights in bfloat16 come back as they are; `load_state_dict` would round them."""
    weight = nn.Parameter(torch.zeros(4, dtype=torch.bfloat16))
    optimizer = torch.optim.AdamW([weight], lr=torch.tensor(0.01))
    moment = torch.tensor([1.001, 2.002, 3.003, 4.004])
    optimizer.state[weight] = {"step": torch.tensor(3.0), "exp_avg": moment.clone(), "note": "kept"}
    state = copy_state(optimizer.state_dict())
    rate = optimizer.param_groups[0]["lr"]
    optimizer.state[weight] = {"exp_avg": torch.zeros(4), "stray": torch.ones(1)}
    rate.fill_(9.0)
    restore_optimizer(optimizer, state)
    assert {name: type(value) for name, value in optimizer.state[weight].items()} == {
        "step": Tensor,
        "exp_avg": Tensor,
        "note": str,
    }
    assert torch.equal(optimizer.state[weight]["exp_avg"], moment)
    assert optimizer.param_groups[0]["lr"] is rate
    assert float(rate) == pytest.approx(0.01)


@pytest.mark.parametrize("model", [Net, Recording])
def test_hidden_buffers_are_part_of_it(model: Callable[[], nn.Module]) -> None:
    """Buffers that a state_dict leaves out come back too."""
    training = make_training("adamw", model=model).run(4)
    run = RunState(training.model, training.optimizer)
    state = copy_state(run.capture())
    buffers = {name: buffer.clone() for name, buffer in training.model.named_buffers()}
    training.run(9)
    run.restore(state, fail)
    assert {name: buffer.tolist() for name, buffer in training.model.named_buffers()} == {
        name: buffer.tolist() for name, buffer in buffers.items()
    }


def test_buffer_of_another_size_comes_back() -> None:
    """A buffer that grew since, or has not grown yet in a new process, is set to what it was."""
    training = make_training("adamw", model=Growing).run(4)
    run = RunState(training.model, training.optimizer)
    state = copy_state(run.capture())
    training.run(9)
    run.require_fit(state)
    run.restore(state, fail)
    assert training.model.get_buffer("table").tolist() == [0.0, 1.0, 2.0, 3.0]


def add_scheduler(training: Any) -> None:
    training.scheduler = ExponentialLR(training.optimizer, 0.9)


def test_reload_in_the_middle_keeps_the_place() -> None:
    """Data and random numbers go on, and what the loop is about to step is as before its step."""
    training = make_training("adamw", add_scheduler)
    run = RunState(training.model, training.optimizer, [training.scheduler], training.batches)  # type: ignore[list-item]
    schedules: list[Any] = []
    training.after_update = lambda _: schedules.append(run.capture_schedule())
    training.run(5)
    state = copy_state(run.capture()) | {"schedule": schedules[4]}
    training.run(9)
    random_numbers = torch.get_rng_state()
    run.restore(state, fail, keeps_place=True)
    assert training.batches.position == 9
    assert torch.equal(torch.get_rng_state(), random_numbers)
    assert training.scheduler is not None
    assert training.scheduler.last_epoch == 4
    assert training.optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * 0.9**4)
    run.restore(state, fail)
    assert training.batches.position == 5
    assert training.scheduler.last_epoch == 5


# What does not fit.


def make_state(model: nn.Module, *partners: Any, groups: int = 1) -> RunState:
    parameters = list(model.parameters())
    given = [{"params": parameters[index::groups]} for index in range(groups)]
    return RunState(model, torch.optim.SGD(given, lr=0.1), partners, Batches())


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        pytest.param(partial(make_state, nn.Linear(3, 3)), "(3, 3) float32", id="shape"),
        pytest.param(partial(make_state, nn.Linear(3, 2).double()), "float64", id="dtype"),
        pytest.param(partial(make_state, nn.Linear(3, 2, bias=False)), "bias", id="missing"),
        pytest.param(partial(make_state, nn.Sequential(nn.Linear(3, 2))), "0.weight, 0.bias", id="names"),
        pytest.param(partial(make_state, nn.Linear(3, 2), groups=2), "parameter groups", id="groups"),
        pytest.param(partial(make_state, nn.Linear(3, 2), Batches()), "partners Batches, this run has none", id="more"),
    ],
)
def test_state_of_another_run_is_refused(other: Callable[[], RunState], sentence: str) -> None:
    """The message says what differs, and nothing is written."""
    run, state = make_state(nn.Linear(3, 2)), copy_state(other().capture())
    with pytest.raises(CheckpointError) as refused:
        run.require_fit(state)
    assert sentence in str(refused.value)
