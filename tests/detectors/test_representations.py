"""The detectors of representations: what each reports, and where it stays silent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan
from typing import Any

import pytest

from trimtab import Policy
from trimtab.detectors import detect
from trimtab.detectors.representing import PUBLISHED, RELATIVE, Zones, name_zone
from trimtab.history import History
from trimtab.types import Finding, Measurement, Value

Reviews = Sequence[Mapping[str, Value]]


def judge(name: str, reviews: Reviews, **settings: float) -> list[tuple[int, Finding]]:
    """What a detector finds, with the review at which it does, the first being 0."""
    history = History()
    found = []
    for index, values in enumerate(reviews):
        history.append(Measurement(10 * index, values, clock="review"))
        found += [(index, each) for each in detect(history, {name: settings})]
        history.close(accepted=True)
    return found


def spreads(*values: float) -> list[dict[str, Value]]:
    """Reviews with these spreads, of 256 dimensions."""
    return [{"embedding_r": value, "embedding_std": value / 16} for value in values]


def recalls(scalar: float, joint: float, category: float = 0.3, ceiling: float = 1.0) -> dict[str, Value]:
    """A review with a recall by kind of column."""
    return {
        "recall_at_1": joint,
        "recall_ceiling": 1.0,
        "recall_chance": 0.01,
        "scalar_recall_at_1": scalar,
        "scalar_recall_ceiling": ceiling,
        "category_recall_at_1": category,
        "category_recall_ceiling": 1.0,
    }


def only(kind: str, *values: float) -> list[dict[str, Value]]:
    """Reviews with one metric."""
    return [{kind: value} for value in values]


def columns(*values: tuple[float, float]) -> list[dict[str, Value]]:
    """Reviews with the diversity of two columns."""
    return [
        {"column_diversity": min(each), "column_diversity_a": each[0], "column_diversity_b": each[1]} for each in values
    ]


def ranks(*values: tuple[float, float]) -> list[dict[str, Value]]:
    """Reviews with effective rank and spread."""
    return [{"effective_rank": float(rank), "embedding_r": spread} for rank, spread in values]


REPORTS: dict[str, tuple[str, Reviews, list[int]]] = {
    "collapse-after-rising": ("embedding-collapse", spreads(0.4, 0.9, 0.95, 0.2, 0.1), [3, 4]),
    "collapse-from-the-start": ("embedding-collapse", spreads(0.5, 0.1, 0.02), [1, 2]),
    "collapse-that-never-rose-much": ("embedding-collapse", spreads(0.15, 0.22, 0.22, 0.22), [2, 3]),
    "collapse-that-rises-too-slowly": ("embedding-collapse", spreads(0.002, 0.05, 0.11, 0.14), [2, 3]),
    "collapse-when-warm-up-is-over": ("embedding-collapse", spreads(*[0.25] * 12), [10, 11]),
    "shrinkage": ("embedding-shrinkage", spreads(0.3, 0.9, 0.5, 0.4), [2, 3]),
    "shrinkage-on-the-way-down": ("embedding-shrinkage", spreads(0.9, 0.5, 0.2), [1]),
    "few-directions": ("dimensional-collapse", ranks((18, 0.4), (20, 0.9), (6, 0.9), (7, 0.9)), [2]),
    "few-directions-from-the-start": ("dimensional-collapse", ranks((18, 0.4), (5, 0.9)), [1]),
    "one-sided": ("one-sided-embeddings", only("one_sidedness", 0.3, 0.2, 0.8), [2]),
    "one-sided-from-the-start": ("one-sided-embeddings", only("one_sidedness", 1.0, 0.98, 0.96), [1, 2]),
    "dead-for-two-reviews": ("dead-columns", columns((0.3, 0.3), (0.3, 0.0), (0.3, 0.0)), [2]),
    "dead-from-the-start": ("dead-columns", columns((0.3, 0.0), (0.3, 0.001), (0.3, 0.0)), [1, 2]),
    "dead-and-rising-too-slowly": ("dead-columns", columns(*[(0.3, 0.001 * each) for each in range(5)]), [1, 2, 3, 4]),
    "numbers-ignored": ("scalars-ignored", [recalls(0.4, 0.8), recalls(0.02, 0.8), recalls(0.02, 0.8)], [1]),
    "numbers-ignored-from-the-start": (
        "scalars-ignored",
        [recalls(0.02, 0.6), recalls(0.022, 0.8), recalls(0.02, 0.8)],
        [1],
    ),
    "numbers-that-rise-too-slowly": ("scalars-ignored", [recalls(0.01 + 0.006 * each, 0.8) for each in range(13)], [1]),
    "numbers-dominate": ("scalars-dominate", [recalls(0.3, 0.8), recalls(0.8, 0.8, 0.02)], [1]),
    "numbers-dominate-a-low-ceiling": ("scalars-dominate", [recalls(0.28, 0.3, 0.02, ceiling=0.3)], [0]),
}

SILENT: dict[str, tuple[str, Reviews]] = {
    "untrained": ("embedding-collapse", spreads(0.15)),
    "untrained-and-warned-of": ("embedding-shrinkage", spreads(0.4)),
    "rising": ("embedding-collapse", spreads(0.15, 0.25, 0.4, 0.6)),
    "rising-through-the-warning": ("embedding-shrinkage", spreads(0.15, 0.33, 0.45, 0.55, 0.7)),
    "falling-before-it-rises": ("embedding-collapse", spreads(0.5, 0.31, 0.6, 0.9)),
    "shrinking-before-it-rises": ("embedding-shrinkage", spreads(0.5, 0.45, 0.4, 0.6)),
    "well-trained": ("embedding-collapse", spreads(0.5, 0.9, 0.99, 0.99)),
    "recovering": ("embedding-shrinkage", spreads(0.5, 0.9, 0.57, 0.6)),
    "not-finite": ("embedding-collapse", spreads(0.5, 0.9, nan)),
    "from-random-weights-to-learned-ones": ("dimensional-collapse", ranks((32, 0.35), (12.5, 0.93), (14, 0.95))),
    "rank-of-noise": ("dimensional-collapse", ranks((16, 0.002), (1.5, 0.4), (3, 0.6))),
    "never-of-any-rank": ("dimensional-collapse", ranks((3, 0.5), (0.9, 0.5))),
    "one-sided-and-on-its-way": ("one-sided-embeddings", only("one_sidedness", 0.95, 0.85, 0.75, 0.6)),
    "half-sided": ("one-sided-embeddings", only("one_sidedness", 0.5, 0.69, 0.6)),
    "dead-once": ("dead-columns", columns((0.3, 0.3), (0.3, 0.0), (0.3, 0.2))),
    "alike-at-first": ("dead-columns", columns((0.3, 0.005), (0.3, 0.008), (0.3, 0.0099), (0.3, 0.012))),
    "alike-but-alive": ("dead-columns", columns((0.3, 0.02), (0.3, 0.02))),
    "nothing-learned-yet": ("scalars-ignored", [recalls(0.02, 0.2), recalls(0.02, 0.4)]),
    "numbers-on-their-way": ("scalars-ignored", [recalls(each, 0.8) for each in (0.05, 0.07, 0.12)]),
    "few-distinct-numbers": ("scalars-ignored", [recalls(0.06, 0.8, ceiling=0.1)]),
    "numbers-and-more": ("scalars-dominate", [recalls(0.9, 0.9, 0.3)]),
    "numbers-alone": (
        "scalars-dominate",
        [{key: each for key, each in recalls(0.9, 0.9).items() if not key.startswith("category")}],
    ),
}


@pytest.mark.parametrize(("name", "reviews", "found"), REPORTS.values(), ids=REPORTS.keys())
def test_reports(name: str, reviews: Reviews, found: list[int]) -> None:
    """It is found at these reviews, with a number in its message."""
    judged = judge(name, reviews)
    assert [index for index, _ in judged] == found
    assert all(any(sign.isdigit() for sign in each.message) for _, each in judged)


@pytest.mark.parametrize(("name", "reviews"), SILENT.values(), ids=SILENT.keys())
def test_stays_silent(name: str, reviews: Reviews) -> None:
    """Warm-up, healthy numbers and what is not known are no finding."""
    assert judge(name, reviews) == []


@pytest.mark.parametrize(
    ("std", "zone"),
    [(0.06, "random"), (0.05, "healthy"), (0.037, "recovering"), (0.03, "warning"), (0.01, "emergency")],
)
def test_published_table_is_kept(std: float, zone: str) -> None:
    """The published zones are those of any dimension at 256, and their preset judges by the letter."""
    assert name_zone({"embedding_std": std}, PUBLISHED) == zone == name_zone({"embedding_r": 16 * std})
    policy = Policy.preset("published-zones")
    history = History()
    history.append(Measurement(1, {"embedding_std": std, "embedding_r": 16 * std}, clock="review"))
    found = {each.detector for each in detect(history, policy.settings)}
    assert found == {"warning": {"embedding-shrinkage"}, "emergency": {"embedding-collapse"}}.get(zone, set())


@pytest.mark.parametrize("zones", [RELATIVE, PUBLISHED], ids=["relative", "published"])
def test_far_apart_is_healthy_where_recall_says_so(zones: Zones) -> None:
    """A well-trained contrastive model is as far apart as random numbers; recall tells them apart."""
    metrics: dict[str, Any] = {
        "embedding_std": 0.062,
        "embedding_r": 0.99,
        "recall_ceiling": 1.0,
        "recall_chance": 0.01,
    }
    assert name_zone(metrics | {"recall_at_1": 0.6}, zones) == "healthy"
    assert name_zone(metrics | {"recall_at_1": 0.02}, zones) == "random"


def test_limits_are_settings() -> None:
    """Other limits find other reviews."""
    assert [index for index, _ in judge("embedding-collapse", spreads(0.9, 0.95, 0.5), limit=0.6)] == [2]
    assert [index for index, _ in judge("dimensional-collapse", ranks((20, 0.9), (8, 0.9)), share=0.5)] == [1]
