"""A column that goes wrong is found by its name and answered, and the others do not suffer for it."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tests.conftest import require
from tests.scenarios.tabular.runs import (
    DEAD,
    NUM_ROWS,
    ONSET,
    ZIP,
    Run,
    add_raw,
    fit,
    keep_raw,
    kill_columns,
    read_diamonds,
    train_healthy,
)

require("pandas", "pyarrow", "plotnine")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SHARE = 0.9
"""The share of the healthy run's recall that a run has to end with."""

WITHIN = 2
"""Epochs after its onset by which a trouble has to be found."""

STEPS = 8
"""Of an epoch."""


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Iterator[None]:
    """What is found is said at each review; and garbage is collected, which takes as long as there are objects."""
    logging.disable()
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
    logging.disable(logging.NOTSET)


def require_renewal(run: Run, columns: tuple[str, ...], onset: int) -> None:
    """The columns and no others were found dead in time, made anew, and have recovered."""
    found = [each.epoch for each in run.result.reviews if "dead-columns" in each.findings]
    assert found[0] <= onset + WITHIN
    made = [each for each in run.result.adaptations if each.kind == "renewal"]
    assert sorted({each.what for each in made}) == sorted(columns)
    assert [each.kind for each in run.result.adaptations][-1] == "recovery"
    assert all(run.metrics[-1][f"column_diversity_{each}"] > 0.05 for each in columns)
    assert any("dead-columns" in each and columns[0] in each for each in run.decisions)


RAW: dict[str, Callable[[Any], None]] = {"normalized": lambda _: None, "not-normalized": add_raw}


@pytest.mark.parametrize("build", RAW.values(), ids=RAW.keys())
def test_zip_code_as_a_raw_number(build: Callable[[Any], None]) -> None:
    """Codes of five digits, neither centred nor scaled: with normalization the gradients look well, and without."""
    wish = {ZIP: "scalar"}
    run = fit(read_diamonds(), kinds=wish, change=keep_raw, build=build)
    require_renewal(run, (ZIP,), 0)
    healthy = train_healthy(**wish)
    assert run.recall >= SHARE * healthy.recall, (run.recall, healthy.recall)
    assert "by itself it would be categorical" in run.types[ZIP].reason


def test_zip_code_that_nobody_touches_is_a_code() -> None:
    """Left alone, the zip code is taken for what it is, and the run has no finding."""
    run = train_healthy()
    assert run.types[ZIP].kind == "categorical"
    assert run.decisions == []


def test_dead_columns() -> None:
    """Three columns of numbers whose tokens no longer say anything are named and made anew."""
    run = fit(read_diamonds(), spoil=kill_columns)
    require_renewal(run, DEAD, ONSET // STEPS + 1)
    assert run.recall >= SHARE * train_healthy().recall


def test_dead_columns_stay_dead_without_a_guard() -> None:
    """Nothing else mends them: without a guard they are found and stay as they are."""
    run = fit(read_diamonds(), spoil=kill_columns, guarded=False)
    assert any("dead-columns" in each for each in run.decisions)
    dead = [all(each[f"column_diversity_{name}"] < 0.05 for name in DEAD) for each in run.metrics]
    assert sum(dead) >= 6  # until the run has stalled, and the best weights of before are gone back to
    assert run.recall < fit(read_diamonds(), spoil=kill_columns).recall


def test_nine_digit_id() -> None:
    """A number that names the rows is no feature; asked for all the same, the doubt stands beside it."""
    numbers = np.random.default_rng(2).choice(np.arange(100_000_000, 999_999_999), NUM_ROWS, replace=False)
    frame = read_diamonds().assign(order=numbers)
    run = fit(frame)
    assert (run.types["order"].kind, run.types["order"].reason) == (
        "identifier",
        "unique whole numbers of 9 digits each",
    )
    assert run.recall >= SHARE * train_healthy().recall
    asked = fit(frame, kinds={"order": "scalar"})
    assert "by itself it would be identifier" in asked.types["order"].reason
    assert asked.recall >= SHARE * train_healthy().recall


def test_outliers() -> None:
    """Three prices of a million million are named, and the others are told apart as before."""
    frame = read_diamonds().copy()
    frame.loc[[3, 500, 900], "price"] = [1e12, -1e12, 1e12]
    run = fit(frame)
    assert "3 of them more than 10,000 times the usual spread away" in run.types["price"].reason
    assert run.recall >= SHARE * train_healthy().recall
    assert run.decisions == []
