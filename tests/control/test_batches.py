"""Batches, split without losing a sample."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trimtab import InputError
from trimtab.control.batches import count_samples, find_device, move_batch, split_batch


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


class Movable:
    """A batch of a library of its own, such as a graph's."""

    def __init__(self) -> None:
        self.device: Any = None

    def to(self, device: torch.device) -> Movable:
        self.device = device
        return self


X, Y = torch.arange(10.0).reshape(5, 2), torch.arange(5)

SPLITTABLE: dict[str, tuple[Any, Any]] = {
    "tensor": (X, X[1:3]),
    "tuple": ((X, Y), (X[1:3], Y[1:3])),
    "list": ([X, Y], [X[1:3], Y[1:3]]),
    "dict": ({"x": X, "y": Y}, {"x": X[1:3], "y": Y[1:3]}),
    "nested": ({"x": [X, {"y": Y}]}, {"x": [X[1:3], {"y": Y[1:3]}]}),
    "named-tuple": (Pair(X, Y), Pair(X[1:3], Y[1:3])),
    "ordered-dict": (OrderedDict(x=X), OrderedDict(x=X[1:3])),
    "default-dict": (defaultdict(list, x=X), defaultdict(list, x=X[1:3])),
    "array": ((X.numpy(), Y), (X.numpy()[1:3], Y[1:3])),
    "texts-of-the-samples": ((X, ["a", "b", "c", "d", "e"]), (X[1:3], ["b", "c"])),
    "one-text-for-all": ({"x": X, "task": "sum"}, {"x": X[1:3], "task": "sum"}),
    "a-list-of-another-length": ((X, [1, 2]), (X[1:3], [1, 2])),
    "none": ((X, None), (X[1:3], None)),
}


@pytest.mark.parametrize(("batch", "second"), SPLITTABLE.values(), ids=SPLITTABLE.keys())
def test_a_batch_is_split_into_parts(batch: Any, second: Any) -> None:
    """Every kind of batch is cut along its samples, in their order, and keeps its type."""
    parts = split_batch(batch, 2)
    assert [count_samples(part) for part in parts] == [1, 2, 2]
    assert type(parts[1]) is type(batch)
    assert _flatten(parts[1]) == _flatten(second)


@pytest.mark.parametrize(
    ("num_samples", "size", "sizes"),
    [
        pytest.param(8, 4, [4, 4], id="even"),
        pytest.param(9, 8, [4, 5], id="one-more"),
        pytest.param(33, 16, [11, 11, 11], id="one-more-than-two-parts"),
        pytest.param(3, 1, [1, 1, 1], id="single"),
    ],
)
def test_parts_are_of_a_size(num_samples: int, size: int, sizes: list[int]) -> None:
    """No part is larger than asked for, there are as few as possible, and none is left with a single sample."""
    assert [len(part) for part in split_batch(torch.zeros(num_samples, 2), size)] == sizes


@pytest.mark.parametrize("size", [None, 5, 6], ids=["no-limit", "just-fits", "more-than-there-are"])
def test_a_batch_that_fits_is_itself(size: int | None) -> None:
    """A batch that need not be split is handed on as the object it is."""
    batch = (X, Y)
    (part,) = split_batch(batch, size)
    assert part is batch


UNSPLITTABLE: dict[str, tuple[Any, str]] = {
    "different-sizes": ((X, Y[:3]), r"its tensors have the shapes \(5, 2\), \(3,\), and all have to have the same"),
    "a-scalar": ((X, torch.tensor(1.0)), r"its tensors have the shapes \(5, 2\), \(\), and all"),
    "no-tensor": (["a", "b"], "there is no tensor in a 'list'"),
    "a-library's-own": (Movable(), "there is no tensor in a 'Movable'"),
}


@pytest.mark.parametrize(("batch", "message"), UNSPLITTABLE.values(), ids=UNSPLITTABLE.keys())
def test_what_cannot_be_split_is_one_sentence(batch: Any, message: str) -> None:
    """A batch whose samples cannot be told apart has no number of samples, and is refused with the reason."""
    assert count_samples(batch) is None
    with pytest.raises(InputError, match=message):
        split_batch(batch, 2)


@pytest.mark.parametrize("batch", [each for each, _ in SPLITTABLE.values()], ids=SPLITTABLE.keys())
def test_a_batch_is_moved_whole(batch: Any) -> None:
    """Moving a batch moves every tensor, and keeps the type of what holds them."""
    moved = move_batch(batch, torch.device("meta"))
    assert type(moved) is type(batch)
    assert {each.device.type for each in _list_tensors(moved)} <= {"meta"}


def test_what_can_move_itself_does() -> None:
    """An object with a method `to` is asked to move."""
    batch = {"graph": Movable()}
    assert move_batch(batch, torch.device("meta"))["graph"].device == torch.device("meta")


@pytest.mark.parametrize(
    ("model", "device"),
    [
        pytest.param(nn.Linear(1, 1, device="meta"), "meta", id="parameters"),
        pytest.param(nn.BatchNorm1d(1, affine=False, device="meta"), "meta", id="buffers-alone"),
        pytest.param(nn.ReLU(), "cpu", id="neither"),
    ],
)
def test_the_device_of_a_model(model: nn.Module, device: str) -> None:
    """It is where its first parameter or buffer is."""
    assert find_device(model).type == device


def _list_tensors(value: Any) -> list[Tensor]:
    if isinstance(value, dict):
        return [each for held in value.values() for each in _list_tensors(held)]
    if isinstance(value, (list, tuple)):
        return [each for held in value for each in _list_tensors(held)]
    return [value] if isinstance(value, Tensor) else []


def _flatten(value: Any) -> Any:
    """A batch with its arrays as lists, so that two can be compared."""
    if isinstance(value, (Tensor, np.ndarray)):
        return value.tolist()
    if isinstance(value, dict):
        return {key: _flatten(each) for key, each in value.items()}
    return [_flatten(each) for each in value] if isinstance(value, (list, tuple)) else value
