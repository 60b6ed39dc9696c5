"""The quality score: its parts, what stands in for what was not measured, and that nothing worse gives a better one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf, isnan, nan

import pytest
from hypothesis import given, settings, strategies as st

from trimtab.diagnosis.quality import Quality, rate_quality
from trimtab.history import History
from trimtab.types import Measurement, Value

Step = tuple[float, tuple[float, float], bool]
"""A step: its gradient norm, those of two groups, and whether it was accepted."""

SOUND: Step = (1.0, (0.8, 0.6), True)


def make_steps(steps: Sequence[Step]) -> History:
    """A history of steps, whose groups have weights."""
    history = History(["first", "second"])
    for step, (norm, by_group, is_accepted) in enumerate(steps, 1):
        values: dict[str, Value] = {
            "loss": 1.0,
            "grad_norm": norm,
            "group_grad_norm": by_group,
            "weight_norm": (3.0, 2.0),
        }
        history.append(Measurement(step, values))
        history.close(accepted=is_accepted)
    return history


def make_reviews(ranks: Sequence[float] = ()) -> History:
    """Reviews before the first step, with these effective ranks."""
    history = History()
    for rank in ranks:
        history.append(Measurement(0, {"effective_rank": rank}, "review"))
        history.close(accepted=True)
    return history


def rate(
    metrics: Mapping[str, float] | None = None, steps: Sequence[Step] = (SOUND,) * 20, ranks: Sequence[float] = ()
) -> Quality:
    """The quality of a run."""
    return rate_quality(make_steps(steps), make_reviews(ranks), metrics or {})


BEST = {"embedding_r": 0.9, "effective_rank": 30.0, "recall_at_1": 0.8, "recall_ceiling": 0.8, "recall_chance": 0.01}


@pytest.mark.parametrize(
    ("metrics", "parts"),
    [
        pytest.param(BEST, (40.0, 30.0, 30.0), id="all-of-it"),
        pytest.param({}, (None, 30.0, None), id="neither-embeddings-nor-ranking"),
        pytest.param({"embedding_r": 0.48}, (20.0, 30.0, None), id="half-way-to-healthy"),
        pytest.param({"embedding_r": 0.3}, (0.0, 30.0, None), id="emergency"),
        pytest.param({"embedding_r": nan}, (0.0, 30.0, None), id="embeddings-that-are-not-finite"),
        pytest.param(BEST | {"effective_rank": 15.0}, (20.0, 30.0, 30.0), id="half-of-the-best-rank"),
        pytest.param(BEST | {"effective_rank": 9.0}, (0.0, 30.0, 30.0), id="dimensions-collapsed"),
        pytest.param(BEST | {"recall_at_1": 0.01}, (40.0, 30.0, 0.0), id="recall-of-chance"),
        pytest.param({"recall_at_1": 0.5}, (None, 30.0, 15.0), id="recall-without-a-ceiling"),
        pytest.param({"accuracy": 0.9, "recall_at_1": 0.5}, (None, 30.0, 15.0), id="recall-before-accuracy"),
        pytest.param({"accuracy": 0.9}, (None, 30.0, 27.0), id="accuracy"),
    ],
)
def test_parts(metrics: Mapping[str, float], parts: tuple[float | None, float | None, float | None]) -> None:
    """Each part has the points that its numbers are worth."""
    quality = rate(metrics, ranks=[30.0])
    assert (quality.embeddings, quality.gradients, quality.ranking) == pytest.approx(parts)


@pytest.mark.parametrize(
    ("steps", "points"),
    [
        pytest.param([SOUND] * 15 + [(nan, (nan, nan), False)] * 5, 22.5, id="a-quarter-not-finite"),
        pytest.param([SOUND] * 18 + [(90.0, (80.0, 40.0), False)] * 2, 27.0, id="a-tenth-rejected"),
        pytest.param([(1e-5, (8e-6, 6e-6), True)] * 20, 15.0, id="nearly-vanished"),
        pytest.param([(1e-7, (8e-8, 6e-8), True)] * 20, 0.0, id="dead"),
        pytest.param([(1.0, (1.0, 1e-6), True)] * 20, 15.0, id="one-of-two-groups-not-reached"),
    ],
)
def test_gradients(steps: Sequence[Step], points: float) -> None:
    """Unsound steps, vanished gradients and groups that none reaches cost points."""
    assert rate(steps=steps).gradients == pytest.approx(points)


def test_small_losses_have_small_gradients() -> None:
    """The gradient of a network that has converged is not held against it."""
    steps = [(1e-5, (8e-6, 6e-6), True)] * 20
    assert rate({"train_loss": 1e-2}, steps).gradients == pytest.approx(30.0)


@pytest.mark.parametrize(
    ("metrics", "possible", "score"),
    [
        pytest.param(BEST, 100.0, 100.0, id="all-of-it"),
        pytest.param({"recall_at_1": 0.5}, 60.0, 75.0, id="no-embeddings"),
        pytest.param({"embedding_r": 0.48}, 70.0, 500 / 7, id="no-ranking"),
        pytest.param({}, 30.0, 100.0, id="gradients-alone"),
    ],
)
def test_what_is_not_measured_counts_on_neither_side(
    metrics: Mapping[str, float], possible: float, score: float
) -> None:
    """Points are never given for what was not measured: the score is a share of the possible ones, which are told."""
    told = rate(metrics).to_metrics()
    assert told["quality_possible"] == possible
    assert told["quality_score"] == pytest.approx(score)
    assert ("quality_ranking" in told) is ("recall_at_1" in metrics)


def test_nothing_measured_is_no_score() -> None:
    """Without a single part there is no score, neither 0 nor 100."""
    nothing = rate_quality(History(), History(), {"val_loss": 1.0})
    assert nothing.to_metrics() == {}
    assert isnan(nothing.score)


def test_only_steps_since_the_review_before_count() -> None:
    """What was mended by the review before is not counted again."""
    steps = make_steps([(inf, (inf, inf), False)] * 30 + [SOUND] * 20)
    reviews = History()
    reviews.append(Measurement(30, {"val_loss": 1.0}, "review"))
    assert rate_quality(steps, reviews, {}).gradients == 30.0


norms = st.floats(1e-9, 1e3)
steps_drawn = st.lists(st.tuples(norms, st.tuples(norms, norms), st.booleans()), min_size=1, max_size=30)
shares = st.floats(0, 1)
metrics_drawn = st.fixed_dictionaries(
    {},
    optional={
        "embedding_r": shares,
        "effective_rank": st.floats(0, 100),
        "recall_at_1": shares,
        "recall_ceiling": shares,
        "recall_chance": shares,
        "train_loss": st.floats(-10, 10),
    },
)


@settings(deadline=None)
@given(steps=steps_drawn, metrics=metrics_drawn, ranks=st.lists(st.floats(0, 100), max_size=4))
def test_the_score_is_from_0_to_100(steps: list[Step], metrics: dict[str, float], ranks: list[float]) -> None:
    """Whatever is measured, no part has less than no points or more than all of them."""
    told = rate(metrics, steps, ranks).to_metrics()
    assert 0 <= told["quality_score"] <= 100
    assert 0 <= told["quality_gradients"] <= 30
    assert 0 <= told.get("quality_embeddings", 0) <= 40
    assert 0 <= told.get("quality_ranking", 0) <= 30


@settings(deadline=None)
@given(
    steps=steps_drawn,
    metrics=metrics_drawn,
    ranks=st.lists(st.floats(0, 100), max_size=4),
    name=st.sampled_from(["embedding_r", "effective_rank", "recall_at_1"]),
    worse=st.just(nan) | st.just(inf) | shares,
)
def test_a_worse_metric_never_gives_a_better_score(
    steps: list[Step], metrics: dict[str, float], ranks: list[float], name: str, worse: float
) -> None:
    """Less spread, fewer directions, less recall, or numbers that are not finite: never a point more."""
    metrics.setdefault(name, 0.5)
    spoilt = metrics | {name: worse * metrics[name]}
    assert rate(spoilt, steps, ranks).score <= rate(metrics, steps, ranks).score + 1e-9


def reject(step: Step) -> Step:
    """A step whose update was not made."""
    return (step[0], step[1], False)


def break_norm(step: Step) -> Step:
    """The same step with a gradient that is not finite."""
    return (nan, (nan, nan), step[2])


@settings(deadline=None)
@given(steps=steps_drawn, index=st.integers(0, 29), spoil=st.sampled_from([reject, break_norm]))
def test_an_unsound_step_never_gives_a_better_score(
    steps: list[Step], index: int, spoil: Callable[[Step], Step]
) -> None:
    """A step that is rejected or not finite, beside others of equal reach: never a point more."""
    alike = [(norm, (0.8 * norm, 0.6 * norm), is_accepted) for norm, _, is_accepted in steps]
    spoilt = list(alike)
    spoilt[index % len(alike)] = spoil(alike[index % len(alike)])
    assert rate(steps=spoilt).score <= rate(steps=alike).score + 1e-9


@settings(deadline=None)
@given(steps=steps_drawn, factor=shares)
def test_smaller_gradients_never_give_a_better_score(steps: list[Step], factor: float) -> None:
    """All gradients smaller by the same factor, or those of the group with the smaller ones: never a point more."""
    smaller = [(factor * norm, (factor * first, factor * second), ok) for norm, (first, second), ok in steps]
    assert rate(steps=smaller).score <= rate(steps=steps).score + 1e-9
    ordered = [(norm, (first + second, second), ok) for norm, (first, second), ok in steps]
    shrunk = [(norm, (first, factor * second), ok) for norm, (first, second), ok in ordered]
    assert rate(steps=shrunk).score <= rate(steps=ordered).score + 1e-9
