"""`weight-jump`: what it reports, and where it stays silent."""

from __future__ import annotations

from math import inf, nan

import pytest
import torch

from tests.laws.spoils import ruin_after_update
from tests.laws.training import capture_weights, list_differences, make_training
from trimtab import Policy
from trimtab.detectors import detect
from trimtab.history import History
from trimtab.types import Finding, Measurement


def judge(newest: tuple[float, ...], num: int = 20, before: tuple[float, ...] = (10.0, 0.1, 0.0)) -> list[Finding]:
    """The findings on the newest norms of three groups, after calm steps."""
    history = History(("body", "norm", "new"))
    for step in range(1, num + 1):
        history.append(Measurement(step, {"weight_norm": before}))
        history.close(accepted=True)
    history.append(Measurement(num + 1, {"weight_norm": newest}))
    return list(detect(history, {"weight-jump": {}}))


@pytest.mark.parametrize(
    ("newest", "groups"),
    [
        pytest.param((101.0, 0.1, 0.0), ["body"], id="the-first"),
        pytest.param((10.0, 1.1, 0.0), ["norm"], id="a-small-group"),
        pytest.param((1e18, 1e18, 0.0), ["body", "norm"], id="two"),
    ],
)
def test_reports(newest: tuple[float, ...], groups: list[str]) -> None:
    """A group whose weights are more than ten times what they were is named, and the state is at fault."""
    found = judge(newest)
    assert [finding.groups for finding in found] == [(group,) for group in groups]
    assert all(finding.in_state for finding in found)


@pytest.mark.parametrize(
    ("newest", "num"),
    [
        pytest.param((10.0, 0.1, 0.0), 20, id="as-before"),
        pytest.param((99.0, 0.99, 0.0), 20, id="below-the-limit"),
        pytest.param((0.0, 0.0, 0.0), 20, id="all-gone"),
        pytest.param((10.0, 0.1, 5.0), 20, id="began-at-0"),
        pytest.param((inf, nan, 0.0), 20, id="not-finite-is-for-nonfinite"),
        pytest.param((1e9, 0.1, 0.0), 15, id="before-warmup"),
    ],
)
def test_stays_silent(newest: tuple[float, ...], num: int) -> None:
    """What a sound run may do, and what other detectors find, is no jump."""
    assert judge(newest, num) == []


@pytest.mark.parametrize("value", [1e3, 1e10, 1e18])
def test_weight_that_normalization_hides_is_found(value: float) -> None:
    """A weight before BatchNorm that was overwritten with any large number is found at the next check."""
    training = make_training("adamw", ruin_after_update(value, 25)).supervise().run(26)
    found = [finding for decision in training.decisions for finding in decision.findings]
    assert ("weight-jump", 26, ("inner",)) in [(finding.detector, finding.step, finding.groups) for finding in found]


def test_it_may_be_told_to_go_back() -> None:
    """With a ladder, the run goes back to before the jump."""
    policy = Policy.from_dict({"detectors": {"weight-jump": {"ladder": ["rollback", "halt"]}}})
    training = make_training("adamw", ruin_after_update(1e3, 29)).supervise(policy=policy, groups=["inner", "outer"])
    before = capture_weights(training.run(24))
    training.run(30)
    assert training.verdicts[-1] == "rollback"
    assert list_differences(before, capture_weights(training)) == []
    assert all(bool(torch.isfinite(each).all()) for each in training.model.parameters())
