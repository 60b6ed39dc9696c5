"""What `fit` returns, in a notebook: its figure and its table, with a run folder and without."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import require
from tests.loop.runs import NUM_STEPS, make_loader, make_parts
from trimtab.report.notebook import PLOTLY


@pytest.mark.parametrize("has_folder", [pytest.param(True, id="folder"), pytest.param(False, id="memory")])
def test_a_result_is_a_figure_and_a_table(has_folder: bool, tmp_path: Path) -> None:
    """Every step and review of a run is in both, with a run folder and without; the caption says how it ended."""
    require("pandas")
    result = make_parts().fit(epochs=2, val_loader=make_loader(), run=tmp_path / "run" if has_folder else None)
    frame = result.to_frame()
    assert list(frame["step"][frame["clock"] == "step"]) == list(range(1, 2 * NUM_STEPS + 1))
    assert list(frame["step"][frame["clock"] == "review"]) == [NUM_STEPS, 2 * NUM_STEPS]
    (curve,) = (each for each in result.plot().data if each.name == "training loss")
    assert list(curve.x) == list(range(1, 2 * NUM_STEPS + 1))
    bundle = result._repr_mimebundle_()
    assert bundle["text/plain"] == f"finished at step {2 * NUM_STEPS}: all 2 epochs are done"
    assert "<svg" in bundle["text/html"]
    assert bundle[PLOTLY]["layout"]["title"]["text"] == bundle["text/plain"]


def test_a_result_has_no_groups_without_a_folder() -> None:
    """What is kept in memory of a run is its curves; the result compares and prints as before."""
    result = make_parts().fit(epochs=1)
    assert not [name for name in result.to_frame(groups=True).columns if "/" in name]
    assert "RunLog" not in repr(result)
