"""`gradient-spike`: the smallest histories it reports, and the many on which it stays silent."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, inf, nan

import numpy as np
import pytest
from hypothesis import given, strategies as st

from trimtab.detectors import detect
from trimtab.history import REBASE_AFTER, History
from trimtab.types import Finding, Measurement, Value

ONES = [1.0] * 16
"""A level of exactly 1, just warmed up: the limit is 4."""

NOISY = [1.0, 1.2] * 8
"""Two values, with a spread of 1.4826 · ln(1.2) around 1.2: the limit is 17.9."""

RECURRENT = [float(norm) for norm in np.exp(np.random.default_rng(0).normal(0, 0.35, 400))]


def watch(norms: Sequence[float], **settings: float) -> list[Finding]:
    """Judge each norm in turn; what is found or not finite is rejected, as the default policy does."""
    history, found = History(), []
    for step, norm in enumerate(norms, 1):
        history.append(Measurement(step, {"grad_norm": norm}))
        findings = detect(history, {"nonfinite": {}, "gradient-spike": settings})
        history.close(accepted=not findings)
        found += [finding for finding in findings if finding.detector == "gradient-spike"]
    return found


@pytest.mark.parametrize(
    ("norms", "steps"),
    [
        pytest.param([*ONES, 4.1], [17], id="above-4-times-a-quiet-level"),
        pytest.param([*NOISY, 18.0], [17], id="above-10-spreads-of-a-noisy-level"),
        pytest.param([1.0, 3.0, *ONES, 12.1], [19], id="above-4-times-the-largest"),
        pytest.param([1.0] * 4 + [101.0], [5], id="first-judged-step-against-the-coarse-limit"),
        pytest.param([1.0] * 15 + [101.0], [16], id="last-step-of-the-warm-up"),
        pytest.param([*ONES, 9.0, 9.0, 1.0], [17, 18], id="as-long-as-it-lasts"),
        pytest.param([1.0] * 8 + [1e6] + [1.0] * 8 + [4.1], [9, 18], id="fault-in-the-first-window-does-not-widen"),
        pytest.param([*ONES, *[9.0] * 60], [*range(17, 17 + REBASE_AFTER)], id="new-level-until-it-is-re-based"),
        pytest.param([exp(-step / 9) for step in range(40)] + [1e6], [41], id="even-where-it-fell-fast"),
        pytest.param([5.0] * 20 + [0.5] * 10 + [5e3], [31], id="even-where-it-stepped-down"),
        pytest.param([1e-8] * 16 + [1e-7], [17], id="tiny"),
        pytest.param([0.0] * 15 + [1.0, 4.1], [17], id="zeros-and-one-that-is-not"),
    ],
)
def test_reports(norms: list[float], steps: list[int]) -> None:
    """A gradient norm above its limit is found at the very step."""
    assert [finding.step for finding in watch(norms)] == steps


@pytest.mark.parametrize(
    "norms",
    [
        pytest.param([1.0, 1e6, 1.0, 1e6], id="nothing-before-the-fourth-sample"),
        pytest.param([1.0] * 4 + [100.0], id="at-the-coarse-limit"),
        pytest.param([1.0] * 15 + [99.0], id="warm-up-is-coarse"),
        pytest.param([*ONES, 4.0], id="at-4-times-the-level"),
        pytest.param([*NOISY, 17.8], id="within-10-spreads"),
        pytest.param([1.0, 3.0, *ONES, 12.0], id="at-4-times-the-largest"),
        pytest.param([2.0] * 200, id="constant"),
        pytest.param([0.0] * 200, id="exactly-zero-as-in-accumulation"),
        pytest.param([0.0] * 20 + [1.0], id="zeros-say-nothing-of-scale"),
        pytest.param([exp(-step / 20) for step in range(200)], id="falling"),
        pytest.param([exp(step / 50) for step in range(200)], id="rising-slowly"),
        pytest.param([min(1.0, step / 50) for step in range(200)], id="rising-with-the-warm-up-of-the-rate"),
        pytest.param([5.0 if step % 2 else 1.0 for step in range(200)], id="two-valued"),
        pytest.param(([1.0] * 9 + [20.0]) * 20, id="one-batch-in-ten-from-a-harder-domain-once-seen"),
        pytest.param(RECURRENT, id="lognormal-noise-as-of-recurrent-networks"),
        pytest.param([*ONES, nan, inf, 1.0], id="nonfinite-is-another-detectors"),
        pytest.param([inf] * 3 + [1.0, 1e6, 1.0, 1e6], id="overflows-do-not-count-to-the-fourth"),
        pytest.param([nan] * 50, id="nothing-but-nan"),
    ],
)
def test_stays_silent(norms: list[float]) -> None:
    """Start-up, falling, flat and noisy norms, and what has been seen before, are no spikes."""
    assert watch(norms) == []


@pytest.mark.parametrize("values", [pytest.param({}, id="absent"), pytest.param({"loss": 9.0}, id="another-metric")])
def test_stays_silent_without_a_norm(values: dict[str, float]) -> None:
    """A step without a total gradient norm is not judged, whatever came before."""
    history = History()
    for step, norm in enumerate(ONES, 1):
        history.append(Measurement(step, {"grad_norm": norm}))
        history.close(accepted=True)
    history.append(Measurement(17, values))
    assert detect(history, {"gradient-spike": {}}) == ()


def test_finding_says_what_was_seen_and_against_what() -> None:
    """A finding carries value, limit, expected level, severity and step, and one sentence."""
    assert watch([*ONES, 5.0]) == [
        Finding(
            metric="grad_norm",
            value=5.0,
            limit=4.0,
            expected=1.0,
            message="grad_norm 5 is above its limit 4 (level 1 over 16 steps)",
            detector="gradient-spike",
            severity="medium",
            step=17,
        )
    ]


@pytest.mark.parametrize(
    ("before", "now", "named"),
    [
        pytest.param((1.0, 1.0, 1.0, 1.0), (1.0, 9.0, 1.0, 1.0), ("b",), id="the-one-that-rose"),
        pytest.param((1.0, 1.0, 1.0, 1.0), (9.0, 1.0, 20.0, 1.0), ("c", "a"), id="most-suspect-first"),
        pytest.param((1.0, 1.0, 1.0, 1.0), (9.0, 8.0, 7.0, 6.0), ("a", "b", "c"), id="at-most-three"),
        pytest.param((1.0, 100.0, 1.0, 1.0), (9.0, 110.0, 1.0, 1.0), ("a",), id="by-rise-not-by-size"),
        pytest.param((1.0, 1.0, 1.0, 1.0), (3.0, 3.0, 3.0, 3.0), (), id="none-rose-much"),
        pytest.param((0.0, 1.0, 1.0, 1.0), (9.0, 9.0, 1.0, 1.0), ("b",), id="a-group-that-was-0-has-no-level"),
        pytest.param(None, (9.0, 9.0, 9.0, 9.0), (), id="never-measured-before"),
        pytest.param((1.0, 1.0, 1.0, 1.0), None, (), id="not-measured-now"),
    ],
)
def test_finding_names_the_groups_that_rose(
    before: tuple[float, ...] | None, now: tuple[float, ...] | None, named: tuple[str, ...]
) -> None:
    """The groups under suspicion are those whose norms rose most against their own medians."""

    def with_groups(norm: float, by_group: tuple[float, ...] | None) -> dict[str, Value]:
        return {"grad_norm": norm, **({} if by_group is None else {"group_grad_norm": by_group})}

    history = History(groups=("a", "b", "c", "d"))
    for step in range(1, 17):
        history.append(Measurement(step, with_groups(1.0, before)))
        history.close(accepted=True)
    history.append(Measurement(17, with_groups(10.0, now)))
    (finding,) = detect(history, {"gradient-spike": {}})
    assert finding.groups == named


@given(st.data())
def test_one_nan_changes_no_later_verdict(data: st.DataObject) -> None:
    """A NaN in between leaves every other verdict as it would have been."""
    norms = data.draw(st.lists(st.sampled_from([0.5, 1.0, 1.2, 5.0, 30.0, 400.0]), min_size=5, max_size=40))
    where = data.draw(st.integers(0, len(norms)))
    poisoned = watch([*norms[:where], data.draw(st.sampled_from([nan, inf])), *norms[where:]])
    expected = [finding.step + (finding.step > where) for finding in watch(norms)]
    assert len(expected) >= REBASE_AFTER - 1 or [finding.step for finding in poisoned] == expected
