"""Law 10: a check costs one look at gradients and weights and one transfer, whatever the model."""

from __future__ import annotations

import gc
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.laws.models import Deep
from tests.laws.training import Training, add_average, make_training
from trimtab import Policy
from trimtab.history import CAPACITY
from trimtab.journal import FLUSH_SECONDS
from trimtab.policy import LEDGER_CAPACITY
from trimtab.probes import probes

USUAL_STEP = 21
"""A step well after a snapshot."""

STEP_AFTER_SNAPSHOT = 34
"""The step at which the update is measured, by what a snapshot has kept."""

EVERY = Policy().snapshot_every

MAX_OPERATORS = 40
"""More than a check takes by far, less than one for each parameter of a deep model."""

FETCHING = {"numpy", "item", "tolist", "cpu", "equal", "__bool__", "__float__", "__int__", "__index__", "__array__"}
"""The functions of torch by which numbers come to the host."""


class OperatorCount(TorchDispatchMode):
    """Counts the operators that run."""

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


class FetchCount(TorchFunctionMode):
    """Counts the calls by which numbers come to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.counts.update({func.__name__} & FETCHING)
        return func(*args, **(kwargs or {}))


def count_during_check(training: Training, step: int, mode: OperatorCount | FetchCount) -> Counter[str]:
    """What runs during the check of a step, and nothing else."""
    training.run(step - 1)
    training.optimizer.zero_grad()
    loss = training.backward(*training.batches.draw())
    with mode:
        training.guard(loss)
    assert training.verdicts[-1] == "proceed"
    return mode.counts


def add_quiet_scaler(training: Training) -> None:
    """Mixed precision whose scale neither overflows nor grows, so that snapshots keep their cadence."""
    training.autocast = torch.float16
    training.scaler = torch.amp.GradScaler("cpu", init_scale=128.0)


PARTS = [
    pytest.param({}, [], id="plain"),
    pytest.param({"clip_norm": 0.1}, [], id="clipped"),
    pytest.param({"clip_norm": 0.1}, [add_average], id="with-partner"),
    pytest.param({}, [add_quiet_scaler], id="scaled"),
]


@pytest.mark.parametrize(
    ("step", "max_norms"),
    [pytest.param(USUAL_STEP, 1, id="usual-step"), pytest.param(STEP_AFTER_SNAPSHOT, 2, id="after-snapshot")],
)
@pytest.mark.parametrize(("fields", "parts"), PARTS)
def test_check_runs_few_operators_whatever_the_depth(
    fields: dict[str, Any], parts: list[Callable[[Training], object]], step: int, max_norms: int
) -> None:
    """One norm call over gradients and weights together, and as many operators at any depth."""
    shallow, deep = (
        count_during_check(
            make_training("adamw", *parts, model=partial(Deep, depth), **fields).supervise(), step, OperatorCount()
        )
        for depth in (1, 24)
    )
    assert shallow == deep
    assert 1 <= deep["_foreach_norm"] <= max_norms
    assert deep["_local_scalar_dense"] == 0
    assert deep.total() <= MAX_OPERATORS


@pytest.mark.parametrize(
    "step", [pytest.param(USUAL_STEP, id="usual-step"), pytest.param(STEP_AFTER_SNAPSHOT, id="after-snapshot")]
)
@pytest.mark.parametrize(("fields", "parts"), PARTS)
def test_numbers_come_to_the_host_once(
    fields: dict[str, Any], parts: list[Callable[[Training], object]], step: int
) -> None:
    """On the host nothing is copied number by number: each probe's numbers are one view."""
    training = make_training("adamw", *parts, model=partial(Deep, 4), **fields).supervise()
    counts = count_during_check(training, step, FetchCount())
    assert counts.keys() == {"numpy"}
    assert counts["numpy"] <= len(probes)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(
    "step", [pytest.param(USUAL_STEP, id="usual-step"), pytest.param(STEP_AFTER_SNAPSHOT, id="after-snapshot")]
)
def test_numbers_come_from_a_device_together(step: int) -> None:
    """All numbers of a check that lie on a GPU travel to the host in one transfer."""
    training = make_training("adamw", model=partial(Deep, 4))
    training.model.cuda()
    training.distort = lambda _training, _step, inputs, targets: (inputs.cuda(), targets.cuda())
    counts = count_during_check(training.supervise(), step, FetchCount())
    assert counts["cpu"] == 1
    assert counts.keys() == {"cpu", "numpy"}


def test_transfers_are_seen() -> None:
    """The counter of transfers sees each of them."""
    number = torch.ones(())
    with FetchCount() as mode:
        _ = number.item(), float(number), bool(number), int(number), number.tolist(), number.numpy(), number.cpu()
        torch.equal(number, number)
    assert mode.counts.total() == 8


def test_norm_at_hand_is_not_measured_again() -> None:
    """With `grad_norm=`, the gradients are not looked at."""
    training = make_training("adamw").supervise().run(USUAL_STEP - 1)
    assert training.supervisor is not None
    loss = training.backward(*training.batches.draw())
    norm = torch.nn.utils.get_total_norm([each.grad for each in training.model.parameters() if each.grad is not None])
    with OperatorCount() as mode:
        training.supervisor.check(loss, grad_norm=norm)
    assert mode.counts["_foreach_norm"] == 1


def test_nothing_is_hooked_to_the_model() -> None:
    """A supervisor leaves no hook on any module or parameter, and after `finish` none on the optimizer."""

    def list_hooks(owner: object) -> list[str]:
        hooks = {name: held for name, held in vars(owner).items() if name.endswith("_hooks")}
        return [f"{type(owner).__name__}.{name}" for name, held in hooks.items() if held]

    training = make_training("adamw").supervise().run(20)
    assert [hook for module in training.model.modules() for hook in list_hooks(module)] == []
    assert [parameter._backward_hooks for parameter in training.model.parameters() if parameter._backward_hooks] == []
    assert training.supervisor is not None
    training.supervisor.finish()
    assert list_hooks(training.optimizer) == []


def test_memory_does_not_grow(tmp_path: Path) -> None:
    """Over 304 steps, with run folder and snapshots, a supervisor comes to hold nothing more, and no tensor leaks."""
    training = make_training("adamw", add_average, clip_norm=1.0)
    training.supervise(run=tmp_path / "run", data=training.batches).run(60)
    before = measure_memory(training)
    training.run(364)
    grown = Counter(measure_memory(training))
    grown.subtract(before)
    assert max(grown.pop("tensors"), grown.pop("bytes of tensors")) <= 0  # fewer, where garbage of before was kept
    assert max(grown.values()) < 304 // EVERY, grown
    assert training.supervisor is not None
    training.supervisor.finish()


def measure_memory(training: Training) -> dict[str, int]:
    """What a supervisor holds, itself and through others, and the tensors that there are at all."""
    training.decisions.clear()
    time.sleep(2 * FLUSH_SECONDS)  # until the journal has written what waits
    gc.collect()
    tensors = [each for each in gc.get_objects() if type(each) in (Tensor, nn.Parameter) and not each.is_sparse]
    held: dict[int, object] = {}
    found: list[object] = [training.supervisor]
    while found:
        each = found.pop()
        if id(each) not in held and not isinstance(each, (type, ModuleType, FunctionType)):
            held[id(each)] = each
            found += gc.get_referents(each)
    return {
        "tensors": len(tensors),
        "bytes of tensors": sum(tensor.nbytes for tensor in tensors),
        "containers held": sum(gc.is_tracked(each) for each in held.values()),
        "entries held": sum(len(each) for each in held.values() if isinstance(each, (list, dict, set, deque))),
        "bytes of arrays held": sum(each.nbytes for each in held.values() if isinstance(each, np.ndarray)),
    }


def test_what_is_remembered_is_bounded() -> None:
    """History and ledger keep the newest entries only, however long the run and however much is found."""
    policy = Policy.from_dict({"detectors": {"nonfinite": {"ladder": ["skip"]}}})
    training = make_training("sgd").supervise(policy=policy)
    supervisor = training.supervisor
    assert supervisor is not None
    num_steps = 2 * CAPACITY + LEDGER_CAPACITY
    for _ in range(num_steps):
        supervisor.check(math.nan)
    assert supervisor.step == num_steps
    assert (len(supervisor.history), len(supervisor.ledger)) == (CAPACITY, LEDGER_CAPACITY)
