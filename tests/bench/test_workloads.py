"""The workloads: batches and weights are a seed's alone, and what is held out is never trained on."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from trimtab.bench.training import make_measure
from trimtab.bench.workloads import images, workloads


def list_tensors(batch: Any) -> list[Tensor]:
    """The tensors of a batch."""
    return [batch] if isinstance(batch, Tensor) else list(batch)


@pytest.mark.parametrize("name", sorted(workloads))
def test_batch_depends_on_seed_and_step_alone(name: str) -> None:
    """The batch of a step is the same in any order and whatever else is drawn; other steps and seeds have others."""
    draw = workloads[name].draw_batch
    keys = [(seed, step) for seed in range(2) for step in range(3)]
    batches = {key: list_tensors(draw(*key)) for key in keys}
    torch.rand(3)
    assert all(all(map(torch.equal, batches[key], list_tensors(draw(*key)))) for key in reversed(keys))
    assert len({str(batch[0].tolist()) for batch in batches.values()}) == len(keys)


@pytest.mark.parametrize("name", sorted(workloads))
def test_model_depends_on_the_seed_alone(name: str) -> None:
    """The initial weights are the seed's, and building a model draws nothing from the global random numbers."""
    before = torch.get_rng_state()
    first, second, other = (
        torch.cat([each.flatten() for each in workloads[name].build_model(seed).parameters()]) for seed in (1, 1, 2)
    )
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", sorted(workloads))
def test_probed_samples_begin_the_held_out_ones(name: str) -> None:
    """The few samples that contestants look at are the first of the validation set."""
    cut = workloads[name].cut_held_out
    for few, whole in zip(list_tensors(cut(16)), list_tensors(cut()), strict=True):
        assert len(few) == 16
        assert torch.equal(few, whole[:16])
        assert len(whole) > 200


def test_no_held_out_digit_is_trained_on() -> None:
    """Every digit is in one split alone."""
    (train_images, _), (held_out, _) = images.read_digits()
    assert len(train_images) + len(held_out) == 1797
    assert len(held_out) == images.NUM_HELD_OUT
    assert {str(each.tolist()) for each in train_images}.isdisjoint(str(each.tolist()) for each in held_out)


@pytest.mark.parametrize("name", sorted(workloads))
def test_measuring_changes_nothing(name: str) -> None:
    """Measuring a model leaves its buffers and its mode as they are."""
    model = workloads[name].build_model(0)
    before = copy.deepcopy(model.state_dict())
    make_measure(workloads[name], 16)(model)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
