"""Stratified batches: every class in every batch, in an order that comes again."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import trimtab
from trimtab import InputError
from trimtab.recipes import stratified_batches

LONG_TAIL = np.repeat(np.arange(4), [800, 150, 40, 10])


@given(
    counts=st.lists(st.integers(1, 60), min_size=1, max_size=6),
    batch_size=st.integers(1, 40),
    seed=st.integers(0, 2**31),
)
def test_every_row_comes_once_and_classes_are_spread(counts: list[int], batch_size: int, seed: int) -> None:
    """Each epoch is a permutation, and no two full batches differ by more than one row of a class."""
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    sampler = stratified_batches(labels, batch_size, seed=seed)
    batches = list(sampler)
    assert sorted(row for batch in batches for row in batch) == list(range(len(labels)))
    assert len(batches) == len(sampler)
    full = [np.bincount(labels[batch], minlength=len(counts)) for batch in batches if len(batch) == batch_size]
    if full:
        assert int((np.max(full, 0) - np.min(full, 0)).max()) <= 2
        exact = batch_size * np.asarray(counts) / len(labels)
        assert float(np.abs(np.asarray(full) - exact).max()) < len(counts) + 1


@pytest.mark.parametrize(
    ("balance", "counts"),
    [
        pytest.param(0.0, [800, 150, 40, 10], id="as-in-the-data"),
        pytest.param(0.5, [566, 245, 126, 63], id="by-the-square-root"),
        pytest.param(1.0, [250, 250, 250, 250], id="all-alike"),
    ],
)
def test_balance_draws_rare_classes_more_often(balance: float, counts: list[int]) -> None:
    """The rows of an epoch by class; rare rows come again equally often."""
    sampler = stratified_batches(LONG_TAIL, 50, balance=balance)
    drawn = [row for batch in sampler for row in batch]
    assert np.bincount(LONG_TAIL[drawn]).tolist() == counts
    for each in range(4):
        times = Counter(row for row in drawn if LONG_TAIL[row] == each)
        assert max(times.values()) - min(times[int(row)] for row in np.flatnonzero(each == LONG_TAIL)) <= 1


def test_rare_class_does_not_come_by_the_handful() -> None:
    """Of ten rows in twenty batches none has more than one; in a plain shuffle some has."""
    labels = np.repeat([0, 1], [990, 10])
    most = max(int(labels[batch].sum()) for batch in stratified_batches(labels, 50))
    plain = torch.randperm(1000, generator=torch.Generator().manual_seed(0)).view(20, 50).numpy()
    assert most == 1 < max(int(labels[batch].sum()) for batch in plain)


def test_epochs_differ_and_come_again_by_seed() -> None:
    """Two epochs have another order; the same seed has the same ones."""
    first, second = stratified_batches(LONG_TAIL, 50, seed=3), stratified_batches(LONG_TAIL, 50, seed=3)
    epochs = [list(first), list(first)]
    assert epochs[0] != epochs[1]
    assert epochs == [list(second), list(second)]


@pytest.mark.parametrize("num", [0, 1, 7, 20], ids=lambda num: f"after-{num}")
def test_resumes_where_it_was(num: int) -> None:
    """From its saved state it gives the batches that were to come, of this epoch and the next."""
    sampler = stratified_batches(LONG_TAIL, 50, seed=1)
    list(sampler)
    batches = iter(sampler)
    for _ in range(num):
        next(batches)
    if num == len(sampler):
        assert next(batches, None) is None
    saved = sampler.state_dict()
    rest = [*batches, *sampler]
    other = stratified_batches(LONG_TAIL, 50, seed=99)
    other.load_state_dict(saved)
    assert (list(other) if num == len(sampler) else [*other, *other]) == rest


def test_fit_resumes_with_it(tmp_path: Path) -> None:
    """A run that was left in the middle of an epoch ends with the same weights as one that was not."""

    def run(folder: Path, *epochs: int) -> list[torch.Tensor]:
        for num in epochs:
            torch.manual_seed(0)
            model = nn.Linear(4, 2)
            data = TensorDataset(torch.randn(96, 4), (torch.arange(96) % 8 == 0).long())
            loader = DataLoader(data, batch_sampler=stratified_batches(data.tensors[1], 16))

            def compute_loss(model: nn.Module, batch: Any) -> torch.Tensor:
                return nn.functional.cross_entropy(model(batch[0]), batch[1])

            optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
            trimtab.fit(model, optimizer, compute_loss, loader, epochs=num, run=folder, progress=False)
        return [each.detach().clone() for each in model.parameters()]

    for plain, resumed in zip(run(tmp_path / "a", 3), run(tmp_path / "b", 1, 3), strict=True):
        assert torch.equal(plain, resumed)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param({"labels": []}, "one class a row", id="empty"),
        pytest.param({"labels": np.zeros((4, 2))}, r"shape \(4, 2\)", id="one-hot"),
        pytest.param({"labels": np.random.default_rng(0).normal(size=50)}, "cut numbers into bins", id="numbers"),
        pytest.param({"batch_size": 0}, "batch_size is 0", id="no-batch"),
        pytest.param({"balance": 2.0}, "balance is 2.0", id="balance"),
    ],
)
def test_says_what_is_wrong(given: dict[str, Any], message: str) -> None:
    """In one sentence."""
    usual: dict[str, Any] = {"labels": [0, 1, 1], "batch_size": 2}
    with pytest.raises(InputError, match=message):
        stratified_batches(**(usual | given))


def test_takes_names() -> None:
    """Classes may be words."""
    sampler = stratified_batches(["cat", "dog", "dog", "cat", "dog", "dog"], 3)
    assert sampler.classes == ["cat", "dog"]
    assert sampler.num_drawn == [2, 4]
