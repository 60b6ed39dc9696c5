"""One group of forty explodes: it is clipped, dropped, frozen; the others are trained as if nothing had been."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.scenarios.numbers.towers import BAD_TOWER, TowerRun
from trimtab import InputError, Policy, Response

GROUP = f"towers.{BAD_TOWER}"

CALM = 30
"""Steps before the explosion, enough for every group to have a level."""

POLICIES = [pytest.param(None, id="default"), pytest.param(Policy.preset("three-tier"), id="three-tier")]


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    """Bit for bit."""
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.fixture(scope="module")
def healthy() -> TowerRun:
    """A run without explosion and without a supervisor."""
    return TowerRun(guarded=False).run(CALM + 20)


@pytest.mark.parametrize("policy", POLICIES)
def test_only_the_group_that_explodes_is_dropped_and_frozen(policy: Policy | None, healthy: TowerRun) -> None:
    """A tower driven to 1e8 is dropped three times and frozen; the other thirty-nine are bit-identical."""
    run = TowerRun(policy=policy).run(CALM)
    assert run.supervisor is not None
    before = run.capture(bad=True)
    run.run(6, norm=1e8).run(14)
    assert_same(run.capture(bad=False), healthy.capture(bad=False))
    assert_same(run.capture(bad=True), before)
    assert [decision.verdict for decision in run.decisions] == ["proceed"] * CALM + ["drop"] * 3 + ["proceed"] * 17
    assert {each.groups for decision in run.decisions for each in decision.responses} == {(GROUP,)}
    assert run.supervisor.frozen == (GROUP,)


@pytest.mark.parametrize(
    ("policy", "norm"),
    [
        pytest.param(None, 2e3, id="default"),
        pytest.param(Policy.preset("three-tier"), 2e4, id="three-tier"),
    ],
)
def test_only_the_group_that_spikes_is_clipped(policy: Policy | None, norm: float, healthy: TowerRun) -> None:
    """A tower with a spike is clipped down to its level, keeping its direction; the others are bit-identical."""
    run = TowerRun(policy=policy).run(CALM).run(1, norm=norm)
    [response] = run.decisions[-1].responses
    kept = torch.cat([each.flatten() for each in run.gradients if each is not None])
    driven = torch.cat([each.flatten() for each in run.driven])
    assert (response.kind, response.groups) == ("clip", (GROUP,))
    assert response.limit is not None
    assert float(kept.norm()) == pytest.approx(response.limit, rel=1e-5)
    assert response.limit < norm / 100
    assert float(torch.nn.functional.cosine_similarity(kept, driven, dim=0)) == pytest.approx(1.0, abs=1e-6)
    assert_same(run.run(19).capture(bad=False), healthy.capture(bad=False))


def test_absolute_preset_acts_on_a_group_that_is_always_large() -> None:
    """The absolute table clips whatever is above 1e4, even before any group has a level."""
    run = TowerRun(policy=Policy.preset("three-tier")).run(2, norm=2e4)
    assert [decision.responses for decision in run.decisions] == [(Response("clip", (GROUP,), limit=1e4),)] * 2


def test_freeze_ends_by_itself() -> None:
    """After the policy's number of steps the group is trained again."""
    run = TowerRun(policy=Policy.from_dict({"freeze_steps": 5})).run(CALM).run(3, norm=1e8)
    before = run.capture(bad=True)
    assert_same(run.run(5).capture(bad=True), before)
    run.run(1)
    assert run.supervisor is not None
    assert run.supervisor.frozen == ()
    assert all(each is not None for each in run.gradients)


def test_group_is_frozen_and_thawed_by_hand() -> None:
    """`freeze` keeps every bit of a group, and `thaw` lets it be trained again."""
    run = TowerRun().run(3)
    assert run.supervisor is not None
    run.supervisor.freeze(GROUP, "towers.3")
    before = run.capture(bad=True)
    assert_same(run.run(5).capture(bad=True), before)
    run.supervisor.thaw(GROUP)
    assert run.supervisor.frozen == ("towers.3",)
    assert not torch.equal(next(iter(run.run(1).capture(bad=True).values())), next(iter(before.values())))


def test_resume_keeps_a_freeze() -> None:
    """A freeze goes on after the supervisor's state was saved and loaded."""
    first = TowerRun().run(CALM).run(3, norm=1e8)
    assert first.supervisor is not None
    second = TowerRun()
    assert second.supervisor is not None
    second.model.load_state_dict(first.model.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.supervisor.load_state_dict(first.supervisor.state_dict())
    second.step = first.step
    before = second.capture(bad=True)
    assert_same(second.run(3).capture(bad=True), before)
    assert second.supervisor.frozen == (GROUP,)


@pytest.mark.parametrize("call", ["freeze", "thaw"])
def test_unknown_group_is_refused(call: str) -> None:
    """A group that does not exist is answered with those that do."""
    run = TowerRun()
    with pytest.raises(InputError, match=f"{call}: there is no group 'tower'; there are towers.0, towers.1, "):
        getattr(run.supervisor, call)("tower")


def test_health_is_a_table_by_name() -> None:
    """The gradient health names every group with its norm, average, level and band."""
    run = TowerRun().run(CALM).run(1, norm=20.0)
    assert run.supervisor is not None
    health = run.supervisor.health()
    bands: dict[str, Any] = {each.group: each.band for each in health.groups}
    assert bands["(total)"] == "critical"
    assert bands[GROUP] == "critical"
    assert {band for group, band in bands.items() if group not in ("(total)", GROUP)} == {"healthy"}
    lines = str(health).splitlines()
    assert lines[0] == f"gradient health at step {CALM + 1}"
    assert lines[1].split() == ["group", "norm", "average", "level", "band"]
    assert len(lines) == 2 + 41
