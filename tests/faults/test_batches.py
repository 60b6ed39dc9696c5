"""Faults of the data: what becomes of batches of any form, and what is never written to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from tests.faults.runs import STEP, make_parts
from trimtab.faults import Injector, inject


def make_injector(name: str, **options: Any) -> Injector:
    """An injector of one fault, at `STEP`."""
    return make_parts().make_injector([inject(name, STEP, **options)])


class Pair(NamedTuple):
    """A batch as some loops have it."""

    tokens: Tensor
    weights: Tensor


TOKENS = torch.arange(64)
WEIGHTS = torch.ones(64)


@pytest.mark.parametrize(
    ("batch", "parts"),
    [
        pytest.param(TOKENS, lambda batch: [batch], id="tensor"),
        pytest.param(TOKENS.to(torch.uint8), lambda batch: [batch], id="uint8"),
        pytest.param((TOKENS, WEIGHTS), list, id="tuple"),
        pytest.param([TOKENS, WEIGHTS, "name"], list, id="list-with-text"),
        pytest.param({"tokens": TOKENS, "weights": WEIGHTS}, lambda batch: list(batch.values()), id="dictionary"),
        pytest.param(Pair(TOKENS, WEIGHTS), list, id="named-tuple"),
        pytest.param({"inner": (TOKENS, TOKENS)}, lambda batch: list(batch["inner"]), id="nested"),
    ],
)
def test_random_bytes_in_any_batch(batch: Any, parts: Callable[[Any], list[Any]]) -> None:
    """Integer tensors are replaced wherever they are in a batch; its structure and the rest of it stay."""
    before = [part.clone() if isinstance(part, Tensor) else part for part in parts(batch)]
    injector = make_injector("random-bytes")
    after = injector.batch(STEP, batch)
    assert type(after) is type(batch)
    for old, kept, new in zip(before, parts(batch), parts(after), strict=True):
        if isinstance(old, Tensor):
            assert torch.equal(old, kept)  # the loop's own tensors, perhaps a cached data set, are never written to
            assert (new.shape, new.dtype) == (old.shape, old.dtype)
            assert torch.equal(old, new) == old.is_floating_point()
        else:
            assert new is old


@pytest.mark.parametrize("strength", [2, 50, 256])
def test_random_values_fill_the_vocabulary(strength: int) -> None:
    """The strength of random bytes is the size of the vocabulary: every value occurs, and none beyond."""
    injector = make_injector("random-bytes", strength=strength)
    batch = injector.batch(STEP, torch.zeros(64, 128, dtype=torch.int64))
    assert torch.equal(batch.unique(), torch.arange(strength))


ROWS = torch.linspace(-2, 5, 60).view(20, 3)
COLUMNS = torch.stack([torch.arange(20) % 3, torch.arange(20) % 7 + 10], dim=1)
LABELS = torch.arange(20)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_random_values_keep_their_range(dtype: torch.dtype) -> None:
    """Where inputs are numbers, they become others between their least and greatest, columns of integers too."""
    rows = ROWS.to(dtype)
    drawn, categories, labels = make_injector("random-bytes").batch(STEP, (rows, COLUMNS, LABELS))
    assert (drawn.dtype, drawn.shape, labels is LABELS) == (dtype, rows.shape, True)
    assert rows.min() <= drawn.min() < -1 < 4 < drawn.max() <= rows.max()
    assert len(drawn.unique()) > 50
    assert not torch.equal(categories, COLUMNS)
    for column in (0, 1):
        assert categories[:, column].aminmax() == COLUMNS[:, column].aminmax()


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        pytest.param(ROWS, 100 * ROWS, id="single-tensor-is-inputs"),
        pytest.param((ROWS, LABELS), (100 * ROWS, LABELS), id="labels-stay"),
        pytest.param((ROWS, ROWS), (100 * ROWS, 100 * ROWS), id="same-tensor-twice"),
        pytest.param((ROWS, ROWS + 1), (100 * ROWS, ROWS + 1), id="targets-are-numbers-too"),
        pytest.param({"x": ROWS, "c": COLUMNS, "y": LABELS}, {"x": 100 * ROWS, "c": COLUMNS, "y": LABELS}, id="table"),
        pytest.param([ROWS.half(), LABELS], [100 * ROWS.half(), LABELS], id="float16"),
    ],
)
def test_scaled_inputs(batch: Any, expected: Any) -> None:
    """Floating-point inputs are multiplied; integers and targets stay."""
    scaled = make_injector("scaled-inputs").batch(STEP, batch)
    for one, other in zip(list_parts(scaled), list_parts(expected), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(ROWS, torch.linspace(-2, 5, 60).view(20, 3))


def list_parts(batch: Any) -> list[Tensor]:
    """The tensors of a batch without nesting."""
    return [batch] if isinstance(batch, Tensor) else list(batch.values() if isinstance(batch, dict) else batch)


@pytest.mark.parametrize(
    ("batch", "strength"),
    [
        pytest.param((ROWS, LABELS), 0.0, id="numbers"),
        pytest.param((ROWS.bfloat16(), LABELS), 1.0, id="bfloat16"),
        pytest.param((COLUMNS, LABELS), 7.0, id="integers"),
        pytest.param((COLUMNS,), 7.0, id="tokens-alone"),
    ],
)
def test_constant_inputs(batch: tuple[Tensor, ...], strength: float) -> None:
    """All inputs become one value, of the dtype they had; the targets stay."""
    flat, *rest = make_injector("constant-inputs", strength=strength).batch(STEP, batch)
    assert torch.equal(flat, torch.full_like(batch[0], strength))
    assert all(each is LABELS for each in rest)


@pytest.mark.parametrize("strength", [1.0, 0.5, 0.0])
def test_shuffled_rows_all_move(strength: float) -> None:
    """The drawn share of the targets changes places among the samples, and none of it keeps its own."""
    inputs, labels = make_injector("shuffled-labels", strength=strength).batch(STEP, (ROWS, LABELS))
    assert inputs is ROWS
    assert torch.equal(labels.sort().values, LABELS)
    assert int((labels != LABELS).sum()) == round(20 * strength)
    assert torch.equal(LABELS, torch.arange(20))


def test_shuffled_windows_keep_their_tokens() -> None:
    """Of windows of tokens alone, the drawn share is shuffled, each window within itself and in its own way."""
    windows = torch.arange(64 * 30).view(64, 30)
    shuffled = make_injector("shuffled-labels", strength=0.5).batch(STEP, windows)
    assert torch.equal(shuffled.sort(-1).values, windows)
    moved = (shuffled != windows).any(-1)
    assert 16 < int(moved.sum()) < 48
    assert len({str(row) for row in (shuffled % 30)[moved].tolist()}) == int(moved.sum())


@pytest.mark.parametrize("name", ["repeated-batch", "stuck-loader"])
def test_repeated_batch_is_a_copy(name: str) -> None:
    """A loop that fills the same tensors anew in each step sees the first contents again all the same."""
    injector, buffer = make_injector(name), torch.zeros(4)
    steps = range(STEP - 1, STEP + 4)
    passed = [int(injector.batch(step, {"x": buffer.fill_(step)})["x"][0]) for step in steps]
    assert passed == [STEP - 1, STEP, STEP, STEP, STEP]
