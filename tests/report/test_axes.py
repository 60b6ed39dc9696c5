"""The axis of a panel: every curve can be read on it, and what does not fit is said."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from trimtab.report.axes import Axis, choose_axis

FALL = (0.3 + 2.0 * np.exp(-np.linspace(0, 5, 200))).tolist()


def axis_of(numbers: Sequence[float]) -> Axis:
    return choose_axis([np.array(numbers, dtype=np.float64)], prefers_log=True)


@pytest.mark.parametrize(
    ("spikes", "num_above"),
    [
        pytest.param({}, 0, id="none"),
        pytest.param({100: 20.0}, 0, id="one-that-fits"),
        pytest.param({100: 1e29}, 1, id="one-beyond"),
        pytest.param({100: 1e29, 150: 1e12, 151: 1e5}, 3, id="several-beyond"),
    ],
)
def test_spikes_do_not_hide_the_curve(spikes: dict[int, float], num_above: int) -> None:
    """However high a spike, the axis ends near the usual numbers, and says how many are above and how high."""
    losses = list(FALL)
    for place, value in spikes.items():
        losses[place] = value
    axis = axis_of(losses)
    assert axis.is_log
    assert axis.num_above == num_above
    assert axis.limit <= 100 * max(FALL)
    assert axis.highest == max(losses)


@pytest.mark.parametrize(
    "losses",
    [
        pytest.param(np.logspace(2, -4, 200).tolist(), id="falls-over-decades"),
        pytest.param([*FALL, *[1e6] * 100], id="rises-for-a-third-of-the-run"),
        pytest.param([2.0] * 5, id="flat"),
        pytest.param([3.0 - 0.05 * step for step in range(200)], id="passes-below-zero"),
        pytest.param([0.0] * 190 + [1.0] * 10, id="mostly-zero"),
    ],
)
def test_what_belongs_to_the_curve_is_drawn(losses: list[float]) -> None:
    """A start far above the rest, and a rise that lasts, are part of the curve and not cut off."""
    axis = axis_of(losses)
    assert axis.num_above == 0
    assert axis.limit == max(losses)


def test_numbers_below_zero_are_on_no_logarithmic_axis() -> None:
    """Losses that pass below 0 have an axis that is not logarithmic, and a spike in them does not hide them either."""
    losses = [3.0 - 0.05 * step for step in range(200)]
    assert not axis_of(losses).is_log
    assert axis_of([*losses, 1e9]).num_above == 1


@pytest.mark.parametrize("losses", [[], [float("nan")] * 3, [0.0] * 50], ids=["none", "nan", "zeros"])
def test_nothing_to_draw_is_no_error(losses: list[float]) -> None:
    """Without a number that can be drawn there is an axis all the same."""
    assert axis_of(losses).num_above == 0
