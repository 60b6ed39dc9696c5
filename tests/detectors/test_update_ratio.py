"""`update-ratio`: the ratios it reports, and those on which it stays silent."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import inf, nan
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from tests.laws.training import Training, make_training
from trimtab.detectors import detect
from trimtab.history import History
from trimtab.types import Finding, Measurement, Value

EVERY = 32
"""Steps from one measurement to the next."""

USUAL = (1e-3, 1e-3, 1e-3)
SMALL = (1e-3, 1e-7, 1e-3)
LARGE = (1e-3, 0.2, 1e-3)
BOTH = (0.5, 1e-7, 0.2)


def watch(
    ratios: Sequence[tuple[float, ...]],
    first: int = 1,
    rates: tuple[float, float] = (0.1, 0.1),
    weights: tuple[float, ...] | None = (1.0, 1.0, 1.0),
    **settings: float,
) -> list[Finding]:
    """Judge a run whose ratio is measured now and then, under a learning rate that goes from one number to another."""
    history = History(groups=("a", "b", "c"))
    found: list[Finding] = []
    last = EVERY * len(ratios)
    for index in range(last):
        rate = rates[0] + (rates[1] - rates[0]) * (index + 1) / last
        values: dict[str, Value] = {"learning_rate": rate}
        if index % 2 == 0 and weights is not None:
            values["weight_norm"] = weights
        if index % EVERY == EVERY - 1:
            values["update_ratio"] = ratios[index // EVERY]
        history.append(Measurement(first + index, values))
        found += detect(history, {"update-ratio": settings})
        history.close(accepted=True)
    return found


@pytest.mark.parametrize(
    ("ratios", "options", "expected"),
    [
        pytest.param([LARGE] * 3, {}, {96: ("b",)}, id="large-at-three-measurements"),
        pytest.param([SMALL] * 3, {}, {96: ("b",)}, id="small-at-three-measurements"),
        pytest.param([LARGE] * 4, {}, {96: ("b",), 128: ("b",)}, id="as-long-as-it-lasts"),
        pytest.param([USUAL, LARGE, LARGE, LARGE], {}, {128: ("b",)}, id="later-in-the-run"),
        pytest.param([LARGE] * 3, {"first": 5000}, {5095: ("b",)}, id="large-in-an-old-run"),
        pytest.param([LARGE] * 3, {"rates": (0.1, 0.0)}, {96: ("b",)}, id="large-under-a-falling-rate"),
        pytest.param([SMALL] * 3, {"rates": (0.1, 0.05)}, {96: ("b",)}, id="small-in-a-young-run-that-decays"),
        pytest.param([LARGE] * 3, {"weights": None}, {96: ("b",)}, id="weights-not-measured"),
        pytest.param([LARGE], {"samples": 1}, {32: ("b",)}, id="one-measurement-if-asked"),
        pytest.param([USUAL] * 3, {"low": 0.01}, {96: ("a", "b", "c")}, id="several-groups-in-one-finding"),
    ],
)
def test_reports(
    ratios: list[tuple[float, ...]], options: dict[str, Any], expected: dict[int, tuple[str, ...]]
) -> None:
    """Ratios beyond a limit at one measurement after the other are found."""
    found = watch(ratios, **options)
    assert {finding.step: finding.groups for finding in found} == expected


@pytest.mark.parametrize(
    ("ratios", "options"),
    [
        pytest.param([USUAL] * 9, {}, id="usual"),
        pytest.param([(1e-6, 0.1, 1e-6)] * 9, {}, id="at-the-limits"),
        pytest.param([LARGE] * 2, {}, id="two-measurements-are-not-enough"),
        pytest.param([LARGE, LARGE, USUAL] * 3, {}, id="not-three-in-a-row"),
        pytest.param([LARGE, SMALL] * 5, {}, id="now-large-now-small"),
        pytest.param([(1e-3, 0.0, 1e-3)] * 9, {}, id="a-frozen-group"),
        pytest.param([SMALL, (1e-3, 0.0, 1e-3), SMALL], {}, id="frozen-in-between"),
        pytest.param([(nan, inf, nan)] * 9, {}, id="not-finite"),
        pytest.param([SMALL] * 9, {"rates": (0.0, 0.1)}, id="small-in-a-warm-up"),
        pytest.param([SMALL] * 9, {"rates": (0.0, 0.0)}, id="small-at-a-rate-of-0"),
        pytest.param([SMALL] * 9, {"first": 5000, "rates": (0.1, 0.001)}, id="small-at-the-end-of-a-schedule"),
        pytest.param([LARGE] * 9, {"weights": (1.0, 0.05, 1.0)}, id="large-for-a-bias-near-0"),
        pytest.param([], {}, id="never-measured"),
    ],
)
def test_stays_silent(ratios: list[tuple[float, ...]], options: dict[str, Any]) -> None:
    """Usual and single ratios, frozen groups, warm-ups and ends of schedules are not reported."""
    assert watch(ratios, **options) == []


def test_one_finding_for_each_side() -> None:
    """Groups above and groups below are two findings, each with the worst group first and the limit it broke."""
    above, below = watch([BOTH] * 3)
    assert above.message == "updates are 0.5 of the weights in a and 1 more groups, above 0.1"
    assert below.message == "updates are 1e-07 of the weights in b, below 1e-06"
    assert (above.groups, above.limit, below.groups, below.limit) == (("a", "c"), 0.1, ("b",), 1e-6)
    assert above.severity == "low"


def run(rate: float, schedule: float = 1.0, decay: float = 0.01) -> tuple[Training, set[tuple[str, float]]]:
    """A real run, and what it finds, by detector and limit."""
    training = make_training(partial(torch.optim.AdamW, lr=rate, weight_decay=decay))
    training.scheduler = LambdaLR(training.optimizer, lambda step: schedule**step)
    training.supervise().run(260)
    found = [finding for decision in training.decisions for finding in decision.findings]
    return training, {(finding.detector, finding.limit) for finding in found}


def test_real_rate_that_is_far_too_small_is_found() -> None:
    """A rate with a misplaced exponent is found, and nothing is done about it."""
    training, found = run(1e-8)
    assert found == {("update-ratio", 1e-6)}
    assert set(training.verdicts) == {"proceed"}


def test_real_rate_that_is_far_too_large_is_found() -> None:
    """A rate and a weight decay that make other weights of the weights every few steps are found."""
    _, found = run(0.3, decay=1.0)
    assert ("update-ratio", 0.1) in found


def test_real_rate_that_decays_is_left_alone() -> None:
    """A healthy run whose rate falls to a hundredth has no finding of any detector."""
    _, found = run(0.01, schedule=0.982)
    assert found == set()
