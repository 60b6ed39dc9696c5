"""The detectors of one group's trouble: what they report, and where they stay silent."""

from __future__ import annotations

from math import inf, nan

import numpy as np
import pytest

from trimtab.detectors import detect
from trimtab.history import History
from trimtab.types import Finding, Measurement

GROUPS = ("embedding", "blocks", "head")

LEVELS = (1.0, 0.01, 5.0)


def judge(newest: tuple[float, ...], *, num: float = 30, noise: float = 0.1, **settings: float) -> list[Finding]:
    """The findings on the newest norms of three groups, after a number of calm steps."""
    history = History(GROUPS)
    source = np.random.default_rng(0)
    for step in range(1, int(num) + 1):
        norms = tuple(float(level * np.exp(noise * source.standard_normal())) for level in LEVELS)
        history.append(Measurement(step, {"group_grad_norm": norms}))
        history.close(accepted=True)
    history.append(Measurement(int(num) + 1, {"group_grad_norm": newest}))
    return list(detect(history, {"group-spike": settings, "group-explosion": {}}))


@pytest.mark.parametrize(
    ("newest", "settings", "found"),
    [
        pytest.param((1.0, 5.0, 5.0), {}, [("group-spike", "blocks")], id="the-smallest-group"),
        pytest.param((1e3, 0.01, 5.0), {}, [("group-spike", "embedding")], id="the-first"),
        pytest.param((1.0, 0.01, 5e3), {}, [("group-spike", "head")], id="the-last"),
        pytest.param((1.0, 1e3, 5.0), {}, [("group-spike", "blocks"), ("group-explosion", "blocks")], id="both-limits"),
        pytest.param((1.0, 0.8, 5.0), {"times": 50}, [("group-spike", "blocks")], id="another-multiple"),
        pytest.param((1.0, 0.01, 21.0), {"above": 20}, [("group-spike", "head")], id="absolute"),
        pytest.param((1.0, 0.01, 21.0), {"above": 20, "times": 0}, [("group-spike", "head")], id="absolute-alone"),
    ],
)
def test_reports(newest: tuple[float, ...], settings: dict[str, float], found: list[tuple[str, str]]) -> None:
    """A group far above its own level is named, whatever the others are."""
    findings = judge(newest, **settings)
    assert [(finding.detector, *finding.groups) for finding in findings] == found
    assert all(finding.value > finding.limit for finding in findings)
    assert all(not finding.in_state for finding in findings)


@pytest.mark.parametrize(
    ("newest", "options"),
    [
        pytest.param(LEVELS, {}, id="at-their-levels"),
        pytest.param((90.0, 0.01, 5.0), {}, id="below-the-multiple"),
        pytest.param((1e3, 10.0, 5e3), {}, id="all-together"),
        pytest.param((1e3, 10.0, 5.0), {}, id="two-of-three-together"),
        pytest.param((0.0, 0.0, 0.0), {}, id="no-gradients"),
        pytest.param((inf, 0.01, 5.0), {}, id="infinite-is-for-nonfinite"),
        pytest.param((nan, nan, nan), {}, id="nan-is-for-nonfinite"),
        pytest.param((1.0, 5.0, 5.0), {"num": 15}, id="before-warmup"),
        pytest.param((1.0, 5.0, 5.0), {"num": 0}, id="first-step"),
        pytest.param((1.0, 5.0, 5.0), {"times": 0}, id="no-limit-at-all"),
        pytest.param((2.0, 0.04, 9.0), {"noise": 1.5}, id="noisy"),
    ],
)
def test_stays_silent(newest: tuple[float, ...], options: dict[str, float]) -> None:
    """What all groups share, what is within the limit, and what other detectors find, is no trouble of one group."""
    assert judge(newest, **options) == []


@pytest.mark.parametrize(
    ("every", "steps"),
    [
        pytest.param(2, [], id="often-enough-during-warmup"),
        pytest.param(5, [20], id="thrice-during-warmup"),
        pytest.param(50, [50, 100, 150, 200], id="seldom"),
        pytest.param(400, [400, 800], id="hardly-ever"),
    ],
)
def test_group_that_is_used_now_and_then_is_learned(every: int, steps: list[int]) -> None:
    """A head whose norm is ten thousand times as large in the steps that use it is no trouble from the fifth on."""
    history = History(GROUPS)
    found = []
    for step in range(1, 1000):
        in_use = 1.0 if step % every == 0 else 1e-4
        history.append(Measurement(step, {"group_grad_norm": (1.0, in_use, 5.0)}))
        findings = detect(history, {"group-spike": {}, "group-explosion": {}})
        history.close(accepted=not findings)
        found += [finding.step for finding in findings if finding.detector == "group-spike"]
    assert found == steps


def test_group_is_guarded_again_after_a_freeze() -> None:
    """Norms of 0, as of a group that was frozen for 200 steps, do not make its level forgotten."""
    history = History(GROUPS)
    for step in range(1, 240):
        norm = 0.0 if step > 39 else 0.01
        history.append(Measurement(step, {"group_grad_norm": (1.0, norm, 5.0)}))
        history.close(accepted=True)
    history.append(Measurement(240, {"group_grad_norm": (1.0, 1e4, 5.0)}))
    found = detect(history, {"group-spike": {}, "group-explosion": {}})
    assert [finding.detector for finding in found] == ["group-spike", "group-explosion"]


def test_group_without_level_is_left_alone() -> None:
    """A group that had no gradient yet has no level to be above."""
    history = History(GROUPS)
    for step in range(1, 30):
        history.append(Measurement(step, {"group_grad_norm": (0.0, 1.0, 1.0)}))
        history.close(accepted=True)
    history.append(Measurement(30, {"group_grad_norm": (1e9, 1.0, 1.0)}))
    assert detect(history, {"group-spike": {}, "group-explosion": {}}) == ()
    assert [finding.groups for finding in detect(history, {"group-spike": {"above": 1e4}})] == [("embedding",)]


def test_it_says_what_it_saw() -> None:
    """The message names group, norm, limit and the usual norm, which is what a clip scales down to."""
    [finding] = judge((1.0, 5.0, 5.0), noise=0.0)
    assert finding.message == "gradient norm 5 of blocks is above its limit 1 (it is usual up to 0.01)"
    assert finding.expected == pytest.approx(0.01)
