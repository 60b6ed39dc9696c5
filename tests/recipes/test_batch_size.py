"""The batch-size finder: it says what fits, and leaves everything as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from trimtab import InputError
from trimtab.recipes import find_batch_size


def build() -> tuple[nn.Module, torch.optim.Optimizer, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Dropout(0.1), nn.Linear(256, 2))
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(100, 16), torch.randint(2, (100,)))
    loader = DataLoader(data, 20, shuffle=True, generator=generator)
    return model, torch.optim.AdamW(model.parameters(), 1e-3), loader


def compute_loss(model: nn.Module, batch: Any) -> Tensor:
    # a single row has no batch statistics: it is normalized as two of the same
    inputs, labels = (each.repeat_interleave(2, 0) for each in batch)
    return nn.functional.cross_entropy(model(inputs), labels)


def test_size_follows_memory() -> None:
    """With four times the memory the batch is four times as large; it never takes more than there is."""
    sizes = []
    for megabytes in (4, 16, 64):
        found = find_batch_size(*build()[:2], compute_loss, build()[2], memory=megabytes * 2**20, largest=2**20)
        assert found.limit == "memory"
        assert 2 * found.size * found.bytes_per_sample <= megabytes * 2**20 < 8 * found.size * found.bytes_per_sample
        sizes.append(found.size)
    assert sizes[1] == 4 * sizes[0]
    assert sizes[2] == 4 * sizes[1]


@pytest.mark.parametrize(
    ("wanted", "accumulate", "micro_batch"),
    [
        pytest.param(None, 1, None, id="of-the-loader"),
        pytest.param(64, 1, None, id="fits"),
        pytest.param(100, 2, 50, id="two"),
        pytest.param(1000, 16, 63, id="many"),
    ],
)
def test_step_of_the_wanted_size(wanted: int | None, accumulate: int, micro_batch: int | None) -> None:
    """Where it does not fit it is made of micro-batches of equal size."""
    model, optimizer, loader = build()
    found = find_batch_size(model, optimizer, compute_loss, loader, wanted=wanted, largest=64, memory=2**30)
    assert (found.size, found.limit) == (64, "largest")
    assert (found.accumulate, found.micro_batch) == (accumulate, micro_batch)
    assert "64 samples" in str(found)


def test_everything_is_as_before() -> None:
    """Model, buffers, moments, random numbers and the order of the loader are bit for bit the same."""
    model, optimizer, loader = build()
    loss = compute_loss(model, next(iter(loader)))
    loss.backward()
    optimizer.step()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    moments = [value.clone() for state in optimizer.state.values() for value in state.values()]
    rng, order = torch.get_rng_state(), loader.generator.get_state()
    find_batch_size(model, optimizer, compute_loss, loader, memory=2**24)
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    after = [value for state in optimizer.state.values() for value in state.values()]
    assert all(torch.equal(one, other) for one, other in zip(moments, after, strict=True))
    assert torch.equal(rng, torch.get_rng_state())
    assert torch.equal(order, loader.generator.get_state())


def test_memory_that_runs_out_ends_the_search() -> None:
    """A size for which PyTorch has no memory is too large, and nothing is lost."""

    def fail_above(model: nn.Module, batch: Any) -> Tensor:
        if len(batch[0]) > 8:
            torch.empty(2**60)  # more than any machine has
        return compute_loss(model, batch)

    model, optimizer, loader = build()
    before = [each.clone() for each in model.parameters()]
    found = find_batch_size(model, optimizer, fail_above, loader, memory=2**30)
    assert (found.size, found.limit) == (8, "memory")
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("batch", "given", "message"),
    [
        pytest.param(None, {}, "no samples that can be counted", id="no-batch"),
        pytest.param((torch.zeros(3, 16), torch.zeros(4)), {}, "share their first dimension", id="other-sizes"),
        pytest.param((torch.zeros(2, 16), torch.zeros(2).long()), {"memory": 1024}, "does not fit", id="too-little"),
        pytest.param((torch.zeros(2, 16), torch.zeros(2).long()), {"wanted": 0}, "wanted is 0", id="wanted"),
    ],
)
def test_says_what_is_wrong(batch: Any, given: dict[str, Any], message: str) -> None:
    """In one sentence."""
    model, optimizer, _ = build()
    with pytest.raises(InputError, match=message):
        find_batch_size(model, optimizer, compute_loss, [] if batch is None else [batch], **given)
