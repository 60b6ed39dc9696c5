"""The causes of a spike, as far as the measurements tell: each from its own numbers, and none where there are none."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, nan

import pytest

from trimtab.diagnosis.causes import LONG_TAIL, RATE_RISE, RATE_STEPS, REPEAT_STEPS, name_causes
from trimtab.history import History
from trimtab.types import Measurement

NEW = [float(each) for each in range(100, 200)]


def name(**columns: Sequence[float]) -> list[str]:
    """The causes named at the newest row of a history of these columns; all rows before it are samples."""
    history = History()
    rows = list(zip(*columns.values(), strict=True))
    for step, row in enumerate(rows, 1):
        history.append(Measurement(step, dict(zip(columns, row, strict=True))))
        if step < len(rows):
            history.close(accepted=True)
    return list(name_causes(history))


@pytest.mark.parametrize(
    ("columns", "causes"),
    [
        pytest.param(
            {"grad_norm": [*[2.0] * 20, 62.0]},
            ["cause: a long-tail batch, its gradient norm is 31 times its level"],
            id="gradient-above-30-times-its-level",
        ),
        pytest.param(
            {"learning_rate": [*[1e-3] * 20, 3e-3]},
            ["cause: the schedule, the learning rate went from 0.001 to 0.003 at step 21"],
            id="rate-at-this-step",
        ),
        pytest.param(
            {"learning_rate": [*[1e-3] * 20, *[3e-3] * RATE_STEPS]},
            ["cause: the schedule, the learning rate went from 0.001 to 0.003 at step 21"],
            id="rate-a-few-steps-ago",
        ),
        pytest.param(
            {"learning_rate": [*[1e-3] * 20, 1e-1, 1e-3, 1e-3]},
            ["cause: the schedule, the learning rate went from 0.001 to 0.1 at step 21"],
            id="rate-up-and-back",
        ),
        pytest.param(
            {"batch_fingerprint": [*NEW[:20], NEW[4]]},
            ["cause: the loader, the batch is that of step 5 again"],
            id="batch-of-a-while-ago",
        ),
        pytest.param(
            {"batch_fingerprint": [7.0, *NEW[:5], 7.0, *NEW[5 : REPEAT_STEPS + 4], 7.0]},
            ["cause: the loader, the batch is that of step 7 again"],
            id="batch-the-newest-of-several",
        ),
        pytest.param(
            {"grad_norm": [*[1.0] * 20, 99.0], "batch_fingerprint": [*NEW[:20], NEW[19]]},
            [
                "cause: a long-tail batch, its gradient norm is 99 times its level",
                "cause: the loader, the batch is that of step 20 again",
            ],
            id="several-at-once",
        ),
    ],
)
def test_cause_is_named(columns: dict[str, Sequence[float]], causes: list[str]) -> None:
    """A cause is named with its numbers."""
    assert name(**columns) == causes


@pytest.mark.parametrize(
    "columns",
    [
        pytest.param({"loss": [*[1.0] * 20, 9.0]}, id="nothing-measured-but-the-loss"),
        pytest.param({"grad_norm": [*[2.0] * 20, LONG_TAIL * 2.0]}, id="gradient-at-30-times-its-level"),
        pytest.param({"grad_norm": [99.0]}, id="gradient-without-a-level"),
        pytest.param({"grad_norm": [*[0.0] * 20, 99.0]}, id="gradient-above-zero"),
        pytest.param({"grad_norm": [*[1.0] * 20, inf]}, id="gradient-infinite"),
        pytest.param({"grad_norm": [*[1.0] * 20, nan]}, id="gradient-not-a-number"),
        pytest.param({"learning_rate": [*[1e-3] * 20, RATE_RISE * 1e-3]}, id="rate-doubled"),
        pytest.param({"learning_rate": [*[1e-3] * 20, 1e-5]}, id="rate-cut"),
        pytest.param({"learning_rate": [*[0.0] * 20, 1e-3]}, id="rate-begins-at-zero"),
        pytest.param({"learning_rate": [1e-3 * 1.5**step for step in range(20)]}, id="steep-warm-up"),
        pytest.param({"learning_rate": [*[1e-3] * 20, *[3e-3] * (RATE_STEPS + 1)]}, id="rate-long-ago"),
        pytest.param(
            {"learning_rate": [*[1e-3] * 20, 3e-3], "rate_declared": [*[nan] * 20, 1.0]},
            id="rate-declared-at-this-step",
        ),
        pytest.param(
            {"learning_rate": [*[1e-3] * 20, 3e-3, 3e-3], "rate_declared": [*[nan] * 20, 1.0, nan]},
            id="rate-declared-a-step-ago",
        ),
        pytest.param({"batch_fingerprint": NEW}, id="new-batches"),
        pytest.param({"batch_fingerprint": [7.0, *NEW[:REPEAT_STEPS], 7.0]}, id="batch-long-ago"),
        pytest.param({"batch_fingerprint": [nan] * 20}, id="batches-without-tensors"),
    ],
)
def test_no_cause_is_invented(columns: dict[str, Sequence[float]]) -> None:
    """What is usual, unknown or long ago is no cause."""
    assert name(**columns) == []


def test_level_is_that_of_accepted_steps() -> None:
    """Rejected steps do not raise the level that a long tail is told by."""
    history = History()
    for step, norm in enumerate([*[1.0] * 20, *[99.0] * 15, 99.0], 1):
        history.append(Measurement(step, {"grad_norm": norm}))
        if step < 36:
            history.close(accepted=step <= 20)
    assert list(name_causes(history)) == ["cause: a long-tail batch, its gradient norm is 99 times its level"]
