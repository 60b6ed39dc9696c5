"""Memory that runs out at chosen places: no sample is lost or doubled, and the run is the one without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
from torch import nn

from tests.laws.training import list_differences
from tests.loop.runs import NUM_STEPS, NoisyNet, Parts, SmoothNet, make_loader, make_parts
from trimtab import InputError, fit
from trimtab.errors import OutOfMemory
from trimtab.journal import read_run
from trimtab.loop import FitResult

FULL = "CUDA out of memory. Tried to allocate 2.00 GiB."

Fault: TypeAlias = Callable[[Parts], None]


def run_out(parts: Parts) -> None:
    """Fail to allocate: what was computed in the step does not count."""
    parts.drop()
    raise torch.OutOfMemoryError(FULL)


def in_forward(*calls: int) -> Fault:
    """Memory runs out in these forward passes of the training, counted from 1."""

    def install(parts: Parts) -> None:
        num_calls = 0

        def fail(model: nn.Module, *_: Any) -> None:
            nonlocal num_calls
            num_calls += model.training
            if model.training and num_calls in calls:
                torch.rand(5)
                run_out(parts)

        parts.model.register_forward_hook(fail)

    return install


def in_backward(*calls: int) -> Fault:
    """Memory runs out in the backward passes of these forward passes, after gradients of some layers are there."""

    def install(parts: Parts) -> None:
        num_calls = 0

        def watch(*arguments: Any) -> None:
            nonlocal num_calls
            num_calls += 1
            if num_calls in calls:
                arguments[2].register_hook(lambda _: run_out(parts))

        layers = parts.model.layers
        assert isinstance(layers, nn.Sequential)
        layers[0].register_forward_hook(watch)

    return install


def in_update(*calls: int) -> Fault:
    """Memory runs out in these calls of the optimizer's step, before it writes."""

    def install(parts: Parts) -> None:
        num_calls = 0

        def fail(*_: Any) -> None:
            nonlocal num_calls
            num_calls += 1
            if num_calls in calls:
                raise torch.OutOfMemoryError(FULL)

        parts.optimizer.register_step_pre_hook(fail)

    return install


def above(num_samples: int) -> Fault:
    """Memory runs out in every forward pass of more samples."""

    def install(parts: Parts) -> None:
        def fail(_: nn.Module, inputs: tuple[torch.Tensor]) -> None:
            if parts.model.training and len(inputs[0]) > num_samples:
                run_out(parts)

        parts.model.register_forward_pre_hook(fail)

    return install


def train(*faults: Fault, model: Callable[[], nn.Module] = SmoothNet, **options: Any) -> tuple[Parts, FitResult]:
    parts = make_parts(model)
    for install in faults:
        install(parts)
    return parts, parts.fit(**options)


PLACES: dict[str, tuple[list[Fault], dict[str, Any]]] = {
    "first-forward": ([in_forward(1)], {}),
    "later-forward": ([in_forward(9)], {}),
    "backward": ([in_backward(5)], {}),
    "twice-in-a-row": ([in_forward(4, 5)], {}),
    "three-times-in-a-row": ([in_forward(4, 5, 6)], {}),
    "second-micro-batch": ([in_backward(4)], {"micro_batch": 4}),
    "middle-of-an-accumulation": ([in_backward(5)], {"accumulate": 3}),
    "last-of-an-accumulation": ([in_forward(6)], {"accumulate": 3}),
    "smaller-last-batch": ([in_forward(6)], {}),
    "first-update": ([in_update(1)], {}),
    "later-update-twice": ([in_update(7, 8)], {}),
    "everywhere": ([in_forward(3), in_backward(9), in_update(5)], {}),
    "always-above-three-samples": ([above(3)], {}),
}


@pytest.mark.parametrize(("faults", "options"), PLACES.values(), ids=PLACES.keys())
def test_a_run_that_runs_out_of_memory_is_the_run_that_does_not(faults: list[Fault], options: dict[str, Any]) -> None:
    """The same samples make the same number of updates, and the losses are the same within rounding."""
    whole, expected = train(**options)
    parts, result = train(*faults, **options)
    assert (result.status, result.num_steps) == ("finished", expected.num_steps)
    assert parts.trained == whole.trained
    assert parts.losses == pytest.approx(whole.losses, rel=1e-4)


SMALLER: dict[str, tuple[Fault, int]] = {
    "forward": (in_forward(1), 4),
    "forward-twice": (in_forward(1, 2), 2),
    "backward": (in_backward(1), 4),
    "second-micro-batch": (in_forward(1, 3), 2),
}


@pytest.mark.parametrize(("fault", "size"), SMALLER.values(), ids=SMALLER.keys())
def test_nothing_of_the_failed_attempt_is_left(fault: Fault, size: int) -> None:
    """Running statistics, dropout and gradients are bit for bit those of a run with small micro-batches throughout."""
    whole, _ = train(model=NoisyNet, micro_batch=size)
    parts, _ = train(fault, model=NoisyNet)
    assert list_differences(parts.capture(), whole.capture()) == []


def test_the_smaller_size_is_remembered(tmp_path: Path) -> None:
    """What did not fit once is not tried again, in this process and in the next."""
    _, first = train(above(4), epochs=1, run=tmp_path)
    parts = make_parts(seed=1)
    above(4)(parts)
    result = parts.fit(epochs=2, run=tmp_path)
    assert (first.num_steps, result.num_steps) == (NUM_STEPS, 2 * NUM_STEPS)
    assert parts.num_losses == 2 * NUM_STEPS - 1  # two micro-batches a step; the last batch, of 4 samples, is one


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        pytest.param([above(0)], "for a batch of 8 samples in micro-batches of 8, 4, 2, 1", id="all"),
        pytest.param([in_update(1, 2, 3, 4)], "memory runs out in the optimizer's step", id="update"),
    ],
)
def test_what_never_fits_is_one_error(tmp_path: Path, faults: list[Fault], message: str) -> None:
    """It names the sizes that were tried and what to do, and the run is marked as failed."""
    with pytest.raises(OutOfMemory, match=message):
        train(*faults, run=tmp_path)
    assert '"status": "failed: OutOfMemory"' in (tmp_path / "events.jsonl").read_text()


def test_a_batch_that_cannot_be_split_is_one_error() -> None:
    """The message says that it is the batch."""
    model = SmoothNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = [(x, torch.tensor(1.0)) for x, _, _ in make_loader()]

    def fail(*_: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError(FULL)

    with pytest.raises(OutOfMemory, match="a batch that cannot be split"):
        fit(model, optimizer, fail, loader)
    with pytest.raises(InputError, match="a batch cannot be split into micro-batches: its tensors have the shapes"):
        fit(model, optimizer, fail, loader, micro_batch=2)


def test_validation_gets_smaller_too() -> None:
    """Memory that runs out while validating changes neither the score nor the training."""
    loader = make_loader(shuffle=False, batch_size=32)
    whole, expected = train(val_loader=loader)

    def fail(_: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if len(inputs[0]) > 16:
            raise torch.OutOfMemoryError(FULL)

    parts = make_parts()
    parts.model.register_forward_pre_hook(fail)
    result = parts.fit(val_loader=loader)
    assert list_differences(parts.capture(), whole.capture()) == []
    assert [each.score for each in result.reviews] == pytest.approx([each.score for each in expected.reviews], rel=1e-5)


@pytest.mark.parametrize("fault", [in_forward(4), in_update(3)], ids=["forward", "update"])
def test_memory_that_ran_out_is_an_event(fault: Fault, tmp_path: Path) -> None:
    """The run folder says what happened, also to whom no terminal was left."""
    train(fault, run=tmp_path / "run")
    told = [each["message"] for each in read_run(tmp_path / "run").events if each["event"] == "out-of-memory"]
    assert len(told) == 1
    assert FULL in told[0]
