"""A fingerprint is the same for the same batch, and another for another, whatever a batch is made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor, nn

from trimtab import Supervisor
from trimtab.probes.batch_fingerprint import MOST_NUMBERS, _take_spaced, _weigh, take_fingerprint
from trimtab.probes.batches import list_arrays


class Pair(NamedTuple):
    """A batch with names."""

    x: Any
    y: Any


def take(batch: Any) -> float:
    return float(take_fingerprint(batch)[0])


def weigh(batch: Any) -> float:
    """The fingerprint of a batch on a device, taken on the host."""
    return float(_weigh([_take_spaced(each) for each in list_arrays(batch) if each.numel()]))


BOTH = [pytest.param(take, id="host"), pytest.param(weigh, id="device")]

DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
    torch.complex64,
    torch.complex128,
]


def make(dtype: torch.dtype, seed: int = 0) -> Tensor:
    return (100 * torch.randn(6, 5, generator=torch.Generator().manual_seed(seed))).to(dtype)


BATCHES: dict[str, Callable[[], Any]] = {
    **{str(dtype).removeprefix("torch."): partial(make, dtype) for dtype in DTYPES},
    "not-contiguous": lambda: make(torch.float32).T[1:, ::2],
    "conjugate": lambda: make(torch.complex64).conj(),
    "needs-grad": lambda: make(torch.float32).requires_grad_(),
    "0-d": lambda: torch.tensor(3.0),
    "tuple": lambda: (make(torch.float32), make(torch.int64)),
    "nested": lambda: {"x": [make(torch.float32), {"mask": make(torch.bool)}], "name": "one", "n": 3},
    "named-tuple": lambda: Pair(make(torch.float32), Pair(make(torch.int64), None)),
    "with-nan": lambda: torch.tensor([1.0, math.nan, math.inf, -0.0]),
    "one-part-empty": lambda: (torch.empty(0, 3), make(torch.float32)),
    "large": lambda: torch.arange(50 * MOST_NUMBERS).reshape(50, -1),
}


@pytest.mark.parametrize("fingerprint", BOTH)
@pytest.mark.parametrize("name", BATCHES)
def test_same_batch_has_the_same_number(name: str, fingerprint: Callable[[Any], float]) -> None:
    """Made twice, a batch of any kind has one finite number, which a float64 holds exactly; and it stays as it was."""
    batch = BATCHES[name]()
    before = [each.clone() for each in list_arrays(batch)]
    numbers = {fingerprint(batch), fingerprint(BATCHES[name]())}
    assert len(numbers) == 1
    assert math.isfinite(numbers.pop())
    for each, copy in zip(list_arrays(batch), before, strict=True):
        torch.testing.assert_close(each, copy, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("fingerprint", BOTH)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_changed_element_is_another_batch(dtype: torch.dtype, fingerprint: Callable[[Any], float]) -> None:
    """Wherever one element changes, the number is another."""
    batch, numbers = make(dtype), set()
    for index in range(batch.numel()):
        changed = batch.clone()
        flat = changed.view(-1)
        flat[index] = ~flat[index] if dtype == torch.bool else flat[index] + 1
        numbers.add(fingerprint(changed))
    assert len(numbers) == batch.numel()
    assert fingerprint(batch) not in numbers


@pytest.mark.parametrize("fingerprint", BOTH)
@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(make(torch.float32), make(torch.float32).flip(0), id="rows-in-another-order"),
        pytest.param(
            (make(torch.float32), make(torch.float32, 1)), (make(torch.float32, 1), make(torch.float32)), id="parts"
        ),
        pytest.param(torch.tensor([0.0]), torch.tensor([-0.0]), id="sign-of-zero"),
        pytest.param(torch.tensor([math.nan]), torch.tensor([math.inf]), id="nan-and-infinity"),
        pytest.param(make(torch.float32), make(torch.float64), id="another-precision"),
        pytest.param(make(torch.complex64), make(torch.complex64).conj(), id="conjugate"),
        pytest.param(make(torch.float32), make(torch.float32, 1), id="another-batch"),
    ],
)
def test_another_batch_has_another_number(one: Any, other: Any, fingerprint: Callable[[Any], float]) -> None:
    """Order, precision, signs and special values tell batches apart."""
    assert fingerprint(one) != fingerprint(other)


@pytest.mark.parametrize(
    "batch",
    [
        pytest.param(None, id="none"),
        pytest.param("text", id="text"),
        pytest.param([], id="empty-list"),
        pytest.param({"n": 3}, id="numbers-alone"),
        pytest.param(torch.empty(0, 3), id="empty-tensor"),
    ],
)
def test_batch_without_tensors_has_none(batch: Any) -> None:
    """Where there is nothing to look at, the number is NaN, which equals no other."""
    assert math.isnan(take(batch))


def test_what_lies_between_is_not_looked_at() -> None:
    """Of a large tensor 1024 evenly spaced numbers count, so that the cost is bounded; the docstring says so."""
    batch = torch.zeros(10 * MOST_NUMBERS)
    changed, hidden = batch.clone(), batch.clone()
    changed[10], hidden[11] = 1.0, 1.0
    assert take(changed) != take(batch)
    assert take(hidden) == take(batch)


@given(st.lists(st.floats(width=32), min_size=1, max_size=20), st.lists(st.floats(width=32), min_size=1, max_size=20))
def test_equal_numbers_mean_equal_bits(one: list[float], other: list[float]) -> None:
    """Two small tensors have one number if and only if they have the same bits."""
    left, right = torch.tensor(one), torch.tensor(other)
    is_same = left.shape == right.shape and torch.equal(left.view(torch.int32), right.view(torch.int32))
    assert (take(left) == take(right)) == is_same


def test_it_is_measured_where_the_batch_is_given() -> None:
    """`check(loss, batch=…)` measures it; without the batch there is none."""
    model = nn.Linear(3, 1)
    supervisor = Supervisor(model, torch.optim.SGD(model.parameters(), lr=0.1))
    for batch in (torch.ones(4, 3), None, torch.ones(4, 3)):
        model(torch.ones(4, 3)).mean().backward()
        supervisor.check(1.0, batch=batch)
    column = supervisor.history.column("batch_fingerprint")
    assert column[0] == column[2] == take(torch.ones(4, 3))
    assert math.isnan(column[1])
