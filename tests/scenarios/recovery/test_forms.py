"""Snapshots in every form and place: what comes back after a rollback, and what does not."""

from __future__ import annotations

import gc
import tempfile
import warnings
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.laws.models import Net
from tests.laws.spoils import ruin_after_update
from tests.laws.training import (
    Training,
    capture_buffers,
    capture_optimizer,
    capture_weights,
    list_differences,
    make_training,
)
from tests.scenarios.recovery.runs import get_supervisor
from trimtab.state.live import Form, Place

HIT = 21

RESTORED = 16

FORMS: tuple[Form, ...] = ("full", "bfloat16-moments", "parameters")

PLACES: tuple[Place, ...] = ("host", "device", "disk")


def run_hit(optimizer: str, form: Form, place: Place) -> tuple[Training, dict[str, Any], dict[str, torch.Tensor]]:
    """A run up to its rollback; with its weights, buffers and moments as they were after the update restored."""
    training = make_training(optimizer, ruin_after_update(1e30, HIT), model=Net)
    training.supervise(data=training.batches, snapshot_form=form, snapshot_place=place)
    training.run(RESTORED)
    exact = {**capture_weights(training), **capture_buffers(training)}
    moments = {
        f"{index}.{name}": value.clone()
        for index, state in enumerate(training.optimizer.state.values())
        for name, value in state.items()
    }
    training.run(HIT)
    training.step()
    assert training.verdicts[-1] == "rollback"
    return training, exact, moments


@pytest.mark.parametrize("optimizer", ["adamw", "adam-amsgrad", "sgd", "muon"])
@pytest.mark.parametrize(("form", "place"), list(product(FORMS, PLACES)))
def test_weights_and_buffers_come_back_bit_for_bit(optimizer: str, form: Form, place: Place) -> None:
    """Whatever a snapshot saves on, weights and buffers are exact."""
    training, exact, _ = run_hit(optimizer, form, place)
    assert list_differences({**capture_weights(training), **capture_buffers(training)}, exact) == []


@pytest.mark.parametrize("place", PLACES)
def test_full_snapshots_bring_everything_back(place: Place) -> None:
    """In every place, a replayed run ends as one never faulted, bit for bit."""
    training, *_ = run_hit("adamw", "full", place)
    training.run(40)
    healthy = make_training("adamw", model=Net).run(40)
    states = [
        {**capture_weights(each), **capture_optimizer(each), **capture_buffers(each)} for each in (training, healthy)
    ]
    assert list_differences(*states) == []


@pytest.mark.parametrize("optimizer", ["adamw", "adam-amsgrad", "sgd"])
@pytest.mark.parametrize("place", PLACES)
def test_moments_come_back_within_the_rounding_of_bfloat16(optimizer: str, place: Place) -> None:
    """Moments are rounded to 8 bits of mantissa; step counts are exact, and dtypes are what they were."""
    training, _, moments = run_hit(optimizer, "bfloat16-moments", place)
    for index, state in enumerate(training.optimizer.state.values()):
        for name, value in state.items():
            before = moments[f"{index}.{name}"]
            assert value.dtype == before.dtype
            assert torch.equal(value, before if name == "step" else before.bfloat16().to(before.dtype)), name
            torch.testing.assert_close(value, before, rtol=2**-8, atol=1e-30)
    training.run(60)
    assert training.verdicts.count("rollback") == 1


def test_moments_take_half_the_memory() -> None:
    """The copies of the moments are bfloat16."""
    training, *_ = run_hit("adamw", "bfloat16-moments", "host")
    proven = get_supervisor(training)._controls.snapshots.proven
    assert proven is not None
    kept = {key[2]: copy.dtype for key, copy in proven.copies.items() if key[0] == "state"}
    assert kept == {"step": torch.float32, "exp_avg": torch.bfloat16, "exp_avg_sq": torch.bfloat16}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "adagrad"])
@pytest.mark.parametrize("place", PLACES)
def test_parameters_alone_leave_a_new_optimizer(optimizer: str, place: Place) -> None:
    """In the form `parameters` the optimizer has no state after a rollback, and trains on from there."""
    training, *_ = run_hit(optimizer, "parameters", place)
    assert training.optimizer.state == {}
    training.run(60)
    assert training.verdicts.count("rollback") == 1
    assert all(bool(torch.isfinite(each).all()) for each in training.model.parameters())


def test_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshots on disk lie in files without a name: nothing is left of them, and nothing warns of that."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    training = make_training("adamw").supervise(snapshot_place="disk").run(10)
    assert list(tmp_path.iterdir()) == []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        get_supervisor(training).finish()
        training.supervisor = None
        gc.collect()
    assert [str(each.message) for each in caught] == []
