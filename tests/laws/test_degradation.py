"""Law 8: with a probe, no accepted state is much worse than the accepted ones before it, and a rejected one is left.

And law 1 with a probe: it changes not one bit of a healthy training.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings, strategies as st
from torch import Tensor, nn
from torch.nn import functional

from tests.laws.models import Frozen, Net, Recording
from tests.laws.spoils import overwrite
from tests.laws.training import (
    OPTIMIZERS,
    Event,
    Training,
    add_average,
    add_scaler,
    capture,
    capture_optimizer,
    capture_weights,
    compute_loss,
    list_differences,
    make_training,
)
from trimtab import Policy
from trimtab.detectors import detectors
from trimtab.detectors.innovation import FIRST_SAMPLES, NEAR

NUM_STEPS = 44

FIRST_FAULT = FIRST_SAMPLES + 2

COARSE = float(detectors["innovation"].settings["coarse"])
"""The tolerance: how many times the largest of the newest accepted measurements an accepted one is at most."""

EVERY_STEP = Policy.from_dict(
    {"probe_every": 1, "probe_budget": 1.0, "snapshot_every": 1, "probation": 1, "max_rollbacks": 99, "max_skips": 99}
)

Schedule: TypeAlias = Mapping[int, tuple[str, float]]
"""What goes wrong at which step of the supervisor's count: kind and strength."""

HELD_OUT = torch.randn(32, 6, generator=torch.Generator().manual_seed(7))

LABELS = HELD_OUT @ torch.linspace(-1, 1, 6) + 2.0


@torch.no_grad()
def probe(model: nn.Module) -> float:
    """The loss of held-out samples."""
    return float(functional.mse_loss(model(HELD_OUT), LABELS))


class Plain(nn.Module):
    """A network whose forward pass changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 16)
        self.outer = nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.outer(torch.tanh(self.inner(x)))
        return outputs.squeeze(-1)


def destroy(training: Training, size: float) -> None:
    """An update that ruins all weights."""
    generator = torch.Generator().manual_seed(training.batches.position)
    with torch.no_grad():
        for parameter in training.model.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))


@dataclass
class Faults:
    """What goes wrong at which step of the supervisor's count: kind and strength."""

    schedule: Schedule
    accepted: list[tuple[dict[str, Any], float]] = field(default_factory=list)
    before: dict[str, Any] = field(default_factory=dict)
    made: dict[str, Any] = field(default_factory=dict)

    def get(self, training: Training, *kinds: str) -> float | None:
        assert training.supervisor is not None
        kind, strength = self.schedule.get(training.supervisor.step, ("", 0.0))
        return strength if kind in kinds else None

    def distort(self, training: Training, _: int, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        assert training.supervisor is not None
        kind, strength = self.schedule.get(training.supervisor.step + 1, ("", 0.0))
        return inputs, targets + (strength if kind == "batch" else math.nan if kind == "nan" else 0.0)

    def capture_before(self, training: Training) -> None:
        self.before = capture_state(training)

    def judge(self, training: Training) -> None:
        """After each check: nothing much worse was accepted; a rejected state was left for the last accepted one."""
        assert training.supervisor is not None
        decision, after = training.decisions[-1], capture_state(training)
        value = training.supervisor.history.newest.values["probe_loss"]
        assert isinstance(value, float)
        if decision.verdict in ("rollback", "reload"):
            if self.accepted:
                assert list_differences(after, self.accepted[-1][0]) == [], decision.reason
            return
        assert list_differences(after, self.before) == []
        newest = [each for _, each in self.accepted[-NEAR:]]
        assert math.isfinite(value)
        assert len(self.accepted) < FIRST_SAMPLES or value <= COARSE * max(newest), decision
        if not decision.findings:
            self.accepted.append((self.made or after, value))

    def strike_before_update(self, training: Training) -> None:
        self.judge(training)
        size, written = self.get(training, "destroyed"), self.get(training, "written-before-update")
        if size is not None and training.decisions[-1].proceed:
            destroy(training, size)
        if written is not None:
            overwrite(training, written)

    def strike_after_update(self, training: Training) -> None:
        self.made = capture_state(training)
        written = self.get(training, "written")
        if written is not None:
            overwrite(training, written)


def capture_state(training: Training) -> dict[str, Any]:
    return {**capture_weights(training), **capture_optimizer(training)}


destroyed = st.tuples(st.just("destroyed"), st.sampled_from([0.1, 0.5, 3.0, 1e3]))
written = st.tuples(
    st.sampled_from(["written", "written-before-update"]), st.sampled_from([30.0, 1e5, 1e30, -math.inf, math.nan])
)
bad_batch = st.tuples(st.just("batch"), st.sampled_from([5.0, 100.0, 1e6])) | st.just(("nan", math.nan))


def schedule(fault: st.SearchStrategy[tuple[str, float]]) -> st.SearchStrategy[Schedule]:
    """Faults at random steps, some of them in a row."""
    return st.dictionaries(st.integers(FIRST_FAULT, NUM_STEPS - 2), fault, min_size=1, max_size=10)


MODELS = [pytest.param(Plain, id="plain"), pytest.param(Net, id="with-batch-norm")]


def check_degradation(model: Callable[[], nn.Module], schedule: Schedule) -> Training:
    """A run with faults, of which every check is judged."""
    faults = Faults(schedule)
    training = make_training(
        "adamw",
        model=model,
        distort=faults.distort,
        after_backward=faults.capture_before,
        after_check=faults.strike_before_update,
        after_update=faults.strike_after_update,
    )
    training.supervise(probe=probe, policy=EVERY_STEP)
    for _ in range(NUM_STEPS):
        training.step()
    return training


@pytest.mark.parametrize("model", MODELS)
@settings(max_examples=12)
@given(faults=schedule(destroyed | written))
def test_ruined_states_are_left_at_once(model: Callable[[], nn.Module], faults: Schedule) -> None:
    """Whatever ruins the state when, nothing beyond the tolerance is accepted, and what is rejected leaves no trace."""
    check_degradation(model, faults)


@pytest.mark.parametrize("model", MODELS)
@settings(max_examples=12)
@given(faults=schedule(destroyed | written | bad_batch))
@example(faults={10: ("batch", 100.0), 11: ("destroyed", 3.0)})
@example(faults={20: ("destroyed", 3.0), 21: ("nan", math.nan), 22: ("destroyed", 3.0)})
def test_ruined_states_between_bad_batches_are_left_at_once(model: Callable[[], nn.Module], faults: Schedule) -> None:
    """The same where batches are bad too, whose updates are skipped."""
    check_degradation(model, faults)


@pytest.mark.parametrize("size", [1.0, 30.0])
def test_many_destructive_updates_are_all_undone(size: float) -> None:
    """Every second update may be destructive: each is undone at the next check."""
    training = check_degradation(Plain, dict.fromkeys(range(FIRST_FAULT + 8, NUM_STEPS, 8), ("destroyed", size)))
    num_restored = training.verdicts.count("rollback") + training.verdicts.count("reload")
    assert num_restored == len(range(FIRST_FAULT + 8, NUM_STEPS, 8))
    assert probe(training.model) < 2 * probe(check_degradation(Plain, {}).model) + 1


# Law 1, with a probe.


def draw_and_probe(model: nn.Module) -> float:
    """A probe that draws from every generator, and leaves the model in another mode."""
    noise = random.random() + np.random.random()  # noqa: NPY002
    model.train()
    for module in model.modules():
        module.training = not module.training
    return float(functional.mse_loss(model(HELD_OUT + 1e-6 * noise * torch.randn(32, 6)), LABELS)) + 0 * noise


PROBES: dict[str, Any] = {
    "function": probe,
    "function-that-draws": draw_and_probe,
    "batch": (HELD_OUT, LABELS),
}


def add_accumulation(training: Training) -> None:
    training.num_micro_batches = 3


@pytest.mark.parametrize("name", PROBES)
@pytest.mark.parametrize(
    ("optimizer", "model", "parts"),
    [
        *[pytest.param(each, Net, [], id=each) for each in ("sgd", "adamw-fused", "adam-amsgrad")],
        pytest.param("adamw", Recording, [], id="every-kind-of-buffer"),
        pytest.param("adamw", Frozen, [], id="frozen-part"),
        pytest.param("adamw", Net, [add_scaler], id="scaler"),
        pytest.param("adamw", Net, [add_average, add_accumulation], id="average-and-accumulation"),
    ],
)
def test_probed_run_is_bit_equal(
    optimizer: str, model: Callable[[], nn.Module], parts: list[Event], name: str, tmp_path: Path
) -> None:
    """A healthy run with a probe, a run folder and checkpoints ends, bit for bit, as one without a supervisor."""
    assert optimizer in OPTIMIZERS
    policy = Policy.from_dict({"probe_every": 1, "probe_budget": 1.0, "snapshot_every": 3})
    supervised = make_training(optimizer, *parts, model=model)
    supervised.supervise(
        probe=PROBES[name], compute_loss=compute_loss, policy=policy, run=tmp_path / "run", checkpoint_every=5
    )
    assert supervised.supervisor is not None
    flags = [module.training for module in supervised.model.modules()]
    while supervised.batches.position < 24:
        supervised.step()
        supervised.supervisor.checkpoint()
    state = capture(supervised)
    alone = make_training(optimizer, *parts, model=model).run(24)
    assert list_differences(state, capture(alone)) == []
    assert [module.training for module in supervised.model.modules()] == flags
    assert list(supervised.supervisor.ledger) == []
    assert np.isfinite(supervised.supervisor.history.column("probe_loss")).all()
    supervised.supervisor.finish()
