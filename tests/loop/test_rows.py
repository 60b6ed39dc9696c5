"""Rows of the data, followed by `fit`."""

from __future__ import annotations

import builtins
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Subset, TensorDataset

from tests.laws.training import flatten, list_differences
from trimtab import InputError, fit
from trimtab.control.rows import IndexedRows, RowTracker
from trimtab.loop import FitResult

NUM_ROWS, BATCH_SIZE = 20, 8


def make_data() -> TensorDataset:
    """Twenty rows; the targets of the last two follow another rule."""
    x = torch.randn(NUM_ROWS, 4, generator=torch.Generator().manual_seed(1))
    y = x.sum(1)
    y[-2:] += 5
    return TensorDataset(x, y)


def compute_rows(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The squared error of each row."""
    return functional.mse_loss(model(batch[0]).squeeze(1), batch[1], reduction="none")


def compute_mean(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Its mean."""
    return compute_rows(model, batch).mean()


def compute_parts(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """One loss for each row and one for all."""
    return {
        "error": compute_rows(model, batch),
        "size": 0.01 * sum((each.square().sum() for each in model.parameters()), torch.zeros(())),
    }


def train(
    compute: Any = compute_rows, data: Any = None, *, seed: int = 0, **options: Any
) -> tuple[FitResult, nn.Module, torch.optim.Optimizer]:
    """Three epochs."""
    torch.manual_seed(seed)
    model = nn.Linear(4, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    loader = DataLoader(IndexedRows(make_data()) if data is None else data, BATCH_SIZE, shuffle=True)
    return fit(model, optimizer, compute, loader, **{"epochs": 3, **options}), model, optimizer


def test_following_rows_changes_nothing() -> None:
    """The run is bit for bit the one over the data without row numbers, whose loss is averaged."""
    tracker = RowTracker(NUM_ROWS, learned_below=0.1)
    ends = []
    for compute, data, rows in ((compute_rows, None, tracker), (compute_mean, make_data(), None)):
        _, model, optimizer = train(compute, data, rows=rows)
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "random": torch.get_rng_state()}
        ends.append(dict(flatten(state)))
    assert list_differences(*ends) == []
    assert tracker.num_epochs == 3
    assert tracker.state_dict()["rows"]["num_seen"].tolist() == [3] * NUM_ROWS


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"micro_batch": 3}, id="micro-batches"),
        pytest.param({"accumulate": 2}, id="accumulated"),
        pytest.param({"val_loader": DataLoader(make_data(), 5)}, id="validated"),
        pytest.param(
            {"val_loader": DataLoader(Subset(IndexedRows(make_data()), [0, 1, 2]), 2)}, id="validated-by-rows"
        ),
        pytest.param({"val_loader": IndexedRows(make_data()), "test_loader": IndexedRows(make_data())}, id="data-sets"),
        pytest.param({"compute": compute_parts}, id="parts"),
    ],
)
def test_each_row_counts_once_in_an_epoch(options: dict[str, Any]) -> None:
    """However a step is computed, and whatever else is: validation and the probe are not counted."""
    tracker = RowTracker(NUM_ROWS)
    train(rows=tracker, **options)
    assert tracker.state_dict()["rows"]["num_seen"].tolist() == [3] * NUM_ROWS
    assert len(tracker.find("seen-twice")) == 0


def test_the_losses_are_those_of_the_rows() -> None:
    """Without an update they are what the model gives for each row."""
    tracker = RowTracker(NUM_ROWS)
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    loader = DataLoader(IndexedRows(make_data()), BATCH_SIZE, shuffle=True)
    fit(model, torch.optim.SGD(model.parameters(), lr=0.0), compute_rows, loader, rows=tracker)
    expected = compute_rows(model, make_data()[:]).detach().numpy()
    np.testing.assert_allclose(tracker.state_dict()["rows"]["mean_loss"], expected, rtol=1e-5)


def test_what_is_computed_again_counts_once() -> None:
    """A step made again in smaller parts after memory ran out, and a batch rerun for its NaN, are one look each."""
    tracker = RowTracker(NUM_ROWS)
    num_calls = 0

    def fail_once(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        nonlocal num_calls
        num_calls += 1
        if num_calls == 2:
            raise torch.OutOfMemoryError("out of memory")
        losses = compute_rows(model, batch)
        return losses * float("nan") if num_calls == 8 else losses

    train(fail_once, rows=tracker)
    rows = tracker.state_dict()["rows"]
    assert num_calls > 9 + 1
    assert (rows["num_seen"] + rows["num_nonfinite"]).tolist() == [3] * NUM_ROWS
    assert rows["num_nonfinite"].sum() > 0


@pytest.mark.parametrize("point", [2, 3, 5], ids=["mid-epoch", "end-of-epoch", "second-epoch"])
def test_a_paused_run_goes_on(tmp_path: Path, point: int) -> None:
    """What is known of the rows is that of the run that was never paused, and so is their table."""
    whole = RowTracker(NUM_ROWS)
    train(rows=whole, run=tmp_path / "whole")
    num_calls = 0

    def pause(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        nonlocal num_calls
        num_calls += 1
        if num_calls == point:
            signal.raise_signal(signal.SIGUSR1)
        return compute_rows(model, batch)

    result, *_ = train(pause, rows=RowTracker(NUM_ROWS), run=tmp_path / "run")
    assert result.status == "paused"
    second = RowTracker(NUM_ROWS)
    result, *_ = train(rows=second, run=tmp_path / "run", seed=1)
    assert result.status == "finished"
    for name, each in whole.state_dict()["rows"].items():
        np.testing.assert_array_equal(second.state_dict()["rows"][name], each)
    tables = [(tmp_path / name / "rows.parquet").read_bytes() for name in ("whole", "run")]
    assert tables[0] == tables[1]


def test_without_pyarrow_the_run_ends_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The table is missing, which is a warning."""
    real = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    result, *_ = train(rows=RowTracker(NUM_ROWS), run=tmp_path)
    assert result.status == "finished"
    assert "the table of rows is not written: rows.parquet needs pyarrow" in caplog.text
    assert not (tmp_path / "rows.parquet").exists()


REFUSED: dict[str, tuple[Callable[..., Any], Any, str]] = {
    "a-mean": (compute_mean, DataLoader(IndexedRows(make_data()), 8), "compute_loss gave none of 8 numbers"),
    "no-row-numbers": (compute_rows, [torch.zeros(8, 4)], "a pair (row numbers, batch)"),
    "rows-of-other-data": (compute_rows, [(torch.tensor([20]), make_data()[:1])], "there is no row 20"),
}


@pytest.mark.parametrize(("compute", "data", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_followed_is_refused(compute: Any, data: Any, message: str) -> None:
    """In one sentence."""
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(InputError, match=re.escape(message)):
        fit(model, optimizer, compute, data, rows=RowTracker(NUM_ROWS))


def test_a_loss_for_each_row_needs_a_tracker() -> None:
    """Without one, it is refused as before."""
    with pytest.raises(InputError, match="a tensor of shape"):
        train(compute_rows, make_data())


def test_a_run_begun_without_rows_is_refused(tmp_path: Path) -> None:
    """What its rows did before is not known."""
    train(lambda model, batch: compute_mean(model, batch[1]), run=tmp_path, epochs=1)
    with pytest.raises(InputError, match="begun without rows="):
        train(rows=RowTracker(NUM_ROWS), run=tmp_path)
