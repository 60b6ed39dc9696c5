"""Memory that runs out: what is told from what, what is halved, and an update that is made once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from trimtab.control.memory import (
    MicroBatchSize,
    Update,
    choose_num_workers,
    clear_memory,
    is_out_of_memory,
)
from trimtab.errors import OutOfMemory

FULL = "CUDA out of memory. Tried to allocate 2.00 GiB."

FAILURES: dict[str, tuple[BaseException, bool]] = {
    "torch": (torch.OutOfMemoryError(FULL), True),
    "cuda-in-a-runtime-error": (RuntimeError(FULL), True),
    "cpu-on-linux": (
        RuntimeError("[enforce fail at alloc_cpu.cpp:75] DefaultCPUAllocator: can't allocate memory: you tried"),
        True,
    ),
    "cpu-on-windows": (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."), True),
    "mps": (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), True),
    "cublas": (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
    "host": (MemoryError("Unable to allocate 3 TiB"), True),
    "shapes": (RuntimeError("mat1 and mat2 shapes cannot be multiplied (4x3 and 2x1)"), False),
    "device-assert": (RuntimeError("CUDA error: device-side assert triggered"), False),
    "another-kind": (ValueError("out of memory"), False),
    "ctrl-c": (KeyboardInterrupt(), False),
}


@pytest.mark.parametrize(("error", "expected"), FAILURES.values(), ids=FAILURES.keys())
def test_memory_that_runs_out_is_told_from_other_failures(error: BaseException, expected: bool) -> None:
    """A failed allocation is known on every device, and nothing else is taken for one."""
    assert is_out_of_memory(error) is expected


def test_a_real_failure_is_known() -> None:
    """What PyTorch raises here when an allocation really fails is known."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**62, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


class Device:
    """Computes anything that fits into it."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.tried: list[int | None] = []
        self.num_rewound = 0

    def compute(self, size: int | None) -> str:
        self.tried.append(size)
        if size is None or size > self.room:
            raise torch.OutOfMemoryError(FULL)
        return "done"

    def rewind(self) -> None:
        self.num_rewound += 1


def fit(size: MicroBatchSize, device: Device, num_samples: int | None) -> str:
    return size.fit(device.compute, rewind=device.rewind, count_samples=lambda: num_samples)


@pytest.mark.parametrize(
    ("size", "num_samples", "room", "tried"),
    [
        pytest.param(8, 8, 8, [8], id="fits"),
        pytest.param(None, 8, 4, [None, 4], id="half"),
        pytest.param(None, 8, 1, [None, 4, 2, 1], id="an-eighth"),
        pytest.param(None, 7, 3, [None, 3], id="odd"),
        pytest.param(6, 8, 3, [6, 3], id="from-the-size-given"),
        pytest.param(100, 8, 4, [100, 4], id="from-the-batch-where-it-is-smaller"),
    ],
)
def test_micro_batches_are_halved_until_they_fit(
    size: int | None, num_samples: int, room: int, tried: list[int | None]
) -> None:
    """Each failure halves the micro-batch after a rewind, and the size that fits is remembered."""
    micro_batch, device = MicroBatchSize(size), Device(room)
    assert fit(micro_batch, device, num_samples) == "done"
    assert (device.tried, device.num_rewound) == (tried, len(tried) - 1)
    assert micro_batch.size == tried[-1]
    assert fit(micro_batch, device, num_samples) == "done"
    assert device.tried == [*tried, tried[-1]]


GIVEN_UP = {
    "three-halvings": (None, 64, "a batch of 64 samples in micro-batches of 64, 32, 16, 8; make the model"),
    "single-samples": (None, 2, "a batch of 2 samples in micro-batches of 2, 1; make the model"),
    "cannot-be-split": (None, None, "a batch that cannot be split, since its tensors do not share a first dimension"),
}


@pytest.mark.parametrize(("size", "num_samples", "message"), GIVEN_UP.values(), ids=GIVEN_UP.keys())
def test_it_is_given_up_in_one_sentence(size: int | None, num_samples: int | None, message: str) -> None:
    """What does not fit after three halvings, or cannot be halved, is one error that says what was tried."""
    with pytest.raises(OutOfMemory, match=message) as caught:
        fit(MicroBatchSize(size), Device(0), num_samples)
    assert FULL in str(caught.value)
    assert caught.value.__cause__ is None


def test_three_halvings_in_a_row() -> None:
    """A step that fits begins the count anew."""
    micro_batch = MicroBatchSize()
    for room in (8, 4, 2, 1):
        assert fit(micro_batch, Device(room), 16) == "done"
    assert micro_batch.size == 1


def test_another_failure_is_not_touched() -> None:
    """An exception that is none of memory passes as it is, and nothing is rewound."""
    device = Device(8)

    def compute(_: int | None) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        MicroBatchSize().fit(compute, rewind=device.rewind, count_samples=lambda: 8)
    assert device.num_rewound == 0


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, foreach=False),
    "adamw-foreach": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, foreach=True),
    "adamw-fused": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, fused=True),
}


class Trial:
    """A model with gradients, and an update of it that fails when and how it is told to."""

    def __init__(self, make: Callable[[Any], torch.optim.Optimizer], failures: list[str]) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(3, 2)
        self.optimizer = make(self.model.parameters())
        self.update = Update(self.optimizer)
        self.failures = failures

    def run(self, num_steps: int) -> list[float]:
        for step in range(num_steps):
            torch.manual_seed(step)
            for parameter in self.model.parameters():
                parameter.grad = torch.randn_like(parameter)
            self.update.make(self.step)
        return [value for parameter in self.model.parameters() for value in parameter.flatten().tolist()]

    def step(self) -> None:
        failure = self.failures.pop(0) if self.failures else ""
        if failure in ("after", "after-a-part"):
            last = list(self.model.parameters())[-1]
            grad = last.grad
            if failure == "after-a-part":
                last.grad = None
            self.optimizer.step()
            last.grad = grad
        if failure:
            raise torch.OutOfMemoryError(FULL)
        self.optimizer.step()


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
@pytest.mark.parametrize(
    "failures",
    [
        pytest.param(["before"], id="first-step-before-anything"),
        pytest.param(["after-a-part"], id="first-step-after-some-parameters"),
        pytest.param(["after"], id="first-step-after-all"),
        pytest.param(["before", "after-a-part", "before"], id="three-times"),
        pytest.param(["", "", "before"], id="later-step"),
    ],
)
def test_an_update_that_fails_is_made_once(make: Callable[[Any], torch.optim.Optimizer], failures: list[str]) -> None:
    """After any failure that can be undone, the run is bit for bit the one without it."""
    assert Trial(make, list(failures)).run(4) == Trial(make, []).run(4)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
@pytest.mark.parametrize("failure", ["after", "after-a-part"])
def test_an_update_half_made_is_never_made_twice(make: Callable[[Any], torch.optim.Optimizer], failure: str) -> None:
    """Where a later step has written already, the run ends and says how it goes on."""
    with pytest.raises(OutOfMemory, match="start the run again, which goes on from its newest checkpoint"):
        Trial(make, ["", "", failure]).run(4)


def test_an_update_that_always_fails_is_given_up() -> None:
    """After three more attempts there is one error."""
    with pytest.raises(OutOfMemory, match="memory runs out in the optimizer's step, whatever the size of a batch"):
        Trial(OPTIMIZERS["adamw"], ["before"] * 4).run(1)


@pytest.mark.parametrize(
    ("cores", "num_batches", "expected"),
    [
        pytest.param(1, 100, 0, id="one-core"),
        pytest.param(3, 100, 2, id="few-cores"),
        pytest.param(64, 100, 4, id="many-cores"),
        pytest.param(64, 20, 2, id="few-batches"),
        pytest.param(64, 3, 0, id="a-handful"),
    ],
)
def test_workers_by_cores(cores: int, num_batches: int, expected: int) -> None:
    """On a CPU there are at most four, one core is left to the training, and a handful of batches needs none."""
    assert choose_num_workers(torch.device("cpu"), num_batches, cores) == expected


@pytest.fixture
def cycle() -> list[int]:
    ended: list[int] = []

    class Knot:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            ended.append(1)

    Knot()
    return ended


def test_clearing_ends_what_only_holds_itself(cycle: list[int]) -> None:
    """Reference cycles, which keep activations alive, are collected."""
    clear_memory()
    assert cycle == [1]
