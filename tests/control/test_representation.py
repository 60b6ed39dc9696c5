"""What is done about representations: told from reviews and what was done alone, and carried out by the guard."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trimtab import InputError, Policy, Supervisor
from trimtab.control.course import Adaptation
from trimtab.control.guarding import RepresentationGuard
from trimtab.control.remedies import RULES
from trimtab.control.representation import (
    FLOOR,
    MOST_RAISES,
    Situation,
    decide_answer,
)
from trimtab.control.review import Review
from trimtab.detectors import detectors

COLLAPSED, SHRUNK, FEW, DEAD = "embedding-collapse", "embedding-shrinkage", "dimensional-collapse", "dead-columns"

Row = tuple[float, float, float, Sequence[str]]
"""Spread, recall, rank and findings of a review."""

WELL: Row = (0.95, 0.5, 20.0, ())


def make_reviews(rows: Sequence[Row]) -> list[Review]:
    """One review an epoch."""
    return [
        Review(
            index, 10 * index, {"embedding_r": r, "recall_at_1": recall, "effective_rank": rank}, findings=tuple(found)
        )
        for index, (r, recall, rank, found) in enumerate(rows, start=1)
    ]


def follow(rows: Sequence[Row], **initial: float) -> tuple[list[Adaptation], dict[str, float]]:
    """All that is decided, review by review, and where the knobs are to be at the end."""
    reviews, made = make_reviews(rows), list[Adaptation]()
    started = initial or {"spread": 0.5}
    targets = dict(started)
    for num in range(1, len(reviews) + 1):
        situation = Situation(reviews=reviews[:num], past=made, targets=targets, initial=started, kept=2)
        for each in decide_answer(situation):
            made.append(each)
            if each.kind in ("nudge", "relaxation"):
                assert each.before == targets[each.what]
                targets[each.what] = each.after
    return made, targets


def tell(made: Sequence[Adaptation]) -> list[tuple[str, int]]:
    """Kind and review of each, a review's nudges as one."""
    return list(dict.fromkeys((each.kind, each.num_reviews) for each in made))


def test_every_rule_answers_a_detector() -> None:
    """The rules name detectors that there are."""
    assert set(RULES) <= set(detectors)


def test_a_healthy_run_is_left_alone() -> None:
    """Nothing is decided where nothing is found, and no weight is lowered that was not raised."""
    assert follow([WELL] * 20, spread=0.5, diversity=0.1) == ([], {"spread": 0.5, "diversity": 0.1})


FACTORS: dict[str, tuple[str, dict[str, float], dict[str, float]]] = {
    "emergency": (
        COLLAPSED,
        {"spread": 1.0, "diversity": 1.0, "diversity_temperature": 1.0, "marginal": 1.0, "joint": 1.0},
        {"spread": 1.5, "diversity": 1.3, "diversity_temperature": 0.8, "marginal": 0.8, "joint": 1.0},
    ),
    "warning": (
        SHRUNK,
        {"spread": 1.0, "diversity": 1.0, "marginal": 1.0},
        {"spread": 1.2, "diversity": 1.1, "marginal": 1.0},
    ),
    "from-zero": (COLLAPSED, {"spread": 0.0}, {"spread": 1.5 * FLOOR}),
    "from-next-to-nothing": (SHRUNK, {"spread": 0.01}, {"spread": 1.2 * FLOOR}),
    "hot": (FEW, {"temperature": 5.0}, {"temperature": 0.5}),
    "cold": (FEW, {"temperature": 0.02}, {"temperature": 0.02}),
    "cool": (FEW, {"temperature": 0.3}, {"temperature": 0.2}),
}


@pytest.mark.parametrize(("found", "before", "after"), FACTORS.values(), ids=FACTORS.keys())
def test_factors(found: str, before: dict[str, float], after: dict[str, float]) -> None:
    """Each alarm multiplies the weights by its factors, from the floor up; a knob it does not know stays."""
    _, targets = follow([WELL, WELL, (0.2, 0.5, 20.0, [found])], **before)
    assert targets == pytest.approx(after)


def test_four_raises_then_back_then_four_more() -> None:
    """Without an improvement weights are raised four times, then the model goes back, as long as they can be raised."""
    made, targets = follow([WELL, WELL, *[(0.1, 0.4, 20.0, [COLLAPSED])] * 25], spread=0.0)
    once = ["nudge"] * MOST_RAISES + ["restoration"]
    assert [kind for kind, _ in tell(made)] == [*once, *once, "exhaustion"]
    assert targets["spread"] == 1.0  # and no more
    made, targets = follow([WELL, WELL, *[(0.1, 0.4, 20.0, [COLLAPSED])] * 25], spread=8.0)
    assert [kind for kind, _ in tell(made)] == [*once, "exhaustion"]
    assert targets["spread"] == 32.0  # four times what it was


def test_a_second_collapse_has_four_raises_of_its_own() -> None:
    """What was done before a recovery does not count."""
    alarm: Row = (0.1, 0.4, 20.0, [COLLAPSED])
    made, _ = follow([WELL, WELL, *[alarm] * 3, *[WELL] * 3, *[alarm] * 5], spread=0.0)
    kinds = [each for each in tell(made) if each[0] != "relaxation"]
    assert kinds[:4] == [("nudge", 3), ("nudge", 4), ("nudge", 5), ("recovery", 6)]
    assert kinds[4:] == [("nudge", 9), ("nudge", 10), ("nudge", 11), ("nudge", 12), ("restoration", 13)]


def test_without_a_weight_to_raise_it_goes_back_once() -> None:
    """A run that has none of the knobs goes back after as many reviews, and no second time: it would go as it went."""
    made, _ = follow([WELL, WELL, *[(0.1, 0.4, 20.0, [COLLAPSED])] * 25], joint=1.0)
    assert [kind for kind, _ in tell(made)] == ["restoration", "exhaustion"]
    assert made[0].num_reviews == 2 + MOST_RAISES + 1


def test_what_is_lowered_is_not_lowered_away() -> None:
    """A weight that an alarm lowers ends at a quarter of what it was, however long the alarm lasts."""
    rows: list[Row] = [(0.1 + 0.02 * each, 0.4, 20.0, [COLLAPSED]) for each in range(10)]
    _, targets = follow([WELL, WELL, *rows], spread=0.1, marginal=0.4, diversity_temperature=0.1)
    assert (targets["marginal"], targets["diversity_temperature"]) == pytest.approx((0.1, 0.025))


def test_improvement_earns_more_raises() -> None:
    """As long as the spread rises by a tenth from one review to a later one, weights are raised and none goes back."""
    rows: list[Row] = [(0.05 * 1.2**index, 0.4, 20.0, [COLLAPSED]) for index in range(10)]
    made, _ = follow([WELL, WELL, *rows], spread=0.0)
    assert {kind for kind, _ in tell(made)} == {"nudge"}
    assert len(tell(made)) >= 7


def test_recovery_needs_recall_and_rank() -> None:
    """Rows that are apart again are no recovery while recall is away; the model goes back, and is declared well."""
    alarm: Row = (0.2, 0.3, 20.0, [COLLAPSED])
    made, _ = follow([WELL, WELL, alarm, *[(0.95, 0.3, 20.0, ())] * 7, WELL])
    assert tell(made) == [("nudge", 3), ("restoration", 8), ("recovery", 11)]
    made, _ = follow([WELL, WELL, alarm, *[(0.95, 0.5, 5.0, ())] * 3, WELL])
    assert tell(made)[-1] == ("recovery", 7)


def test_what_is_worth_more_is_not_left() -> None:
    """A model whose recall is above that of the state before the collapse does not go back, whatever its rank."""
    made, _ = follow([WELL, WELL, (0.2, 0.3, 20.0, [COLLAPSED]), *[(0.95, 0.6, 5.0, ())] * 12])
    assert tell(made) == [("nudge", 3)]


def test_a_raised_weight_is_given_back_slowly() -> None:
    """× 0.95 a review once all is well, to what it was, or half of what it was raised to."""
    made, targets = follow([WELL, WELL, (0.2, 0.5, 20.0, [COLLAPSED]), *[WELL] * 40], spread=0.5)
    assert tell(made)[:3] == [("nudge", 3), ("recovery", 4), ("relaxation", 5)]
    first = next(each for each in made if each.kind == "relaxation")
    assert first.after == pytest.approx(0.95 * first.before)
    assert targets["spread"] == pytest.approx(0.5)
    _, targets = follow([WELL, WELL, (0.2, 0.5, 20.0, [COLLAPSED]), *[WELL] * 40], spread=0.0)
    assert targets["spread"] == pytest.approx(0.75 * FLOOR)


class Loop:
    """A model of one layer whose embeddings a test sets, beside a supervisor and a guard."""

    def __init__(self, policy: Policy | None = None, **kwargs: Any) -> None:
        self.model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.weights = {"spread": 0.0}
        self.supervisor = Supervisor(self.model, self.optimizer, policy=policy)
        self.guard = RepresentationGuard(self.supervisor, self.weights, **kwargs)

    def step(self) -> None:
        """One step."""
        loss = self.model(torch.randn(8, 4)).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.supervisor.check(loss)
        self.optimizer.step()

    def run(self, *sizes: float, columns: Any = None) -> Loop:
        """Reviews of rows this far from a common point, each after three steps."""
        for size in sizes:
            for _ in range(3):
                self.step()
            noise = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
            rows = torch.ones(64, 8) + size * noise
            self.supervisor.review(embeddings=rows, views=rows, columns=columns)
        return self


APART, SAME = 100.0, 0.01


def weight_of(layer: nn.Module) -> Tensor:
    """The weight of a linear layer."""
    assert isinstance(layer, nn.Linear)
    return layer.weight


def flatten(state: Any) -> list[Tensor]:
    """Every tensor of a state."""
    if isinstance(state, Tensor):
        return [state]
    return [
        each
        for value in (state.values() if isinstance(state, dict) else state if isinstance(state, list) else ())
        for each in flatten(value)
    ]


def test_going_back_is_bit_for_bit_and_leaves_the_schedule() -> None:
    """Parameters and moments are those of the last healthy review; learning rate and knobs go on."""
    loop = Loop().run(APART, APART)
    kept = copy.deepcopy([loop.model.state_dict(), loop.optimizer.state_dict()["state"]])
    loop.run(SAME)
    loop.optimizer.param_groups[0]["lr"] = 7e-4
    loop.run(*[SAME] * MOST_RAISES)
    assert loop.guard.made[-1].kind == "restoration"
    now = [loop.model.state_dict(), loop.optimizer.state_dict()["state"]]
    assert all(torch.equal(first, second) for first, second in zip(flatten(kept), flatten(now), strict=True))
    assert loop.optimizer.param_groups[0]["lr"] == 7e-4
    assert loop.weights["spread"] > FLOOR


def test_a_loss_that_changed_is_no_spike() -> None:
    """Where it is declared, levels begin anew: a loss a hundred times as high is no finding; undeclared, it is."""
    loop = Loop()

    def proceeds(factor: float) -> bool:
        loss = factor * loop.model(torch.ones(8, 4)).square().mean()
        loop.optimizer.zero_grad()
        loss.backward()
        return loop.supervisor.check(loss).proceed

    assert all(proceeds(1.0) for _ in range(20))
    loop.supervisor.declare_loss_change()
    assert all(proceeds(100.0) for _ in range(20))
    assert not proceeds(10_000.0)


def test_a_dead_column_is_made_anew() -> None:
    """Its module draws its parameters again, its moments are forgotten, and the rest keeps every bit."""
    loop = Loop()
    loop.guard = RepresentationGuard(loop.supervisor, loop.weights, columns={"a": loop.model[0]})
    before = copy.deepcopy(loop.model.state_dict())
    columns = {"a": (range(64), torch.ones(64, 3)), "b": (range(64), torch.eye(64))}
    loop.run(APART, columns=columns)
    other = weight_of(loop.model[1]).clone()
    loop.run(APART, columns=columns)
    assert [(each.kind, each.what) for each in loop.guard.made] == [("renewal", "a")]
    assert not torch.equal(weight_of(loop.model[0]), before["0.weight"])
    assert weight_of(loop.model[0]) not in loop.optimizer.state
    assert weight_of(loop.model[1]) in loop.optimizer.state
    assert other.shape == weight_of(loop.model[1]).shape


def test_every_rank_draws_the_same() -> None:
    """A module made anew is the same whatever was drawn before, another one is another, and nothing else is drawn."""
    drawn = []
    for seed in range(2):
        loop = Loop()
        torch.manual_seed(seed)
        for layer in loop.model:
            loop.supervisor.renew(layer)
        drawn.append([weight_of(layer).clone() for layer in loop.model])
        after = torch.rand(1)
        torch.manual_seed(seed)
        assert after == torch.rand(1)
    assert all(map(torch.equal, *drawn))
    assert not torch.equal(*drawn[0])
    with pytest.raises(InputError, match="the Linear is no part of the model"):
        Loop().supervisor.renew(nn.Linear(1, 1))


def test_a_policy_without_the_detectors_has_no_guard() -> None:
    """What is not looked for is not answered."""
    policy = Policy.from_dict({"detectors": {name: {"enabled": False} for name in RULES}})
    assert Loop(policy).run(APART, *[SAME] * 3).guard.made == []


def test_the_supervisors_state_holds_the_guard() -> None:
    """Saved and loaded with the supervisor, it goes on with the same weights, counts and effects."""
    loop = Loop().run(APART, APART, SAME, SAME)
    other = Loop()
    other.model.load_state_dict(loop.model.state_dict())
    other.optimizer.load_state_dict(loop.optimizer.state_dict())
    other.supervisor.load_state_dict(loop.supervisor.state_dict())
    assert other.weights == loop.weights
    assert (other.guard.made, other.guard.outcomes) == (loop.guard.made, loop.guard.outcomes)
    assert other.run(SAME).guard.made[-1] == loop.run(SAME).guard.made[-1]


def test_a_knob_of_the_loops_own() -> None:
    """It moves the same way, is an event with its effect, and no episode of the guard."""
    loop = Loop()
    loop.weights["mixup"] = 1.0
    with pytest.raises(InputError, match="mixup cannot move before the first review"):
        loop.guard.nudge("mixup", 0.2, "labels are noisy")
    loop.run(APART)
    loop.guard.nudge("mixup", 0.2, "labels are noisy", 4)
    seen = []
    for _ in range(5):
        loop.run(APART)
        seen.append(loop.weights["mixup"])
    assert seen == pytest.approx([0.2 + 0.8 * each for each in (0.854, 0.5, 0.146, 0, 0)], abs=1e-3)
    (request,) = loop.guard.made
    assert (request.name, request.what, request.before, request.after) == ("request-1", "mixup", 1.0, 0.2)
    assert [(each.of, each.verdict) for each in loop.guard.outcomes] == [("request-1", "no effect")]
    with pytest.raises(InputError, match="there is no 'cutmix'"):
        loop.guard.nudge("cutmix", 0.2, "labels are noisy")


def test_a_weight_that_comes_later_is_guarded_too() -> None:
    """A dict of weights may grow while the run goes on."""
    loop = Loop().run(APART)
    loop.weights["centring"] = 0.0
    loop.run(*[SAME] * 2)
    assert {each.what for each in loop.guard.made} == {"spread", "centring"}


def test_wrong_columns_are_refused() -> None:
    """A column has to be a part of the model."""
    with pytest.raises(InputError, match="columns is a 'list'; it has to be a dict"):
        Loop(columns=["a"])
    with pytest.raises(InputError, match="its MultiheadAttention has parameters and no method reset_parameters"):
        Loop(columns={"a": nn.MultiheadAttention(4, 2)})
    with pytest.raises(InputError, match="the column 'a' is a 'str'; it has to be a Module"):
        Loop(columns={"a": "x"})
