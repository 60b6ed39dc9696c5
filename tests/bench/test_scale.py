"""The scale benchmark: its exponents, its synthetic runs, and every part at small sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from trimtab import Policy
from trimtab.bench.scale import (
    PARTS,
    QUICK,
    Growth,
    make_layers,
    make_measurements,
    make_moment,
    measure_scale,
    read_back,
    time_judging,
    write_run,
)
from trimtab.journal import TABLES, read_run
from trimtab.probes import list_group_metrics, probes

SIZES = (10, 100, 1000, 10_000)

STRICT = Policy.from_dict({"detectors": {"group-spike": {"above": 1e-3, "times": 0.0}}})
"""A policy that takes every gradient norm for a spike."""


def grow(amount: Callable[[int], float], *sizes: int) -> Growth:
    """A quantity as a function of its size."""
    return Growth("work", "items", "µs", tuple((size, amount(size)) for size in sizes))


@pytest.mark.parametrize(
    ("amount", "exponent"),
    [
        pytest.param(lambda size: 7.0 + 0 * size, 0, id="constant"),
        pytest.param(lambda size: 0.3 * size, 1, id="in proportion"),
        pytest.param(lambda size: 2e-3 * size**2, 2, id="square"),
        pytest.param(lambda size: 5 * math.sqrt(size), 0.5, id="root"),
    ],
)
def test_exponent_is_that_of_the_power(amount: Callable[[int], float], exponent: float) -> None:
    """A power of the size has its exponent, over all sizes and at the end, whatever it is multiplied by."""
    growth = grow(amount, *SIZES)
    assert growth.exponent == pytest.approx(exponent)
    assert growth.last_exponent == pytest.approx(exponent)


def test_end_shows_what_a_constant_part_hides() -> None:
    """Where a constant part is large, the exponent over all sizes is small, and that at the end is not."""
    growth = grow(lambda size: 1e4 + 1e-4 * size**2, *SIZES)
    assert growth.exponent < 0.3
    assert growth.last_exponent > 0.25
    assert grow(lambda size: 1e4 + 1e-4 * size**2, *SIZES, 10**6).last_exponent > 1.5


@pytest.mark.parametrize(
    "growth",
    [
        pytest.param(grow(lambda size: size, 10), id="one size"),
        pytest.param(grow(lambda size: size - 10, 10, 100), id="an amount of 0"),
    ],
)
def test_what_has_no_exponent_has_none(growth: Growth) -> None:
    """From one size, or with an amount that has no logarithm, no exponent is made up."""
    assert math.isnan(growth.exponent)


def test_a_step_with_a_finding_is_no_ordinary_step() -> None:
    """What judging costs is measured on a run in which nothing is found, or not at all."""
    assert min(time_judging(Policy.default(), 4, num_blocks=16)) > 0
    with pytest.raises(RuntimeError, match="healthy"):
        time_judging(STRICT, 4, num_blocks=1)


@pytest.mark.parametrize("num_groups", [1, 5])
def test_written_run_is_the_synthetic_one(tmp_path: Path, num_groups: int) -> None:
    """Every step is read back as it was made; a row by group takes 12 bytes and 4 per metric and group."""
    num_steps = 30
    assert write_run(tmp_path / "run", num_steps, num_groups) > 0
    log = read_run(tmp_path / "run")
    for read, made in zip(log.measurements, islice(make_measurements(num_groups), num_steps), strict=True):
        assert read.step == made.step
        assert read.values.keys() == made.values.keys()
        for metric, value in made.values.items():
            is_same = np.equal(
                read.values[metric], np.asarray(value, np.float32) if isinstance(value, tuple) else value
            )
            assert np.all(is_same)
    num_sampled = sum("update_ratio" in each.values for each in log.measurements)
    assert 0 < num_sampled < num_steps
    for name, metrics, num_rows in zip(TABLES, list_group_metrics(), (num_steps, num_sampled), strict=True):
        assert (tmp_path / "run" / name).stat().st_size == num_rows * (12 + 4 * len(metrics) * num_groups)


def test_reader_tells_what_it_drew(tmp_path: Path) -> None:
    """Replay and page are told only where they are asked for; the page is there, with its size."""
    write_run(tmp_path / "run", 50, 2)
    assert read_back(tmp_path / "run", draws=False).keys() == {"read", "memory of reading"}
    figures = read_back(tmp_path / "run", draws=True)
    assert figures["page"] == (tmp_path / "run" / "page.html").stat().st_size / 1e6
    assert figures["replay"] > 0


@pytest.mark.parametrize("num_tensors", [2, 64])
def test_ranks_agree_on_two_numbers_per_tensor_and_seven_more(num_tensors: int) -> None:
    """What the model of the agreement's bytes rests on: norms of gradients and weights, their total, loss, times."""
    moment = make_moment(make_layers(num_tensors))
    assert sum(each.size(moment) for each in probes.values()) == 2 * num_tensors + 7


def test_every_part_is_measured() -> None:
    """Each part is announced once, and every quantity has an amount at every size, in rising order."""
    told: list[tuple[str, int, int]] = []
    growths = measure_scale(QUICK, lambda *progress: told.append(progress))
    assert told == [(name, done, len(PARTS)) for done, name in enumerate(PARTS)]
    assert len({(growth.quantity, growth.counted) for growth in growths}) == len(growths)
    by_count = {"groups", "detectors", "tensors", "parameters", "steps", "ranks"}
    assert {growth.counted for growth in growths} == by_count
    for growth in growths:
        sizes = [size for size, _ in growth.points]
        assert sizes == sorted(set(sizes)) != []
        assert all(math.isfinite(amount) and amount >= 0 for _, amount in growth.points), growth
