"""The axis of the loss: every curve can be read on it, and what does not fit is said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trimtab.journal import RunLog
from trimtab.report.axes import LossAxis, choose_axis
from trimtab.report.curves import draw_losses
from trimtab.types import Measurement

FALL = (0.3 + 2.0 * np.exp(-np.linspace(0, 5, 200))).tolist()


def run_of(losses: Sequence[float]) -> RunLog:
    return RunLog(Path("run"), {}, [Measurement(step, {"loss": each}) for step, each in enumerate(losses, 1)], ())


def axis_of(losses: Sequence[float]) -> LossAxis:
    return choose_axis({"run": run_of(losses)})


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
    """However high a spike, the axis ends near the usual losses, and says how many are above and how high."""
    losses = list(FALL)
    for place, value in spikes.items():
        losses[place] = value
    axis = axis_of(losses)
    assert axis.is_log
    assert axis.num_above == num_above
    assert axis.limit <= 100 * max(FALL)
    assert ("1e+29" in axis.title) == (num_above > 0)


@pytest.mark.parametrize(
    "losses",
    [
        pytest.param(np.logspace(2, -4, 200).tolist(), id="falls-over-decades"),
        pytest.param([*FALL, *[1e6] * 100], id="rises-for-a-third-of-the-run"),
        pytest.param([2.0] * 5, id="flat"),
    ],
)
def test_what_belongs_to_the_curve_is_drawn(losses: list[float]) -> None:
    """A start far above the rest, and a rise that lasts, are part of the curve and not cut off."""
    axis = axis_of(losses)
    assert axis.num_above == 0
    assert "range" not in axis.describe()


def test_losses_below_zero_are_drawn() -> None:
    """Losses that pass below 0 have an axis that is not logarithmic, and all of them a place on it."""
    losses = [3.0 - 0.05 * step for step in range(200)]
    figure: Any = draw_losses({"run": run_of(losses)})
    assert figure.layout.yaxis.type != "log"
    assert list(figure.data[0].y) == losses
    assert axis_of([*losses, 1e9]).num_above == 1


@pytest.mark.parametrize("losses", [[], [float("nan")] * 3, [0.0] * 50], ids=["none", "nan", "zeros"])
def test_no_loss_to_draw_is_no_error(losses: list[float]) -> None:
    """Without a loss that can be drawn there is an empty figure."""
    assert draw_losses({"run": run_of(losses)}).layout.yaxis.type == "log"


def test_losses_above_are_marked_at_the_edge() -> None:
    """What lies above the axis has a mark at its upper edge that tells the number."""
    figure: Any = draw_losses({"run": run_of([*FALL, 1e29, *FALL])})
    (mark,) = [each for each in figure.data if each.mode == "markers"]
    assert list(mark.x) == [201]
    assert list(mark.text) == ["1e+29"]
    assert mark.y[0] <= 10 ** figure.layout.yaxis.range[1]
