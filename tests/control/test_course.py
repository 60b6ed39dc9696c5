"""The course of a run, told from its reviews alone."""

from __future__ import annotations

from dataclasses import replace
from math import nan
from typing import Any

import pytest

from trimtab.control.course import (
    NO_LEARNING,
    Adaptation,
    Rules,
    decide_course,
    explain_stop,
    find_finalization,
    find_hindrance,
)
from trimtab.control.review import Review
from trimtab.detectors import detectors

BASE = Rules(epochs=100, patience=3)


def make_reviews(*scores: float, findings: dict[int, str] | None = None) -> list[Review]:
    """One review an epoch, ten steps apart; findings by epoch."""
    found = findings or {}
    return [
        Review(epoch, 10 * epoch, {"val_loss": score}, findings=(found[epoch],) if epoch in found else ())
        for epoch, score in enumerate(scores, start=1)
    ]


def follow(reviews: list[Review], rules: Rules, stop_from: int | None = None) -> list[tuple[str, int]]:
    """All that is decided, review by review: names and epochs, and the stop at last."""
    past: list[Adaptation] = []
    for num in range(1, len(reviews) + 1):
        may_stop = stop_from is None or num < stop_from
        decided = decide_course(reviews[:num], past, rules, may_stop=may_stop)
        if decided is not None:
            past.append(decided)
        if explain_stop(reviews[:num], past, rules, may_stop=may_stop) is not None:
            return [*((each.name, each.epoch) for each in past), ("stop", num)]
    return [(each.name, each.epoch) for each in past]


FLAT = [1.0] * 100

COURSES: dict[str, tuple[list[Review], Rules, list[tuple[str, int]]]] = {
    "no-early-stopping": (make_reviews(*FLAT), replace(BASE, patience=None, num_partitions=3), []),
    "still-falling": (make_reviews(*(1 / epoch for epoch in range(1, 101))), BASE, []),
    "not-before-the-fiftieth-epoch": (make_reviews(*FLAT), BASE, [("finalization-1", 50), ("stop", 55)]),
    "short-run": (make_reviews(*FLAT), replace(BASE, epochs=20), [("finalization-1", 10), ("stop", 12)]),
    "too-short-for-a-finalization": (make_reviews(*FLAT), replace(BASE, epochs=9), [("stop", 4)]),
    "fresh-data-first": (
        make_reviews(*FLAT),
        replace(BASE, num_partitions=3),
        [("rotation-1", 4), ("rotation-2", 7), ("finalization-1", 50), ("stop", 55)],
    ),
    "three-times-at-most": (
        make_reviews(*FLAT),
        replace(BASE, num_partitions=9),
        [("rotation-1", 4), ("rotation-2", 7), ("rotation-3", 10), ("finalization-1", 50), ("stop", 55)],
    ),
    "fresh-data-that-help": (
        make_reviews(*[1.0] * 4, *(0.9**epoch for epoch in range(96))),
        replace(BASE, num_partitions=3),
        [("rotation-1", 4)],
    ),
    "as-many-epochs-as-are-left": (
        make_reviews(*(1 / epoch for epoch in range(1, 95)), *[1.0] * 5),
        BASE,
        [("finalization-1", 97)],
    ),
    "blocked-after-no-learning": (
        make_reviews(*FLAT, findings={48: "no-learning"}),
        BASE,
        [("finalization-1", 58), ("stop", 63)],
    ),
    "not-blocked-by-another-finding": (
        make_reviews(*FLAT, findings={48: "slow-learning"}),
        BASE,
        [("finalization-1", 50), ("stop", 55)],
    ),
    "nan-is-no-improvement": (
        make_reviews(1.0, *[nan] * 99),
        BASE,
        [("finalization-1", 50), ("stop", 55)],
    ),
}


@pytest.mark.parametrize(("reviews", "rules", "expected"), COURSES.values(), ids=COURSES.keys())
def test_the_course_of_a_run(reviews: list[Review], rules: Rules, expected: list[tuple[str, int]]) -> None:
    """What is done when: fresh data as long as there are any, a finalization, the stop, never too early."""
    assert follow(reviews, rules) == expected


@pytest.mark.parametrize(
    ("stop_from", "expected"),
    [
        pytest.param(10, [], id="before-all"),
        pytest.param(52, [("finalization-1", 50), ("resumption-1", 52)], id="in-the-finalization"),
        pytest.param(56, [("finalization-1", 50), ("stop", 55)], id="too-late"),
    ],
)
def test_no_stop_rules_it_out(stop_from: int, expected: list[tuple[str, int]]) -> None:
    """From then on nothing leads to a stop, and a finalization is given up."""
    assert follow(make_reviews(*FLAT), BASE, stop_from) == expected


def test_a_decision_says_all() -> None:
    """What, from, to, why, what asked for it, what is expected, when it is judged; over how many steps."""
    decided = decide_course(make_reviews(*FLAT[:60]), [], BASE, may_stop=True)
    assert decided is not None
    assert find_finalization([decided]) is decided
    event = decided.to_event()
    assert {name: event[name] for name in ("name", "epoch", "step", "what", "from", "to", "trigger")} == {
        "name": "finalization-1",
        "epoch": 60,
        "step": 600,
        "what": "rate_factor",
        "from": 1.0,
        "to": 0.0,
        "trigger": "plateau",
    }
    assert event["why"] == "the validation loss has not improved for 59 reviews"
    assert (decided.num_judged, decided.num_steps) == (5, 50)


def test_the_detector_that_is_waited_for_is_there() -> None:
    """It is known by its name alone."""
    assert NO_LEARNING in detectors


@pytest.mark.parametrize(
    ("num", "findings", "told"),
    [
        pytest.param(49, {}, "a run of 100 epochs is not stopped before epoch 50", id="too-early"),
        pytest.param(59, {50: "no-learning"}, "no-learning was found at epoch 50", id="too-soon-after"),
        pytest.param(60, {50: "no-learning"}, "", id="late-enough"),
    ],
)
def test_what_keeps_a_run_from_being_stopped(num: int, findings: Any, told: str) -> None:
    """It is one sentence."""
    assert find_hindrance(make_reviews(*FLAT[:num], findings=findings), BASE).startswith(told)
    assert bool(find_hindrance(make_reviews(*FLAT[:num], findings=findings), BASE)) is bool(told)
