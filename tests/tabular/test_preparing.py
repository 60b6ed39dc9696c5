"""Tables as numbers: whatever is in them, what comes out is finite and the same for the same value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import require
from trimtab.tabular.batches import Rows, hash_rows, make_loader
from trimtab.tabular.columns import Table
from trimtab.tabular.encoders import WIDTH, describe_numbers
from trimtab.tabular.inference import infer_types
from trimtab.tabular.network import Shape, TableModel
from trimtab.tabular.objective import TableLoss, choose_columns, contrast, draw_hidden, guess_cells
from trimtab.tabular.preparing import Encoding, apply, prepare, split_text
from trimtab.tabular.reading import read_table

require("pandas", "pyarrow")

N = 80
GENERATOR = np.random.default_rng(0)


def make_table(**columns: Any) -> Table:
    """A table of every kind of column, some of which may be others."""
    given = {
        "size": GENERATOR.normal(size=N),
        "day": [f"2020-03-{each % 28 + 1:02d}" for each in range(N)],
        "color": ["red", "green", "blue", "red"] * (N // 4),
        "flag": ["yes", "no"] * (N // 2),
        "note": [f"the {each} of them flew against wing number {each * 7}" for each in range(N)],
    }
    return read_table({**given, **columns})


def build(table: Table) -> tuple[TableModel, Rows]:
    """A small model and the rows of a table."""
    encodings = prepare(table, infer_types(table))
    return TableModel(encodings, Shape(hidden=16, dimensions=8)), Rows(apply(table, encodings))


def test_every_kind_becomes_a_token() -> None:
    """The columns come out by kind, each cell as a token, and every row of length 1."""
    model, rows = build(make_table())
    assert model.names == ("size", "day", "color", "flag", "note")
    batch = rows.__getitems__(list(range(N)))
    cells = model.encode(batch)
    assert cells.tokens.shape == (N, 5, WIDTH)
    assert not cells.missing.any()
    assert torch.allclose(model(batch).norm(dim=1), torch.ones(N))


ODD = {
    "infinite": [np.inf, -np.inf] + [1.5] * (N - 2),
    "huge": [1e300, -1e300, 1e12, *GENERATOR.normal(size=N - 3)],
    "tiny": [1e-300 * each for each in GENERATOR.normal(size=N)],
    "missing": [np.nan] * (N - 2) + [1.0, 2.5],
    "mostly-one-value": [0.0] * (N - 2) + [5.0, 1e9],
    "large-offset": [1e15 + each for each in GENERATOR.normal(size=N)],
}


@pytest.mark.parametrize("values", ODD.values(), ids=ODD.keys())
def test_numbers_stay_finite(values: list[float]) -> None:
    """Embeddings, losses and gradients are finite whatever the numbers are."""
    model, rows = build(make_table(size=values))
    batch = rows.__getitems__(list(range(N)))
    total = torch.stack(list(TableLoss()(model, batch).values())).sum()
    total.backward()
    assert torch.isfinite(model(batch)).all()
    assert torch.isfinite(total)
    assert all(torch.isfinite(each.grad).all() for each in model.parameters() if each.grad is not None)


def test_outliers_do_not_squeeze_the_others() -> None:
    """With a value of 1e12 among them, other numbers are told apart as well as without it."""
    values = GENERATOR.normal(size=N)
    spoilt = np.where(np.arange(N) == 3, 1e12, values)
    first, second = (
        describe_numbers(torch.from_numpy(apply(table, prepare(table, infer_types(table))).numbers), knots)
        for table in (make_table(size=values), make_table(size=spoilt))
        for knots in [torch.tensor([prepare(table, infer_types(table))[0].knots])]
    )
    apart = [torch.cdist(each[5:25, 0], each[5:25, 0]).mean() for each in (first, second)]
    assert apart[1] > 0.8 * apart[0]


def test_bins_cover_the_numbers_evenly() -> None:
    """The first bin is full from a sixteenth on, the last one from the highest value on; rank goes from -1 to 1."""
    knots = torch.linspace(0, 16, 17)[None]
    described = describe_numbers(torch.tensor([[-5.0], [0.0], [8.5], [16.0], [99.0]]), knots)[:, 0]
    assert described[:, 2].tolist() == [-1, -1, pytest.approx(0.0625), 1, 1]
    assert described[2, 3:].tolist() == [1] * 8 + [0.5] + [0] * 7


def test_what_was_never_seen_has_a_token() -> None:
    """An unseen category and a rare one are unknown, and a missing value is neither."""
    rare = ["rare"] + ["red", "green"] * 100 + ["red"] * 99
    table = read_table({"color": rare, "size": list(GENERATOR.normal(size=300))})
    encodings = prepare(table, infer_types(table))
    assert set(encodings[1].categories) == {"red", "green"}
    new = read_table({"color": ["red", "violet", "rare", None], "size": [0.5, 1.5, 2.5, 3.5]})
    assert apply(new, encodings).categories[:, 0].tolist()[1:] == [0, 0, -1]


def test_a_code_is_the_same_as_number_and_as_text() -> None:
    """7, 7.0 and the text 7 are one category, so that a column with gaps is what one without is."""
    encoding = Encoding("code", "categorical", categories=("7", "12"))
    tables = [{"code": [7, 12, 9]}, {"code": [7.0, 12.0, 9.0]}, {"code": ["7", "12.0", "9"]}]
    assert [apply(read_table(each), [encoding]).categories[:, 0].tolist() for each in tables] == [[1, 2, 0]] * 3


def test_a_column_that_is_not_there_is_missing() -> None:
    """Rows of which some columns are not known at all are encoded with what is there."""
    table = make_table()
    encodings = prepare(table, infer_types(table))
    arrays = apply(read_table({"size": [0.5, 1.0]}), encodings)
    assert np.isfinite(arrays.numbers).all()
    assert np.isnan(arrays.moments).all()
    assert (arrays.categories == -1).all()
    assert (arrays.texts == -1).all()
    model = TableModel(encodings, Shape(hidden=16, dimensions=8))
    assert torch.isfinite(model(Rows(arrays).__getitems__([0, 1]))).all()


def test_words_and_trigrams() -> None:
    """A text is its words and the trigrams in them, each once, in lower case."""
    assert split_text("Wing, WING") == ["wing", "<wi", "win", "ing", "ng>", ","]
    assert len(split_text("word" * 1000 + " and " * 1000)) < 100


def test_rows_that_are_the_same_have_the_same_key() -> None:
    """Keys differ where a cell differs, a missing one included, and nowhere else."""
    table = read_table({"a": [1.5, 1.5, 2.5, None, None, 1.5], "b": ["x", "x", "x", "x", "x", "y"]})
    keys = hash_rows(apply(table, prepare(table, infer_types(table, kinds={"b": "categorical"}))))
    assert [int(np.flatnonzero(keys == each)[0]) for each in keys] == [0, 0, 2, 3, 3, 5]


def test_batches_can_be_cut() -> None:
    """Every tensor of a batch has a row for each row, so that a step can be made in parts."""
    _, rows = build(make_table())
    for numbers in ([0], [5, 3], list(range(N))):
        assert {len(each) for each in rows.__getitems__(numbers).values()} == {len(numbers)}
    assert [len(each["texts"]) for each in make_loader(rows, 32)] == [32, 32, 16]
    assert [len(each["texts"]) for each in make_loader(rows, 32, shuffles=True)] == [32, 32]


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (50, 1), (50, 2), (50, 40)])
def test_no_row_is_hidden_altogether(shape: tuple[int, int]) -> None:
    """Each row shows a cell at least; of many, three tenths are hidden."""
    hidden = draw_hidden(torch.Size(shape))
    assert not hidden.all(1).any()
    if shape == (50, 40):
        assert 0.25 < hidden.float().mean() < 0.35


def test_rows_that_are_the_same_are_no_rivals() -> None:
    """Of two equal rows, neither is punished for being like the other."""
    views = torch.nn.functional.normalize(torch.eye(4)[[0, 0, 1, 2]], dim=1)
    keys = torch.tensor([[5, 5, 6, 7], [4, 5, 6, 7]])
    alike, apart = (contrast(views, views, keys=each, temperature=0.1) for each in keys)
    assert alike[:2].max() < 1e-3 < 0.6 < apart[:2].min()


def test_guessing_costs_one() -> None:
    """A model that knows nothing pays about 1 for a cell, whatever the number of values; missing ones are not asked."""
    model, rows = build(make_table(color=["a", "b"] * (N // 2)))
    batch = rows.__getitems__(list(range(N)))
    cells = model.encode(batch)
    with torch.no_grad():
        model.decoder.mul_(1e-6)
        lost = guess_cells(model, cells, model.embed(cells), draw_hidden(cells.missing.shape), slice(None), 1e3)
    assert float(lost) == pytest.approx(1.0, abs=0.01)


def test_many_columns_are_looked_at_in_turns() -> None:
    """In a step at most 32 columns are guessed at, so that the cost stays bounded."""
    few, all_of_them = choose_columns(1000), choose_columns(5)
    assert isinstance(few, torch.Tensor)
    assert len(set(few.tolist())) == 32
    assert all_of_them == slice(None)


def test_the_same_cells_are_hidden_at_each_validation() -> None:
    """In eval mode the loss of a batch is the same number each time; in training it is another one."""
    model, rows = build(make_table())
    batch, loss = rows.__getitems__(list(range(N))), TableLoss()

    def compute() -> float:
        return float(torch.stack(list(loss(model, batch).values())).sum().detach())

    assert compute() != compute()
    model.eval()
    assert compute() == compute()
