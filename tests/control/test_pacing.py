"""Bounded changes of the learning rate on top of the schedule."""

from __future__ import annotations

from dataclasses import replace

import pytest

from trimtab.control.course import Adaptation, Rules, find_rate_factor
from trimtab.control.outcomes import Outcome, judge_adaptation
from trimtab.control.pacing import LEAST_FACTOR, MOST_FACTOR, decide_rate, decide_return, find_room
from trimtab.control.review import Review

RULES = Rules(epochs=100, patience=10, is_adaptive=True)


def make_reviews(scores: list[float], rates: list[float] | None = None) -> list[Review]:
    """One review an epoch, ten steps apart."""
    held = rates or [0.1] * len(scores)
    return [
        Review(epoch, 10 * epoch, {"val_loss": score, "learning_rate": rate})
        for epoch, (score, rate) in enumerate(zip(scores, held, strict=True), start=1)
    ]


def follow(reviews: list[Review], rules: Rules = RULES) -> list[tuple[str, int, float]]:
    """All that is decided, review by review: name, epoch and the factor from then on."""
    past: list[Adaptation] = []
    outcomes: list[Outcome] = []
    for num in range(1, len(reviews) + 1):
        judged = {each.of for each in outcomes}
        new = [judge_adaptation(each, reviews[:num]) for each in past if each.name not in judged]
        outcomes += [each for each in new if each is not None]
        decided = decide_return(reviews[:num], past, outcomes) or decide_rate(reviews[:num], past, outcomes, rules)
        past += [] if decided is None else [decided]
    return [(each.name, each.epoch, each.after) for each in past]


FALLING = [2.0 - 0.05 * n for n in range(30)]
FLAT = [1.0] * 40

PACES: dict[str, tuple[list[Review], Rules, list[tuple[str, int, float]]]] = {
    "not-asked-for": (make_reviews(FLAT), replace(RULES, is_adaptive=False), []),
    "flat-and-nothing-helps": (
        make_reviews(FLAT),
        RULES,
        [("cool-1", 6, 0.5), ("return-1", 11, 1.0)],
    ),
    "cooling-helps": (make_reviews([*[1.0] * 6, *[0.5] * 5]), RULES, [("cool-1", 6, 0.5)]),
    "learning-on": (make_reviews([1 / (n + 1) for n in range(40)]), RULES, []),
    "warming-up": (make_reviews(FLAT[:20], [0.01 * n for n in range(20)]), RULES, []),
    "steady-fall": (
        make_reviews(FALLING[:16]),
        RULES,
        [("raise-1", 11, 1.25), ("return-1", 16, 1.0)],
    ),
}


@pytest.mark.parametrize(("reviews", "rules", "expected"), PACES.values(), ids=PACES.keys())
def test_when_it_is_changed(reviews: list[Review], rules: Rules, expected: list[tuple[str, int, float]]) -> None:
    """Less on a plateau, more on a steady fall, and given back once it is judged not to have helped."""
    assert follow(reviews, rules) == expected


@pytest.mark.parametrize("scores", [FALLING * 3, FLAT * 3, [*FLAT, *FALLING] * 3], ids=["falls", "flat", "both"])
def test_it_stays_within_its_bounds(scores: list[float]) -> None:
    """Whatever the reviews say, and each kind is given back twice at most."""
    decided = follow(make_reviews(scores))
    assert all(LEAST_FACTOR <= factor <= MOST_FACTOR for *_, factor in decided)
    names = [name.split("-")[0] for name, *_ in decided]
    assert names.count("return") <= 4


def test_one_change_at_a_time() -> None:
    """As long as fresh data are not judged, nothing else is changed."""
    reviews = make_reviews(FLAT[:12])
    rotation = Adaptation("rotation-1", "rotation", 10, 10, 100, "partition", 0, 1, "plateau", "why", "more", 5)
    assert decide_rate(reviews, [rotation], [], RULES) is None
    assert find_rate_factor([rotation]) == 1.0


@pytest.mark.parametrize(
    ("scores", "has_room"),
    [
        pytest.param(FALLING[:11], True, id="straight"),
        pytest.param([2.0 - 0.01 * n**1.5 for n in range(11)], True, id="faster-and-faster"),
        pytest.param([1 / (n + 1) for n in range(11)], False, id="slower-and-slower"),
        pytest.param([*FALLING[:5], 1.9, *FALLING[5:10]], False, id="with-a-bump"),
        pytest.param([1 - 1e-4 * n for n in range(11)], False, id="hardly"),
        pytest.param(FALLING[:10], False, id="too-few"),
    ],
)
def test_room_to_push(scores: list[float], has_room: bool) -> None:
    """A loss that falls by as much as before at each review has room, and none else."""
    assert (find_room(make_reviews(scores), 5) is not None) is has_room
