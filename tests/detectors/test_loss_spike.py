"""`loss-spike`: the smallest histories it reports, and the many on which it stays silent."""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, exp, inf, nan

import numpy as np
import pytest
from hypothesis import given, strategies as st

from trimtab.detectors import detect, detectors
from trimtab.history import REBASE_AFTER, History
from trimtab.types import Finding, Measurement

ONES = [1.0] * 16
"""A level of exactly 1, just warmed up: the limit is 1.5."""

QUIET = [1.0 + 0.05 * (-1) ** step for step in range(16)]
"""Two values, with a spread of 1.4826 · ln(1.05 / 0.95) around 1.05: the limit is 3.44."""

COSINE = [1.0 + 0.9 * cos(step / 40) for step in range(125)]
HEAVY_TAIL = [float(loss) for loss in np.random.default_rng(0).standard_t(3, 400) ** 2 + 0.1]


def watch(losses: Sequence[float], **settings: float) -> list[Finding]:
    """Judge each loss in turn; what is found or not finite is rejected, as the default policy does."""
    history, found = History(), []
    for step, loss in enumerate(losses, 1):
        history.append(Measurement(step, {"loss": loss}))
        findings = detect(history, {"nonfinite": {}, "loss-spike": settings})
        history.close(accepted=not findings)
        found += [finding for finding in findings if finding.detector == "loss-spike"]
    return found


@pytest.mark.parametrize(
    ("losses", "steps"),
    [
        pytest.param([*ONES, 1.51], [17], id="above-1.5-times-a-quiet-level"),
        pytest.param([*QUIET, 3.5], [17], id="above-8-spreads-of-a-noisy-level"),
        pytest.param([1.0, 4.0, *ONES, 5.1], [19], id="above-1.25-times-the-largest"),
        pytest.param([1.0] * 4 + [10.1], [5], id="first-judged-step-against-the-coarse-limit"),
        pytest.param([1.0] * 15 + [10.1], [16], id="last-step-of-the-warm-up"),
        pytest.param([*ONES, 5.0, 5.0, 1.0], [17, 18], id="as-long-as-it-lasts"),
        pytest.param([*ONES, 5.0, 1.6], [17, 18], id="what-was-rejected-does-not-widen-the-limit"),
        pytest.param([1.0] * 8 + [1000.0] + [1.0] * 8 + [1.51], [9, 18], id="fault-in-the-first-window-neither"),
        pytest.param([*ONES, *[9.0] * 60], [*range(17, 17 + REBASE_AFTER)], id="new-level-until-it-is-re-based"),
        pytest.param([*ONES, *[9.0] * REBASE_AFTER, 14.0], [*range(17, 43)], id="judged-against-the-new-level"),
        pytest.param([1.0 - step / 100 for step in range(40)] + [4.0], [41], id="far-above-where-a-falling-loss-began"),
        pytest.param([exp(-step / 9) for step in range(40)] + [1e3], [41], id="even-where-it-fell-fast"),
        pytest.param([5.0] * 20 + [0.5] * 10 + [501.0], [31], id="even-where-it-stepped-down"),
        pytest.param([9.0] + [1.0] * 100 + [1.6], [102], id="window-moves-on"),
        pytest.param([-1.0] * 16 + [-0.49], [17], id="negative-level-by-half-its-magnitude"),
        pytest.param([-1.0] * 16 + [3.0], [17], id="from-negative-to-positive"),
        pytest.param([*[-2.0, -1.0] * 8, 11.0], [17], id="negative-and-noisy"),
        pytest.param([0.0] * 15 + [1.0, 1.3], [17], id="zeros-and-one-that-is-not"),
        pytest.param([1e-30] * 16 + [2e-30], [17], id="tiny"),
        pytest.param([1e30] * 16 + [2e30], [17], id="huge"),
    ],
)
def test_reports(losses: list[float], steps: list[int]) -> None:
    """A loss above its limit is found at the very step."""
    assert [finding.step for finding in watch(losses)] == steps


@pytest.mark.parametrize(
    "losses",
    [
        pytest.param([], id="no-step"),
        pytest.param([1.0, 99.0, 1.0, 99.0], id="nothing-before-the-fourth-sample"),
        pytest.param([1.0] * 4 + [10.0], id="at-the-coarse-limit"),
        pytest.param([1.0] * 15 + [9.9], id="warm-up-is-coarse"),
        pytest.param([1.0, 60.0, 30.0, 2.0, 55.0], id="heavy-tailed-targets-at-the-start"),
        pytest.param([*ONES, 1.5], id="at-1.5-times-the-level"),
        pytest.param([*QUIET, 3.4], id="within-8-spreads"),
        pytest.param([1.0, 4.0, *ONES, 5.0], id="at-1.25-times-the-largest"),
        pytest.param([5.0] * 200, id="constant"),
        pytest.param([exp(-step / 20) for step in range(200)], id="falling"),
        pytest.param([1 / (1 + step) for step in range(200)], id="falling-as-a-power"),
        pytest.param([2.0 - step / 100 for step in range(400)], id="falling-through-zero"),
        pytest.param([1.0 + step / 100 for step in range(400)], id="rising-slowly"),
        pytest.param([exp(-step / 10) + 0.5 for step in range(100)] + [0.5] * 200, id="plateau"),
        pytest.param([2.0 if step % 2 else 1.0 for step in range(200)], id="two-valued"),
        pytest.param([1.0] * 100 + [1.45] * 50, id="step-up-within-the-factor"),
        pytest.param(COSINE * 4, id="warm-restarts-within-the-window"),
        pytest.param(HEAVY_TAIL[:16] * 20, id="heavy-tail-once-seen"),
        pytest.param(([1.0] * 9 + [4.0]) * 20, id="one-batch-in-ten-from-a-harder-domain-once-seen"),
        pytest.param([-5.0] * 100, id="constant-negative"),
        pytest.param([-1.0] * 16 + [-0.5], id="negative-at-half-its-magnitude"),
        pytest.param([-exp(step / 50) for step in range(200)], id="negative-and-falling"),
        pytest.param([0.0] * 100, id="exactly-zero"),
        pytest.param([0.0] * 100 + [0.3], id="zeros-say-nothing-of-scale"),
        pytest.param([1.0, 0.0] * 50, id="zero-every-other-step"),
        pytest.param([exp(-step / 3) for step in range(60)] + [0.0] * 60, id="down-to-exactly-zero"),
        pytest.param([*ONES, nan, inf, -inf, 1.0], id="nonfinite-is-another-detectors"),
        pytest.param([nan] * 50, id="nothing-but-nan"),
        pytest.param([nan] * 3 + [1.0, 99.0, 1.0, 99.0], id="nan-is-no-sample-that-counts-to-the-fourth"),
        pytest.param([1e-30, 2e-30] * 50, id="tiny"),
        pytest.param([1e30, 2e30] * 50, id="huge"),
    ],
)
def test_stays_silent(losses: list[float]) -> None:
    """Start-up, falling, flat and noisy losses, and what has been seen before, are no spikes."""
    assert watch(losses) == []


@pytest.mark.parametrize(
    ("loss", "norm", "is_found"),
    [
        pytest.param(1.3, 1.6, True, id="loss-and-weights"),
        pytest.param(1.3, 1.4, False, id="weights-a-little"),
        pytest.param(1.3, 1.0, False, id="loss-alone"),
        pytest.param(1.2, 9.0, False, id="weights-alone"),
    ],
)
def test_weights_that_jumped_lower_the_limit(loss: float, norm: float, is_found: bool) -> None:
    """Where a group's weights have jumped too, less of a rise is enough, even below what the window has seen."""
    history = History(["first", "second"])
    for step in range(1, 42):
        values = (3.0 if step < 8 else 1.0, (2.0, 1.0)) if step < 41 else (loss, (2.0, norm))
        history.append(Measurement(step, {"loss": values[0], "weight_norm": values[1]}))
        findings = detect(history, {"loss-spike": {}})
        history.close(accepted=True)
        assert step == 41 or not findings
    assert bool(findings) == is_found


def run_schedule(rates: list[float], scheduled: float | None = None) -> list[int]:
    """The steps found in a run whose loss is quiet, and twice its level from a step on at which the rate jumps."""
    history, found = History(), []
    for step, rate in enumerate(rates, 1):
        loss = 2.0 if step > 60 else 1.0
        values = {"loss": loss, "learning_rate": rate, **({} if scheduled is None else {"scheduled_rate": scheduled})}
        history.append(Measurement(step, values))
        findings = detect(history, {"loss-spike": {}})
        history.close(accepted=not findings)
        found += [step] if findings else []
    return found


@pytest.mark.parametrize(
    ("rates", "scheduled", "is_found"),
    [
        pytest.param([1.0 - step / 61 for step in range(60)] + [1.0] * 5, None, False, id="as-high-as-before"),
        pytest.param([0.1] * 60 + [1.0] * 5, 1.0, False, id="as-high-as-the-schedule-goes"),
        pytest.param([0.1] * 60 + [1.0] * 5, None, True, id="higher-than-ever"),
        pytest.param([1.0] * 10 + [0.1] * 50 + [30.0] * 5, 1.0, True, id="higher-than-the-schedule-goes"),
        pytest.param([0.1] * 65, 1.0, True, id="no-jump"),
    ],
)
def test_schedule_that_starts_again_is_no_fault(rates: list[float], scheduled: float | None, is_found: bool) -> None:
    """A loss that rises with a rate that was there before is no spike; with one that was not, it is."""
    assert bool(run_schedule(rates, scheduled)) == is_found


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({}, id="absent"),
        pytest.param({"grad_norm": 9.0}, id="another-metric"),
    ],
)
def test_stays_silent_without_a_loss(values: dict[str, float]) -> None:
    """A step without a single loss is not judged."""
    history = History()
    for step in range(1, 20):
        history.append(Measurement(step, values))
        assert detect(history, {"loss-spike": {}}) == ()
        history.close(accepted=True)


@pytest.mark.parametrize(
    ("last", "is_found"),
    [
        pytest.param(1.0 + 2.9 * 0.1, False, id="below"),
        pytest.param(1.0 + 3.1 * 0.1, True, id="above"),
    ],
)
def test_plain_form_counts_standard_deviations(last: float, is_found: bool) -> None:
    """With `plain`, a spike is a loss above the mean by so many standard deviations of the window."""
    history = History()
    for step, loss in enumerate([*[0.9, 1.1] * 50, last], 1):
        history.append(Measurement(step, {"loss": loss}))
        found = detect(history, {"loss-spike": {"plain": 3.0}})
        history.close(accepted=True)
    assert bool(found) == is_found


def test_finding_says_what_was_seen_and_against_what() -> None:
    """A finding carries value, limit, expected level, severity and step, and one sentence."""
    assert watch([*ONES, 2.0]) == [
        Finding(
            metric="loss",
            value=2.0,
            limit=1.5,
            expected=1.0,
            message="loss 2 is above its limit 1.5 (level 1 over 16 steps)",
            detector="loss-spike",
            severity="high",
            step=17,
        )
    ]


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        pytest.param({}, [17], id="default"),
        pytest.param({"sigmas": 30}, [], id="more-sigmas"),
        pytest.param({"warmup": 17}, [], id="longer-warm-up"),
        pytest.param({"warmup": 17, "coarse": 2}, [17], id="finer-coarse-limit"),
        pytest.param({"window": 4}, [17], id="warm-once-a-shorter-window-is-full"),
    ],
)
def test_settings_move_the_limit(settings: dict[str, float], steps: list[int]) -> None:
    """Each setting does what the manual page says."""
    assert [finding.step for finding in watch([*QUIET, 3.5], **settings)] == steps


@given(st.data())
def test_one_nan_changes_no_later_verdict(data: st.DataObject) -> None:
    """A NaN in between leaves every other verdict as it would have been."""
    losses = data.draw(st.lists(st.sampled_from([0.5, 1.0, 1.1, 1.7, 3.0, 12.0]), min_size=5, max_size=40))
    where = data.draw(st.integers(0, len(losses)))
    poisoned = watch([*losses[:where], data.draw(st.sampled_from([nan, inf, -inf])), *losses[where:]])
    expected = [finding.step + (finding.step > where) for finding in watch(losses)]
    assert len(expected) >= REBASE_AFTER or [finding.step for finding in poisoned] == expected


def test_manual_has_the_fixed_headings() -> None:
    """The manual page of every detector has the same headings, and names each of its settings."""
    headings = ["What it sees:", "Why it matters:", "Stays silent:", "Settings:", "Default response:"]
    for each in detectors.values():
        assert [line for line in each.manual.split("\n") if line in headings] == headings, each.name
        assert all(f"    {setting}: " in each.manual for setting in each.settings), each.name
