"""A compiled training is compiled as without a supervisor: no further graph, no break, no bit of difference."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn import functional

from trimtab import Supervisor

NUM_STEPS = 12
"""The second of them is a sampled step, with hooks in the forward pass, and after the eighth there is a snapshot."""

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")


@dataclass
class Compiled:
    """What became of a compiled training."""

    weights: dict[str, Tensor]
    num_graphs: int
    num_breaks: int
    num_graphs_of_steps: list[int]
    places: list[list[int]]
    supervisor: Supervisor | None


def make_model() -> nn.Sequential:
    """A small network."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))


def compile_model(model: nn.Module, backend: str) -> Callable[[Tensor], Tensor]:
    """The loss of a batch, its model compiled."""
    compiled = torch.compile(model, backend=backend)
    return lambda x: functional.mse_loss(compiled(x), x.sum(1, keepdim=True))


def compile_loss(model: nn.Module, backend: str) -> Callable[[Tensor], Tensor]:
    """The loss of a batch, compiled as a whole, which no break is allowed in."""

    def compute_loss(x: Tensor) -> Tensor:
        return functional.mse_loss(model(x), x.sum(1, keepdim=True))

    return torch.compile(compute_loss, backend=backend, fullgraph=True)


def train(
    *,
    is_supervised: bool,
    compiles: Callable[[nn.Module, str], Callable[[Tensor], Tensor]] = compile_loss,
    backend: str = "eager",
    is_step_compiled: bool = False,
    ruined_step: int | None = None,
) -> Compiled:
    """A short training.

    Args:
        is_supervised: whether a supervisor looks on.
        compiles: what is compiled of model and loss.
        backend: what compiles it.
        is_step_compiled: whether the optimizer's step is compiled too; otherwise it is fused.
        ruined_step: after the update of this step a weight is NaN.
    """
    torch._dynamo.reset()
    counters.clear()
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=not is_step_compiled)
    supervisor = Supervisor(model, optimizer, strict=True) if is_supervised else None
    compute_loss = compiles(model, backend)
    step = torch.compile(optimizer.step, backend=backend) if is_step_compiled else optimizer.step
    num_graphs, places = [], []
    for index in range(1, NUM_STEPS + 1):
        loss = compute_loss(torch.randn(16, 6))
        optimizer.zero_grad()
        loss.backward()
        if supervisor is not None:
            supervisor.check(loss)
        step()
        if index == ruined_step:
            nn.init.constant_(next(model.parameters()), math.nan)
        state = [value for values in optimizer.state.values() for value in values.values()]
        places.append([each.data_ptr() for each in (*model.parameters(), *state)])
        num_graphs.append(counters["stats"]["unique_graphs"])
    breaks = sum(counters["graph_break"].values())
    return Compiled(dict(model.state_dict()), num_graphs[-1], breaks, num_graphs, places, supervisor)


def require_compiler(backend: str) -> None:
    """Skip a test that compiles C++ where there is no compiler; where everything has to be tested, fail."""
    if backend == "inductor" and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        if os.environ.get("CI") == "true":
            pytest.fail("there is no C++ compiler, and CI=true asks for all tests")
        pytest.skip("there is no C++ compiler for inductor")


@pytest.mark.parametrize(
    ("compiles", "backend", "is_step_compiled"),
    [
        pytest.param(compile_model, "eager", False, id="model"),
        pytest.param(compile_loss, "eager", False, id="loss"),
        pytest.param(compile_loss, "eager", True, id="loss-and-step"),
        pytest.param(compile_loss, "inductor", True, id="loss-and-step-in-inductor"),
    ],
)
def test_supervisor_adds_no_graph_and_no_break(
    compiles: Callable[[nn.Module, str], Callable[[Tensor], Tensor]], backend: str, is_step_compiled: bool
) -> None:
    """Neither a usual step, nor a sampled one, nor a snapshot is compiled, breaks a graph or changes a bit."""
    require_compiler(backend)
    alone, seen = (
        train(is_supervised=each, compiles=compiles, backend=backend, is_step_compiled=is_step_compiled)
        for each in (False, True)
    )
    assert seen.num_graphs == alone.num_graphs == 1 + is_step_compiled
    assert seen.num_graphs_of_steps == [seen.num_graphs] * NUM_STEPS
    assert seen.num_breaks <= alone.num_breaks <= is_step_compiled  # torch breaks one itself in its optimizers
    assert seen.places == [seen.places[0]] * NUM_STEPS
    assert all(torch.equal(value, alone.weights[name]) for name, value in seen.weights.items())


@pytest.mark.parametrize("is_step_compiled", [False, True], ids=["fused", "compiled"])
def test_rollback_keeps_graphs_and_places(is_step_compiled: bool) -> None:
    """What was rolled back is where it was, as a CUDA graph needs it, and the compiled loss is not compiled again."""
    run = train(is_supervised=True, is_step_compiled=is_step_compiled, ruined_step=10)
    assert run.supervisor is not None
    assert [(each.step, each.verdict) for each in run.supervisor.ledger] == [(11, "rollback")]
    assert all(bool(torch.isfinite(each).all()) for each in run.weights.values())
    assert run.places == [run.places[0]] * NUM_STEPS
    assert run.num_graphs == 1 + is_step_compiled


def test_names_are_those_of_the_model() -> None:
    """Groups, and what is named by hand, are called as without compilation."""
    model = make_model()
    model[0].requires_grad_(False)
    compiled = torch.compile(model, backend="eager")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    supervisor = Supervisor(compiled, optimizer, groups=["0", "4"], self_updating=["0.weight"], strict=True)  # type: ignore[arg-type]
    x = torch.randn(4, 6)
    loss = compiled(x).square().mean()
    loss.backward()
    supervisor.check(loss)
    assert set(supervisor.history.newest.values) >= {"self_update_ratio", "group_grad_norm"}
    assert supervisor._subject.groups == ("0", "4", "(other)")


@pytest.mark.parametrize("is_compiled", [True, False], ids=["from-compiled", "to-compiled"])
def test_compiled_run_goes_on_uncompiled(tmp_path: Path, is_compiled: bool) -> None:
    """A checkpoint of a compiled model fits the model uncompiled, and the other way round."""
    models: list[nn.Module] = []
    for compiles in (is_compiled, not is_compiled):
        model = make_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        given = torch.compile(model, backend="eager") if compiles else model
        with Supervisor(given, optimizer, run=tmp_path, resume=bool(models), strict=True) as supervisor:  # type: ignore[arg-type]
            assert (supervisor.resume() is not None) == bool(models)
            if not models:
                given(torch.randn(4, 6)).square().mean().backward()
                supervisor.check(None)
                optimizer.step()
                assert supervisor.checkpoint(now=True)
        models.append(model)
    assert all(torch.equal(*pair) for pair in zip(models[0].parameters(), models[1].parameters(), strict=True))
