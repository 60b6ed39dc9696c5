"""Faults in a loop: what each does, at which steps, what is left of it, and what it leaves alone."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.faults.runs import (
    LOOPED,
    NUM_STEPS,
    SCALE,
    STEP,
    Seen,
    draw_rows,
    draw_tokens,
    list_steps,
    plan,
    run_loop,
)

LAST = NUM_STEPS + 1


def is_equal(one: object, other: object) -> bool:
    """True if two batches, tables or tensors hold the same, NaN included."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(is_equal(one[key], other[key]) for key in one)
    if isinstance(one, tuple) and isinstance(other, tuple):
        return all(map(is_equal, one, other))
    assert isinstance(one, Tensor)
    assert isinstance(other, Tensor)
    return one.shape == other.shape and bool(torch.isclose(one, other, rtol=0.0, atol=0.0, equal_nan=True).all())


def find_clean(seen: Seen) -> Seen:
    """The same step of the run without a fault."""
    return run_clean()[seen.step - 1]


@cache
def run_clean() -> list[Seen]:
    """The run without a fault."""
    return run_loop()[0]


def has_its_batch(seen: Seen) -> bool:
    """True if the batch is the loop's own."""
    own = draw_tokens(seen.step) if isinstance(seen.batch, Tensor) else draw_rows(seen.step)
    return is_equal(seen.batch, own)


def count_ratio(seen: Seen) -> float:
    """How many times as large the learning rate was in the step than after it."""
    return seen.rate / seen.rate_after


def list_filled(seen: Seen, is_such: Callable[[Tensor], Tensor]) -> list[str]:
    """The parameters whose whole gradient is such."""
    return [name for name, each in seen.gradients.items() if is_such(each).all()]


def count_weights(seen: Seen, is_such: Callable[[Tensor], Tensor]) -> int:
    """How many weights are such."""
    return sum(int(is_such(each).sum()) for each in seen.weights.values())


def grows(seen: Seen, name: str) -> float:
    """How many times as large a parameter is as in the run without a fault."""
    clean = find_clean(seen).weights[name]
    return float(seen.weights[name].norm() / clean.norm())


HERE = range(STEP, STEP + 1)
EVER = range(STEP, LAST)

EFFECTS = [
    pytest.param("nan-loss", lambda seen: math.isnan(seen.loss), HERE, id="loss-is-nan"),
    pytest.param("nan-loss", lambda seen: len(list_filled(seen, torch.isnan)) > 4, HERE, id="all-gradients-are-nan"),
    pytest.param("infinite-gradient", lambda seen: len(list_filled(seen, torch.isinf)) == 1, HERE, id="one-infinite"),
    pytest.param("rank-nan", lambda seen: len(list_filled(seen, torch.isnan)) == 1, HERE, id="one-rank-is-all-ranks"),
    pytest.param("learning-rate-spike", lambda seen: count_ratio(seen) == pytest.approx(1000), HERE, id="rate-x-1000"),
    pytest.param("learning-rate-jump", lambda seen: count_ratio(seen) == pytest.approx(30), EVER, id="rate-x-30"),
    pytest.param(
        "learning-rate-ramp",
        lambda seen: seen.step >= STEP and count_ratio(seen) == pytest.approx(1.03 ** (seen.step - STEP + 1)),
        EVER,
        id="rate-3-percent-more-each-step",
    ),
    pytest.param(
        "schedule-per-epoch",
        lambda seen: seen.num_moves < find_clean(seen).num_moves,
        range(STEP + 1, LAST),
        id="schedule-stands-still",
    ),
    pytest.param(
        "schedule-too-often",
        lambda seen: seen.step >= STEP and seen.num_moves == find_clean(seen).num_moves + 3 * (seen.step - STEP + 1),
        EVER,
        id="schedule-moves-three-times-more",
    ),
    pytest.param("random-bytes", lambda seen: not has_its_batch(seen), range(STEP, STEP + 10), id="bytes-are-random"),
    pytest.param(
        "scaled-inputs",
        lambda seen: is_equal(seen.batch, (100 * draw_rows(seen.step)[0], draw_rows(seen.step)[1])),
        range(STEP, STEP + 10),
        id="inputs-x-100",
    ),
    pytest.param("constant-inputs", lambda seen: not seen.batch.any(), EVER, id="inputs-are-0"),
    pytest.param(
        "shuffled-labels",
        lambda seen: (
            not has_its_batch(seen) and is_equal(seen.batch.sort().values, draw_tokens(seen.step).sort().values)
        ),
        EVER,
        id="windows-are-shuffled",
    ),
    pytest.param("repeated-batch", lambda seen: is_equal(seen.batch, draw_tokens(STEP)), EVER, id="batch-comes-again"),
    pytest.param("stuck-loader", lambda seen: is_equal(seen.batch, draw_tokens(STEP)), EVER, id="loader-is-stuck"),
    pytest.param("huge-weight", lambda seen: count_weights(seen, lambda w: w.abs() > 1e29) == 1, EVER, id="one-huge"),
    pytest.param("nan-weight", lambda seen: count_weights(seen, torch.isnan) > 0, EVER, id="a-weight-is-nan"),
    pytest.param(
        "flipped-bit", lambda seen: count_weights(seen, lambda w: w.abs() > 1e15) == 1, EVER, id="bit-flipped"
    ),
    pytest.param(
        "scaled-weights",
        lambda seen: all(grows(seen, name) > 10 for name in ("bytes.weight", "head.weight")),
        EVER,
        id="weights-x-16",
    ),
    pytest.param(
        "self-update-gone-wild",
        lambda seen: grows(seen, "average.weight") == pytest.approx(100) and grows(seen, "head.weight") < 2,
        EVER,
        id="self-updating-parameters-x-100",
    ),
    pytest.param("zeroed-moments", lambda seen: not any(map(torch.any, seen.moments.values())), HERE, id="moments-0"),
    pytest.param(
        "huge-moments",
        lambda seen: float(seen.moments["head.weight"].norm() / find_clean(seen).moments["head.weight"].norm()) > 1000,
        EVER,
        id="moments-x-10000",
    ),
    pytest.param(
        "exploding-group",
        lambda seen: sum(float(each.norm()) > 50 for each in seen.gradients.values()) > 0,
        range(STEP, STEP + 10),
        id="gradients-of-a-module-x-1000",
    ),
    pytest.param(
        "dead-units", lambda seen: bool((seen.weights["wide.bias"] < -90).all()), EVER, id="biases-before-relu-negative"
    ),
    pytest.param(
        "poisoned-batchnorm",
        lambda seen: bool(seen.buffers["norm.running_var"].isnan().all()),
        EVER,
        id="statistics-are-nan",
    ),
    pytest.param(
        "float16-overflow",
        lambda seen: (
            seen.loss == pytest.approx(find_clean(seen).loss, rel=1) and float(seen.gradients["head.bias"].norm()) > 1e4
        ),
        range(STEP, STEP + 10),
        id="gradients-x-a-million-at-the-same-loss",
    ),
    pytest.param("stuck-loss-scale", lambda seen: seen.scale == 2**-20, EVER, id="scale-is-stuck"),
    pytest.param("collapsed-loss-scale", lambda seen: seen.scale < SCALE, EVER, id="scale-is-lost"),
    pytest.param("frozen-parameters", lambda seen: len(seen.frozen) > 2, EVER, id="module-is-frozen"),
    pytest.param("frozen-parameters", lambda seen: len(seen.gradients) < 7, EVER, id="module-has-no-gradients"),
    pytest.param("missing-parameters", lambda seen: seen.num_optimized < 7, EVER, id="optimizer-lacks-a-module"),
    pytest.param("eval-mode", lambda seen: not seen.is_training, EVER, id="evaluation-mode"),
    pytest.param(
        "missing-zero-grad",
        lambda seen: not is_equal(seen.gradients["head.bias"], find_clean(seen).gradients["head.bias"]),
        EVER,
        id="gradients-add-up",
    ),
]


def run_fault(name: str, folder: Path, **options: int) -> tuple[list[Seen], list[tuple[str, int]]]:
    """A run with a fault, and its hits without a second one in the same step."""
    seen, hits = run_loop(plan(name, **options), folder=folder)
    return seen, list(dict.fromkeys((hit.fault, hit.step) for hit in hits))


@pytest.mark.parametrize(("name", "is_hit", "steps"), EFFECTS)
def test_fault_acts_at_its_steps_alone(name: str, is_hit: Callable[[Seen], bool], steps: range, tmp_path: Path) -> None:
    """A fault does what its name says from its step on for its duration, and at no other step."""
    seen, _ = run_fault(name, tmp_path)
    assert [each.step for each in seen if is_hit(each)] == list(steps)


@pytest.mark.parametrize("name", LOOPED)
def test_hits_tell_when_a_fault_acted(name: str, tmp_path: Path) -> None:
    """The injector's hits are the steps of the injection, no more and no fewer."""
    _, hits = run_fault(name, tmp_path)
    assert hits == [(name, step) for step in list_steps(plan(name))]


@pytest.mark.parametrize("name", LOOPED)
def test_nothing_happens_before_a_fault(name: str, tmp_path: Path) -> None:
    """Up to the step of the fault the run is bit by bit the run without it."""
    seen, _ = run_fault(name, tmp_path)
    without = run_clean() if isinstance(seen[0].batch, Tensor) else run_loop(plan("scaled-inputs", duration=1))[0]
    for faulty, healthy in zip(seen[: STEP - 1], without, strict=False):
        assert (faulty.loss, faulty.rate, faulty.scale) == (healthy.loss, healthy.rate, healthy.scale)
        assert is_equal(faulty.weights, healthy.weights)


@pytest.mark.parametrize("name", LOOPED)
def test_same_seed_same_effect(name: str, tmp_path: Path) -> None:
    """The same injection does the same, whatever the global random numbers are, and leaves them as they are."""
    states: list[object] = []
    runs = []
    for _ in range(2):
        states.append((torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())))  # noqa: NPY002
        runs.append(run_fault(name, tmp_path, seed=5))
    states.append((torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())))  # noqa: NPY002
    assert states[0] == states[1] == states[2]
    (first, first_hits), (second, second_hits) = runs
    assert first_hits == second_hits
    for one, other in zip(first, second, strict=True):
        assert is_equal(one.batch, other.batch)
        assert is_equal(one.weights, other.weights)
        assert is_equal(one.moments, other.moments)


@pytest.mark.parametrize(
    "name",
    [
        "infinite-gradient",
        "huge-weight",
        "random-bytes",
        "shuffled-labels",
        "exploding-group",
        "frozen-parameters",
        "missing-parameters",
        "flipped-bit",
    ],
)
def test_other_seeds_other_effects(name: str, tmp_path: Path) -> None:
    """What a fault draws depends on its seed."""

    def look(seen: Seen) -> str:
        return str((seen.batch, seen.frozen, seen.gradients, [each.argmax() for each in seen.weights.values()]))

    assert len({look(run_fault(name, tmp_path, seed=seed)[0][STEP - 1]) for seed in range(6)}) > 1


@pytest.mark.parametrize("name", ["random-bytes", "shuffled-labels"])
def test_each_step_draws_anew(name: str, tmp_path: Path) -> None:
    """A fault of several steps does not repeat what it drew in the first."""
    seen, _ = run_fault(name, tmp_path)
    assert len({str(each.batch) for each in seen[STEP - 1 : STEP + 9]}) == 10


UNDONE = {
    "learning-rate-jump": lambda seen: count_ratio(seen) != 1,
    "learning-rate-ramp": lambda seen: count_ratio(seen) != 1,
    "frozen-parameters": lambda seen: len(seen.frozen) != 2,
    "missing-parameters": lambda seen: seen.num_optimized != 7,
    "eval-mode": lambda seen: not seen.is_training,
    "repeated-batch": lambda seen: seen.step > STEP and not has_its_batch(seen),
    "exploding-group": lambda seen: max(float(each.norm()) for each in seen.gradients.values()) > 50,
}


@pytest.mark.parametrize(("name", "is_in_force"), UNDONE.items(), ids=UNDONE)
def test_fault_is_undone_when_its_duration_is_over(
    name: str, is_in_force: Callable[[Seen], bool], tmp_path: Path
) -> None:
    """At the first step after its duration nothing of such a fault is in force any more."""
    seen, _ = run_fault(name, tmp_path, duration=4)
    steps = [each.step for each in seen if is_in_force(each)]
    assert steps == list(range(STEP + (name == "repeated-batch"), STEP + 4))
