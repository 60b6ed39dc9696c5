"""The diagnosis of a run that is still in memory: what a supervisor remembers, as evidence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from trimtab.diagnosis.evidence import Evidence, Series
from trimtab.diagnosis.result import Diagnosis
from trimtab.diagnosis.walk import diagnose_evidence
from trimtab.history import Column, History
from trimtab.types import Action, Decision

AT_EVERY_STEP = ("loss", "grad_norm", "group_grad_norm")
"""Metrics that are there at every step: a row without a number has NaN as its number. Of others it was not measured."""


def diagnose_halted(
    steps: History,
    reviews: History,
    ledger: Iterable[Decision],
    done: Iterable[tuple[Decision, Action]] = (),
    dtypes: Sequence[str] = (),
) -> Diagnosis:
    """What is the matter with a run that a supervisor has just ended, from what it remembers.

    That is the newest part of the run; `diagnose` of the run folder has all of it.

    Args:
        steps: the newest measurements of steps.
        reviews: the newest measurements of reviews.
        ledger: the newest decisions that had findings.
        done: those of them of which it is known what was done; of others that is taken to be what was decided.
        dtypes: the precisions of the parameters.
    """
    known = {(each.step, each.clock): (each, Action(each.step, each.verdict)) for each in ledger}
    known |= {(each.step, each.clock): (each, action) for each, action in done}
    decided = tuple(known.values())
    evidence = Evidence(
        _list_series(steps),
        _list_series(reviews),
        steps.groups,
        tuple(finding for decision, _ in decided for finding in decision.findings),
        decided,
        ({"event": "end", "status": "halted"},),
        {"dtypes": list(dtypes), "groups": list(steps.groups), "group_metrics": []},
    )
    return diagnose_evidence(evidence)


def _list_series(history: History) -> dict[str, Series]:
    """The columns of a history as series."""
    state = history.state_dict()
    taken = {
        metric: _take_series(state["steps"], column, metric in AT_EVERY_STEP, metric in history.newest.values)
        for metric, column in state["columns"].items()
    }
    return {metric: series for metric, series in taken.items() if len(series)}


def _take_series(steps: NDArray[np.int64], column: Column, is_dense: bool, is_newest: bool) -> Series:
    """One column at the rows in which it was measured; of a step that is there twice, the later counts.

    Args:
        steps: the steps of the rows.
        column: the numbers, NaN where nothing was measured.
        is_dense: True if it was measured at every row from its first number on.
        is_newest: True if it was measured at the newest row.
    """
    kept = np.asarray(~np.isnan(column.reshape(len(column), -1)).all(axis=1), dtype=np.bool_)
    if is_dense and kept.any():
        kept[int(np.argmax(kept)) :] = True
    if is_newest:
        kept[-1:] = True
    kept &= np.append(steps[1:] != steps[:-1], np.ones(min(len(steps), 1), dtype=np.bool_))
    return Series(steps[kept], column[kept].astype(np.float64))
