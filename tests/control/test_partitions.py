"""Training data in parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SubsetRandomSampler, TensorDataset

from trimtab import InputError
from trimtab.control.partitions import divide_loader, divide_rows, list_loaders

DATA = TensorDataset(torch.arange(10))


class Stream(IterableDataset[int]):
    """Data without numbers."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(10))


@pytest.mark.parametrize(("num_rows", "num_parts"), [(10, 1), (10, 3), (10, 10), (1000, 7)])
def test_parts_share_no_row(num_rows: int, num_parts: int) -> None:
    """Together they are all rows, in parts of a size, each time the same."""
    parts = divide_rows(num_rows, num_parts)
    assert sorted(row for part in parts for row in part) == list(range(num_rows))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert parts == divide_rows(num_rows, num_parts)
    assert all(part == sorted(part) for part in parts)


@pytest.mark.parametrize("shuffle", [False, True])
def test_the_loader_of_a_part_is_like_the_whole_one(shuffle: bool) -> None:
    """Batch size, order and the own generator are the same, and the rows are those of the part."""
    generator = torch.Generator().manual_seed(0)
    whole = DataLoader(DATA, 2, shuffle=shuffle, drop_last=True, generator=generator)
    parts = divide_loader(whole, 2)
    for part, rows in zip(parts, divide_rows(10, 2), strict=True):
        seen = torch.cat([x for (x,) in part]).tolist()
        assert len(seen) == 4
        assert set(seen) <= set(rows)
        assert isinstance(part.sampler, RandomSampler) is shuffle
        assert part.generator is generator


def test_what_is_no_partition_is_as_it_was() -> None:
    """One loader is itself, and a list is gone through after it."""
    loader, other = [1], [2]
    assert list_loaders(loader, None) == list_loaders(loader, 1) == [loader]
    assert list_loaders(loader, [other]) == [loader, other]


@pytest.mark.parametrize(
    ("loader", "partitions"),
    [
        pytest.param([1, 2, 3], 2, id="a-list"),
        pytest.param(DataLoader(Stream()), 2, id="a-stream"),
        pytest.param(DataLoader(DATA, sampler=SubsetRandomSampler([1, 2])), 2, id="own-sampler"),
        pytest.param(DataLoader(DATA, sampler=RandomSampler(DATA, replacement=True)), 2, id="with-replacement"),
        pytest.param(DataLoader(DATA, sampler=RandomSampler(DATA, num_samples=3)), 2, id="fewer-samples"),
        pytest.param(DataLoader(DATA, batch_size=None), 2, id="unbatched"),
        pytest.param(DataLoader(DATA), 11, id="too-many"),
        pytest.param(DataLoader(DATA), -1, id="negative"),
        pytest.param(DataLoader(DATA), "all", id="text"),
        pytest.param(DataLoader(DATA), [1], id="no-loader"),
    ],
)
def test_what_cannot_be_divided_is_refused(loader: Any, partitions: Any) -> None:
    """In one sentence that says what can."""
    with pytest.raises(InputError, match=r"fit: .*partitions"):
        list_loaders(loader, partitions)
