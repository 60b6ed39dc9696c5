"""`nonfinite`: what it reports, and the overflows it leaves to a loss scaler."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf, nan

import pytest

from trimtab.detectors import detect
from trimtab.history import History
from trimtab.types import Clock, Finding, Measurement, Value

GROUPS = ("embed", "block", "head")


def watch(*steps: dict[str, Value], clock: Clock = "step", **settings: int) -> Iterator[tuple[Finding, ...]]:
    """Judge each step in turn; what is found is rejected, as the default policy does."""
    history = History(GROUPS if clock == "step" else ())
    for step, values in enumerate(steps, 1):
        history.append(Measurement(step, values, clock))
        findings = detect(history, {"nonfinite": settings})
        history.close(accepted=not findings)
        yield findings


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param({"loss": nan}, "loss is not finite", id="nan-loss"),
        pytest.param({"loss": inf}, "loss is not finite", id="infinite-loss"),
        pytest.param({"loss": -inf}, "loss is not finite", id="minus-infinite-loss"),
        pytest.param({"grad_norm": nan}, "grad_norm is not finite", id="norm-given-by-the-loop"),
        pytest.param(
            {"grad_norm": inf, "group_grad_norm": (1.0, inf, 1.0)}, "grad_norm is not finite in block", id="one-group"
        ),
        pytest.param(
            {"grad_norm": nan, "group_grad_norm": (nan, 1.0, inf)},
            "grad_norm is not finite in embed, head",
            id="groups",
        ),
        pytest.param(
            {"grad_norm": inf, "group_grad_norm": (1e30, 1.0, 1.0)}, "grad_norm is not finite", id="in-the-sum"
        ),
        pytest.param({"weight_norm": (1.0, 1.0, nan)}, "weight_norm is not finite in head", id="weights"),
        pytest.param({"learning_rate": nan}, "learning_rate is not finite", id="learning-rate"),
        pytest.param({"loss_scale": inf}, "loss_scale is not finite", id="loss-scale"),
    ],
)
def test_reports(values: dict[str, Value], message: str) -> None:
    """Whatever is not finite is found at the first step, with the groups it is in."""
    ((finding,),) = watch(values)
    assert (finding.message, finding.severity, finding.step) == (message, "critical", 1)
    assert ", ".join(finding.groups) == message.partition(" in ")[2]


@pytest.mark.parametrize(
    ("values", "in_state"),
    [
        pytest.param({"weight_norm": (1.0, inf, 1.0)}, [True], id="weights-are-the-state"),
        pytest.param({"loss": nan}, [False], id="a-loss-is-not"),
        pytest.param({"loss": nan, "grad_norm": nan, "weight_norm": (nan, 1.0, 1.0)}, [False, False, True], id="all"),
    ],
)
def test_fault_in_the_weights_is_in_the_state(values: dict[str, Value], in_state: list[bool]) -> None:
    """Only where weights are not finite is the state itself at fault, and every metric is a finding of its own."""
    (findings,) = watch(values)
    assert [finding.in_state for finding in findings] == in_state


def test_review_is_judged_whatever_its_metrics() -> None:
    """Every metric of a review is judged, by the same detector."""
    found = list(watch({"val_loss": 1.0, "accuracy": 0.5}, {"val_loss": nan, "accuracy": inf}, clock="review"))
    assert [[finding.metric for finding in findings] for findings in found] == [[], ["val_loss", "accuracy"]]


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({}, id="nothing-measured"),
        pytest.param({"loss": 0.0, "grad_norm": 0.0, "weight_norm": (0.0, 0.0, 0.0)}, id="zeros"),
        pytest.param({"loss": -1e300, "grad_norm": 1e38, "weight_norm": (1e38, 0.0, 0.0)}, id="huge-and-negative"),
        pytest.param({"group_grad_norm": (nan, 1.0, 1.0)}, id="a-group-without-the-total"),
        pytest.param({"update_ratio": (nan, 1.0, 1.0)}, id="a-ratio-that-is-no-weight"),
        pytest.param({"grad_norm": inf, "loss": 1.0, "loss_scale": 65536.0}, id="overflow-under-a-scaler"),
        pytest.param({"grad_norm": nan, "loss": 1.0, "loss_scale": 65536.0}, id="overflow-that-cancelled-out"),
        pytest.param({"grad_norm": inf, "loss": 1.0, "loss_scale": 1.0}, id="smallest-scale"),
    ],
)
def test_stays_silent(values: dict[str, Value]) -> None:
    """Finite numbers of any size, and what a loss scaler deals with, are no findings."""
    assert list(watch(values)) == [()]


FINE: dict[str, Value] = {"loss": 1.0, "grad_norm": 1.0, "loss_scale": 1024.0}
OVER: dict[str, Value] = {"loss": 1.0, "grad_norm": inf, "loss_scale": 1024.0}
TINY: dict[str, Value] = {"loss": 1.0, "grad_norm": inf, "loss_scale": 0.5}
LOST: dict[str, Value] = {"loss": nan, "grad_norm": nan, "loss_scale": 1024.0}
BARE: dict[str, Value] = {"loss": 1.0, "grad_norm": inf}


@pytest.mark.parametrize(
    ("steps", "found"),
    [
        pytest.param([OVER] * 30, [], id="start-up-takes-as-long-as-it-needs"),
        pytest.param([FINE, *[OVER] * 4, FINE], [], id="four-in-a-row"),
        pytest.param([FINE, *[OVER] * 4, FINE, *[OVER] * 4], [], id="four-twice"),
        pytest.param([*[OVER] * 30, FINE, *[OVER] * 4], [], id="start-up-does-not-count-as-in-a-row"),
        pytest.param([FINE, OVER] * 300, [], id="every-other-step-for-longer-than-the-history"),
        pytest.param([OVER] * 600, [], id="start-up-longer-than-the-history"),
        pytest.param([FINE, *[OVER] * 5], [6], id="the-fifth-in-a-row"),
        pytest.param([FINE, *[OVER] * 7], [6, 7, 8], id="and-every-one-after-it"),
        pytest.param([FINE, *[OVER] * 5, FINE, OVER], [6], id="a-finite-step-starts-the-count-anew"),
        pytest.param([TINY], [1], id="scale-below-1-at-the-start"),
        pytest.param([FINE, TINY], [2], id="scale-below-1-later"),
        pytest.param([BARE], [1], id="without-a-scaler"),
        pytest.param([LOST], [1, 1], id="a-loss-that-is-not-finite-is-no-overflow"),
        pytest.param([FINE, LOST, OVER], [2, 2], id="an-overflow-after-a-lost-loss"),
        pytest.param([FINE, LOST, FINE, FINE], [2, 2], id="one-nan-changes-no-later-verdict"),
    ],
)
def test_overflows_are_left_to_the_scaler(steps: list[dict[str, Value]], found: list[int]) -> None:
    """Under a scaler only more than 4 overflows in a row after the first finite step, or a scale below 1, are found."""
    assert [finding.step for findings in watch(*steps) for finding in findings] == found


@pytest.mark.parametrize(("overflows", "found"), [(0, [2, 3, 4]), (1, [3, 4]), (3, [])])
def test_number_of_overflows_is_a_setting(overflows: int, found: list[int]) -> None:
    """`overflows` consecutive overflows are left to the scaler, and not one more."""
    findings = watch(FINE, OVER, OVER, OVER, overflows=overflows)
    assert [finding.step for each in findings for finding in each] == found
