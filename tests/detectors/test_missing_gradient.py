"""`missing-gradient`: the samples it reports, and those on which it stays silent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import nan
from typing import Any

import pytest
from torch import nn

from tests.laws.models import Frozen, Net, Unused, Waking
from tests.laws.training import Training, make_training
from trimtab.detectors import detect
from trimtab.history import History
from trimtab.types import Finding, Measurement, Value

NONE = (0.0, 0.0)
FIRST = (2.0, 0.0)
SECOND = (0.0, 1.0)
BOTH = (2.0, 1.0)


def watch(taken: Mapping[int, tuple[float, ...]], last: int = 302, **settings: float) -> list[Finding]:
    """Judge every step of a run in which the count was taken at some steps."""
    history = History(groups=("a", "b"))
    found: list[Finding] = []
    for step in range(1, last + 1):
        sampled: dict[str, Value] = {"missing_gradients": taken[step]} if step in taken else {}
        history.append(Measurement(step, {"loss": 1.0, **sampled}))
        found += detect(history, {"missing-gradient": settings})
        history.close(accepted=True)
    return found


@pytest.mark.parametrize(
    ("samples", "settings", "expected"),
    [
        pytest.param({2: FIRST, 102: FIRST}, {}, {102: ("a",)}, id="one-group-at-two-samples"),
        pytest.param({2: BOTH, 102: BOTH}, {}, {102: ("a", "b")}, id="two-groups-in-one-finding"),
        pytest.param({2: BOTH, 102: SECOND}, {}, {102: ("b",)}, id="only-what-is-missing-at-both"),
        pytest.param({2: (0.5, 0.0), 102: (0.5, 0.0)}, {}, {102: ("a",)}, id="on-one-rank-of-two"),
        pytest.param({2: FIRST, 102: FIRST, 202: FIRST}, {}, {102: ("a",), 202: ("a",)}, id="as-long-as-it-lasts"),
        pytest.param({2: FIRST, 102: FIRST, 202: FIRST}, {"samples": 3}, {202: ("a",)}, id="three-samples-if-asked"),
        pytest.param({2: FIRST}, {"samples": 1}, {2: ("a",)}, id="one-sample-if-asked"),
    ],
)
def test_reports(
    samples: Mapping[int, tuple[float, ...]], settings: dict[str, Any], expected: dict[int, tuple[str, ...]]
) -> None:
    """Groups with parameters that never had a gradient are found at the sampled step."""
    assert {finding.step: finding.groups for finding in watch(samples, **settings)} == expected


@pytest.mark.parametrize(
    ("samples", "last"),
    [
        pytest.param({}, 302, id="never-sampled"),
        pytest.param({2: FIRST}, 302, id="one-sample-is-not-enough"),
        pytest.param({2: NONE, 102: NONE, 202: NONE}, 302, id="all-have-gradients"),
        pytest.param({2: FIRST, 102: SECOND}, 302, id="now-this-group-now-that"),
        pytest.param({2: NONE, 102: FIRST, 202: FIRST}, 302, id="frozen-after-the-first-sample"),
        pytest.param({2: FIRST, 102: NONE, 202: FIRST}, 302, id="had-gradients-at-one-sample"),
        pytest.param({2: FIRST, 102: NONE, 202: NONE}, 302, id="comes-in-later"),
        pytest.param({502: NONE, 1002: FIRST, 1502: FIRST, 2002: FIRST}, 2002, id="frozen-and-its-start-forgotten"),
        pytest.param({2: (nan, nan), 102: (nan, nan)}, 302, id="a-rank-that-failed"),
    ],
)
def test_stays_silent(samples: Mapping[int, tuple[float, ...]], last: int) -> None:
    """Start-up, groups that have been trained once, and frozen ones are not reported."""
    assert watch(samples, last) == []


def test_message_names_count_and_groups() -> None:
    """The finding says how many parameters, where, and at how many samples."""
    (finding,) = watch({2: BOTH, 102: BOTH})
    assert finding.message == "3 parameters in a, b have had no gradient at 2 sampled steps"
    assert (finding.value, finding.limit, finding.severity) == (3.0, 0.0, "medium")


def list_found(training: Training) -> list[tuple[int, str, tuple[str, ...]]]:
    """What a run found, by step, detector and groups."""
    found = [finding for decision in training.decisions for finding in decision.findings]
    return [(finding.step, finding.detector, finding.groups) for finding in found]


def test_real_layer_that_is_never_called_is_found() -> None:
    """A layer that forward leaves out is found at step 102, by name, and nothing is done about it."""
    training = make_training("adamw", model=Unused).supervise().run(105)
    assert list_found(training) == [(102, "missing-gradient", ("idle",))]
    assert set(training.verdicts) == {"proceed"}


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(Net, id="every-layer-is-used"),
        pytest.param(Frozen, id="a-layer-needs-no-gradient"),
        pytest.param(Waking, id="a-layer-is-used-from-step-18-on"),
    ],
)
def test_real_healthy_run_is_left_alone(model: Callable[[], nn.Module]) -> None:
    """A healthy run past the second sampled step has no finding of any detector."""
    assert list_found(make_training("adamw", model=model).supervise().run(105)) == []


def test_real_group_frozen_by_hand_is_left_alone() -> None:
    """A group that is frozen by hand after the first sampled step is not taken for one that is never used."""
    training = make_training("adamw").supervise().run(10)
    assert training.supervisor is not None
    training.supervisor.freeze("inner")
    assert list_found(training.run(205)) == []
