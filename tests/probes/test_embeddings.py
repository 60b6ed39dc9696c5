"""What is measured of the embeddings of a fixed sample."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor, nn

from trimtab import InputError, Supervisor
from trimtab.probes.embeddings import Column, measure_embeddings, read_sample
from trimtab.probes.geometry import compute_column_diversity

NUM, DIMENSIONS = 512, 64


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Rows in all directions."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def measure(embeddings: Tensor, views: Any = None, columns: Any = None) -> dict[str, float]:
    """The metrics as numbers."""
    return {name: float(each) for name, each in measure_embeddings(read_sample(embeddings, views, columns)).items()}


def test_random_rows() -> None:
    """Rows in all directions: r is 1, no cosine, nearly all dimensions, no side."""
    found = measure(draw(8 * NUM, DIMENSIONS))
    assert found["embedding_r"] == pytest.approx(1, abs=0.02)
    assert found["embedding_std"] == pytest.approx(1 / sqrt(DIMENSIONS), rel=0.02)
    assert found["mean_cosine"] == pytest.approx(0, abs=0.01)
    assert found["effective_rank"] == pytest.approx(DIMENSIONS, rel=0.02)
    assert found["one_sidedness"] < 0.05
    assert (found["embedding_rows"], found["embedding_dimensions"]) == (8 * NUM, DIMENSIONS)


def test_rows_that_are_the_same() -> None:
    """One point: r is 0, cosine 1, one direction at most, all on one side."""
    found = measure(torch.ones(NUM, DIMENSIONS), torch.ones(NUM, DIMENSIONS))
    assert found["embedding_r"] == pytest.approx(0, abs=1e-7)
    assert found["mean_cosine"] == pytest.approx(1)
    assert found["one_sidedness"] == 1
    assert found["recall_at_1"] == found["recall_chance"] == 1 / NUM


@pytest.mark.parametrize("rank", [1, 3, 16])
def test_rank_counts_directions(rank: int) -> None:
    """Rows in few dimensions, turned at random: r does not see it, and the effective rank does."""
    turned = draw(4 * NUM, rank) @ torch.linalg.qr(draw(DIMENSIONS, DIMENSIONS, seed=1))[0][:rank]
    found = measure(turned)
    assert found["effective_rank"] == pytest.approx(rank, rel=0.03)
    assert found["embedding_r"] > 0.7


@given(shift=st.floats(0, 20), dimensions=st.integers(16, 128), scale=st.floats(1e-3, 1e3))
def test_spread_is_of_no_dimension(shift: float, dimensions: int, scale: float) -> None:
    """r is about √(1 − mean cosine), however far rows are shifted to one side, at any dimension and length."""
    direction = torch.nn.functional.normalize(draw(1, dimensions, seed=2))
    found = measure(scale * (draw(256, dimensions) + shift * direction))
    assert found["embedding_r"] == pytest.approx(sqrt(max(1 - found["mean_cosine"], 0)), abs=0.06)


@given(seed=st.integers(0, 2**32))
def test_order_does_not_matter(seed: int) -> None:
    """Rows in another order, with their views and columns, give the same numbers."""
    order = torch.randperm(64, generator=torch.Generator().manual_seed(seed))
    rows, view, tokens, values = draw(64, 8), draw(64, 8, seed=1), draw(64, 4, seed=2), torch.arange(64) // 3
    first = measure(rows, view, {"a": (values, tokens)})
    second = measure(rows[order], view[order], {"a": (values[order], tokens[order])})
    assert second == pytest.approx(first, rel=1e-6, abs=1e-9)


def test_recall_has_a_ceiling_and_a_chance() -> None:
    """Of rows that come in pairs alike, half can be found; of a kind of column, what its values allow."""
    codes = torch.arange(100) // 2
    rows = torch.eye(50)[codes]
    columns = {"a": Column(codes, kind="scalar"), "b": Column([f"{each % 5}" for each in range(100)], kind="category")}
    views = {"joint": rows, "scalar": rows, "category": draw(100, 50)}
    found = measure(rows, views, {"a": columns["a"]})
    assert (found["recall_at_1"], found["recall_ceiling"], found["recall_chance"]) == (0.5, 0.5, 0.01)
    found = measure(rows, views, columns)
    assert (found["scalar_recall_at_1"], found["scalar_recall_ceiling"]) == (0.5, 0.5)
    assert found["category_recall_ceiling"] == 0.05
    assert found["recall_ceiling"] == 1


def test_a_view_of_one_column() -> None:
    """It has a recall and a ceiling of that column alone, and is no kind of column."""
    codes = torch.arange(100) // 2
    columns = {"a": Column(codes), "b": Column(torch.arange(100) // 20, kind="category")}
    found = measure(torch.eye(50)[codes], {"a": torch.eye(50)[codes], "b": draw(100, 50)}, columns)
    assert (found["column_recall_at_1_a"], found["column_recall_ceiling_a"]) == (0.5, 0.5)
    assert found["column_recall_ceiling_b"] == 0.05
    assert "recall_ceiling" not in found


@pytest.mark.parametrize("spread", [1e-3, 1e-5])
def test_rows_nearly_the_same_can_still_be_told_apart(spread: float) -> None:
    """Recall is that of the rows about their mean: cosines that differ in the tenth digit are told apart."""
    about = draw(NUM, DIMENSIONS).double()
    about -= about.mean(1, keepdim=True)  # orthogonal to the common direction
    rows, view = (
        torch.ones(DIMENSIONS) + spread * each for each in (about, about + 0.5 * draw(NUM, DIMENSIONS, seed=1))
    )
    assert measure(rows, view)["recall_at_1"] > 0.99


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(torch.arange(60) % 7, id="tensor"),
        pytest.param((torch.arange(60) % 7).bfloat16(), id="bfloat16"),
        pytest.param(np.arange(60) % 7 / 3, id="array"),
        pytest.param(tuple(range(7)) * 8 + tuple(range(4)), id="tuple"),
        pytest.param(np.where(np.arange(60) % 7 == 0, np.nan, np.arange(60) % 7), id="missing-numbers"),
        pytest.param([f"{each % 7}" for each in range(60)], id="texts"),
        pytest.param([None if each % 7 == 0 else each % 7 for each in range(60)], id="missing"),
    ],
)
def test_column_diversity_is_over_pairs_that_differ(values: Any) -> None:
    """It is 1 − the mean cosine over all pairs of rows with different values, computed pair by pair."""
    tokens = torch.nn.functional.normalize(draw(60, 6).double())
    codes = torch.arange(60) % 7
    differs = codes[:, None] != codes[None]
    expected = 1 - float((tokens @ tokens.mT)[differs].mean())
    assert float(compute_column_diversity(tokens, values)) == pytest.approx(expected)


def test_dead_and_constant_columns() -> None:
    """A dead column has no diversity; one whose values are all the same is not measured."""
    columns = {
        "dead": (range(8), torch.ones(8, 3)),
        "constant": ([1] * 8, torch.ones(8, 3)),
        "x": (range(8), torch.eye(8)),
    }
    model = nn.Linear(2, 2)
    supervisor = Supervisor(model, torch.optim.SGD(model.parameters(), lr=0.1))
    supervisor.review(embeddings=torch.eye(8), columns=columns)
    assert supervisor.record is not None
    values = supervisor.record.measurement.values
    assert values["column_diversity_dead"] == pytest.approx(0)
    assert values["column_diversity"] == values["column_diversity_dead"]
    assert values["column_diversity_x"] == pytest.approx(1)
    assert "column_diversity_constant" not in values


def test_tokens_of_zeros_are_the_same() -> None:
    """A column whose encoder gives nothing but zeros is dead, and a zero among other tokens is like none of them."""
    assert float(compute_column_diversity(torch.zeros(8, 3), range(8))) == 0
    assert float(compute_column_diversity(torch.cat([torch.zeros(1, 7), torch.eye(7)]), range(8))) == 1


@pytest.mark.parametrize("scale", [1e-200, 1e-40, 1e38, 1e200])
def test_length_does_not_matter(scale: float) -> None:
    """Rows whose squares overflow or vanish have the same measures."""
    rows = draw(64, 8).double()
    assert measure(scale * rows, scale * rows) == pytest.approx(measure(rows, rows))


def test_tokens_and_views_that_are_not_finite_are_found() -> None:
    """They are no missing numbers: the review says so."""
    rows, broken = draw(16, 4), torch.full((16, 4), torch.nan)
    model = nn.Linear(2, 2)
    supervisor = Supervisor(model, torch.optim.SGD(model.parameters(), lr=0.1))
    decision = supervisor.review(embeddings=rows, views=broken, columns={"a": (range(16), broken)})
    assert {"recall_at_1", "column_diversity_a"} <= {each.metric for each in decision.findings}


def test_numbers_that_are_not_finite_are_told() -> None:
    """One NaN among the embeddings is NaN in what is measured, and no crash."""
    rows = draw(16, 4)
    rows[3, 2] = torch.nan
    found = measure(rows, draw(16, 4, seed=1))
    assert all(np.isnan(found[name]) for name in ("embedding_r", "effective_rank", "recall_at_1"))


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no-tensor": ({"embeddings": [[1.0]]}, "embeddings is list; it has to be a float tensor"),
    "whole-numbers": ({"embeddings": torch.ones(4, 2, dtype=torch.long)}, "torch.int64"),
    "one-row": ({"embeddings": torch.ones(1, 2)}, "has 1 rows"),
    "another-shape": (
        {"embeddings": torch.ones(4, 2), "views": torch.ones(3, 2)},
        r"the view 'joint' has shape \(3, 2",
    ),
    "no-dimension": ({"embeddings": torch.ones(4, 0)}, r"shape \(4, 0\)"),
    "views-alone": ({"views": torch.ones(4, 2)}, "embeddings is NoneType"),
    "columns-alone": ({"columns": {"a": range(4)}}, "embeddings is NoneType"),
    "no-names": ({"embeddings": torch.ones(4, 2), "columns": [range(4)]}, "columns is a list"),
    "vectors": (
        {"embeddings": torch.ones(4, 2), "columns": {"a": torch.ones(4, 2)}},
        r"'a' are of shape \(4, 2\), torch.float32; they have to be a list",
    ),
    "no-list": ({"embeddings": torch.ones(4, 2), "columns": {"a": 5}}, "'a' are int"),
    "ragged": ({"embeddings": torch.ones(4, 2), "columns": {"a": [[1], [1, 2], [3], [4]]}}, "'a' are list"),
    "short-column": ({"embeddings": torch.ones(4, 2), "columns": {"a": [1, 2]}}, "'a' has 2 values; embeddings has 4"),
}


@pytest.mark.parametrize(("given_wrongly", "said"), WRONG.values(), ids=WRONG.keys())
def test_wrong_input_is_refused(given_wrongly: dict[str, Any], said: str) -> None:
    """What cannot be measured is said in a sentence, when it is handed over."""
    model = nn.Linear(2, 2)
    supervisor = Supervisor(model, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(InputError, match=said):
        supervisor.review(**given_wrongly)
