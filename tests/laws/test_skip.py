"""Law 2: after a skip, the optimizer's step changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from tests.laws.models import Growing, Late, Net, Recording
from tests.laws.spoils import spoil_batch, spoil_gradients, spoil_loss, spoil_one_gradient, spoil_targets
from tests.laws.training import (
    OPTIMIZERS,
    Event,
    Training,
    add_scaler,
    capture_buffers,
    capture_optimizer,
    capture_partners,
    capture_random,
    capture_weights,
    compute_loss,
    list_differences,
    make_training,
)
from trimtab import Policy
from trimtab.state.buffers import WATCHED_STEPS, BufferCopies

BAD_STEP = 6

ONLY_SKIP = Policy.from_dict({"detectors": {"nonfinite": {"ladder": ["skip"]}}})


def capture_changeable(training: Training) -> dict[str, Any]:
    return {**capture_weights(training), **capture_optimizer(training), **capture_buffers(training)}


@pytest.mark.parametrize("step", [pytest.param(1, id="first-step"), pytest.param(BAD_STEP, id="later-step")])
@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(spoil_batch, id="nan-batch"),
        pytest.param(spoil_loss, id="nan-loss-with-finite-gradients"),
        pytest.param(spoil_one_gradient, id="infinite-gradient"),
    ],
)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_skipped_step_changes_nothing(optimizer: str, spoil: Callable[[int], Event], step: int) -> None:
    """After a skip the optimizer's step changes neither weights nor its own state nor a buffer; then all goes on."""
    training = make_training(optimizer, spoil(step)).supervise().run(step - 1)
    before = capture_changeable(training)
    training.step()
    assert training.verdicts[-1] == "skip"
    assert not training.decisions[-1].proceed
    assert list_differences(before, capture_changeable(training)) == []
    training.run(step + 3)
    assert training.verdicts[step:] == ["proceed"] * 3
    assert list_differences(before, capture_changeable(training)) != []


@pytest.mark.parametrize(
    "micro_batch", [pytest.param(0, id="first"), pytest.param(1, id="middle"), pytest.param(2, id="last")]
)
@pytest.mark.parametrize(
    "step",
    [
        pytest.param(1, id="first-step"),
        pytest.param(2, id="second-step"),
        pytest.param(BAD_STEP, id="later-step"),
        pytest.param(21, id="after-snapshots"),
    ],
)
@pytest.mark.parametrize(
    "model",
    [
        pytest.param(Net, id="batchnorm"),
        pytest.param(Recording, id="every-kind-of-write"),
        pytest.param(Growing, id="growing-table"),
    ],
)
def test_buffers_are_as_before_the_first_micro_batch(
    model: Callable[[], nn.Module], step: int, micro_batch: int
) -> None:
    """Whichever micro-batch was bad, a skip puts back every buffer that any of them changed."""
    training = make_training("sgd", spoil_batch(step, micro_batch), model=model, num_micro_batches=3)
    training.supervise().run(step - 1)
    before = capture_buffers(training)
    training.step()
    assert training.verdicts[-1] == "skip"
    assert list_differences(before, capture_buffers(training)) == []


@pytest.mark.parametrize("first_step", range(4, 9))
def test_buffer_that_begins_to_change_late_is_put_back(first_step: int) -> None:
    """A buffer that begins to change after the first steps is noticed at a snapshot, and put back from then on."""
    training = make_training("sgd", spoil_batch(21), model=partial(Late, first_step)).supervise().run(20)
    before = capture_buffers(training)
    training.step()
    assert training.verdicts[-1] == "skip"
    assert list_differences(before, capture_buffers(training)) == []


def test_buffer_made_anew_at_the_same_address_is_noticed() -> None:
    """A buffer that is replaced is noticed, even where Python gives the new tensor the address of the old one."""
    model = nn.Linear(2, 2)
    model.register_buffer("table", torch.ones(()))
    buffers = BufferCopies(model)
    for _ in range(WATCHED_STEPS):
        buffers.update()
    address = id(model.table)
    model.register_buffer("table", None)
    others = []
    while id(table := torch.ones(())) != address:  # the first one, as a rule
        others.append(table)
    model.register_buffer("table", table)
    buffers.rescan()
    assert [name for name, _ in buffers.list_live()] == ["table"]


def test_buffers_of_later_skips_are_put_back_too() -> None:
    """Several skips in a row leave the buffers as they were before the first of them."""
    training = make_training("sgd", spoil_batch(7)).supervise(policy=ONLY_SKIP).run(6)
    before = capture_buffers(training)
    for _ in range(3):
        training.batches.position = 6
        training.step()
    assert training.verdicts[-3:] == ["skip"] * 3
    assert list_differences(before, capture_buffers(training)) == []


@pytest.mark.parametrize(
    ("spoil", "verdict"),
    [
        pytest.param(spoil_batch, "skip", id="nan-batch"),
        pytest.param(spoil_gradients, "proceed", id="overflow-left-to-the-scaler"),
    ],
)
@pytest.mark.parametrize("step", [pytest.param(1, id="first-step"), pytest.param(12, id="later-step")])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_scaler_does_what_it_does_on_an_overflow(
    optimizer: str, step: int, spoil: Callable[[int], Event], verdict: str
) -> None:
    """A skipped step is to the scaler an overflow like any other, and everything after it goes as after one."""
    training = make_training(optimizer, add_scaler, spoil(step)).supervise()
    judged = trace_run(training)
    alone = trace_run(make_training(optimizer, add_scaler, spoil_gradients(step)))
    assert training.verdicts[step - 1] == verdict
    assert [list_differences(*pair) for pair in zip(judged, alone, strict=True)] == [[]] * len(alone)


def test_scaler_backs_off_through_a_long_row_of_overflows() -> None:
    """Overflows too many in a row to be routine are skipped, and the scaler backs off through all of them."""
    bad = range(12, 21)
    training = make_training("adamw", add_scaler, spoil_gradients(*bad)).supervise(policy=ONLY_SKIP)
    judged = trace_run(training)
    alone = trace_run(make_training("adamw", add_scaler, spoil_gradients(*bad)))
    assert [list_differences(*pair) for pair in zip(judged, alone, strict=True)] == [[]] * len(alone)
    assert training.verdicts.count("skip") == len(bad) - 4


def trace_run(training: Training) -> list[dict[str, Any]]:
    """The state after each step of a run, without buffers; that of the optimizer at the end only.

    The optimizer may make its zeros at an overflow or at the next update, which is all the same.
    """
    states = []
    for _ in range(24):
        training.step()
        states.append({**capture_weights(training), **capture_partners(training), **capture_random()})
    return [*states, capture_optimizer(training)]


@pytest.mark.parametrize(
    "policy", [pytest.param(ONLY_SKIP, id="skipped"), pytest.param(Policy.observe(), id="observed")]
)
@pytest.mark.parametrize(
    "model", [pytest.param(Net, id="batchnorm"), pytest.param(Recording, id="every-kind-of-write")]
)
@pytest.mark.parametrize("step", [pytest.param(1, id="first-step"), pytest.param(21, id="later-step")])
def test_rerun_of_a_batch_changes_nothing(model: Callable[[], nn.Module], step: int, policy: Policy) -> None:
    """Where a bad batch is computed once more, random numbers, buffers and all else are as where it is not."""

    def run(**options: Any) -> dict[str, Any]:
        training = make_training("adamw", spoil_targets(step), model=model).supervise(policy=policy, **options)
        training.run(step)
        return {**capture_changeable(training), **capture_random()}

    assert list_differences(run(compute_loss=compute_loss), run()) == []
