"""Representations of a small real table: what kills them is found, answered and mended."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.conftest import require
from tests.scenarios.representation.checks import check_scenario
from tests.scenarios.representation.data import Tabular
from tests.scenarios.representation.runs import SCENARIOS, train_healthy, train_spoilt

require("plotnine")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Thirty reviews of a collapsed run say so thirty times."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", SCENARIOS)
def test_found_answered_and_mended(name: str) -> None:
    """Within two epochs, and to nine tenths of the healthy run's recall, which it does not reach without the guard."""
    check_scenario("table", name)


def test_healthy_run_is_left_alone() -> None:
    """A run on a table has no finding and no intervention, and a recall of its own for each kind of column."""
    run = train_healthy("table", "collapse")
    assert run.guard is not None
    assert (run.found, run.guard.made) == ([], [])
    newest = run.metrics[-1]
    assert newest["category_recall_ceiling"] < newest["scalar_recall_ceiling"] == newest["recall_ceiling"] == 1
    assert newest["category_recall_at_1"] <= newest["category_recall_ceiling"]


def test_dead_columns_are_named_and_made_anew() -> None:
    """The columns that died, and no others, are initialized anew, and their tokens differ again."""
    run = train_spoilt("table", "dead-columns", guarded=True)
    assert run.guard is not None
    renewed = [each.what for each in run.guard.made if each.kind == "renewal"]
    assert sorted(renewed) == sorted(Tabular.dead)
    assert run.metrics[-1]["column_diversity"] > 0.1
