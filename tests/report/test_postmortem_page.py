"""The page of a post-mortem has every section of the text, and the curves that speak for it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.scenarios.diagnosis.faulty import HALF, spoil
from tests.scenarios.diagnosis.logs import draw
from tests.scenarios.diagnosis.test_runs import record
from trimtab.diagnosis import diagnose
from trimtab.journal import RunLog
from trimtab.report.curves import draw_losses
from trimtab.report.page import Rows, write_page
from trimtab.report.panels import add_panels
from trimtab.report.postmortem import write_postmortem_page
from trimtab.types import Measurement, Value

STEPS = range(1, 51)


def run_with(**metrics: float) -> RunLog:
    values: dict[str, Value] = {"loss": 1.0, **metrics}
    return RunLog(Path("run"), {}, [Measurement(step, values) for step in STEPS], ())


def test_page_has_the_sections_of_a_postmortem(tmp_path: Path) -> None:
    """Timeline, evidence, root cause, what was ruled out, actions, prevention and the commands, in this order."""
    folder = record(tmp_path / "run", draw("run", spoil("loss", HALF, float("nan")), 0))
    write_postmortem_page(tmp_path / "page.html", diagnose(folder), folder)
    headings = re.findall(r"<section><h2>([^<:]*)", (tmp_path / "page.html").read_text())
    assert [each for each in headings if not each.startswith("Not measured")] == [
        "Timeline",
        "Evidence",
        "Root cause",
        "What was ruled out",
        "Actions and their effect",
        "Prevention",
        "Reproduce",
    ]


@pytest.mark.parametrize(
    ("metrics", "titles"),
    [
        pytest.param({}, [], id="loss-alone"),
        pytest.param({"grad_norm": 1.0}, ["gradient norm"], id="norm"),
        pytest.param({"learning_rate": 0.0, "grad_norm": 1.0}, ["gradient norm", "learning rate"], id="norm-and-rate"),
        pytest.param({"grad_norm": float("nan"), "learning_rate": 0.1}, ["learning rate"], id="norm-never-finite"),
    ],
)
def test_panels_are_those_that_were_recorded(metrics: dict[str, float], titles: list[str]) -> None:
    """What was recorded beside the loss is drawn under it, and nothing else."""
    run = run_with(**metrics)
    figure = add_panels(draw_losses({"run": run}), run)
    drawn = [axis.title.text for axis in figure.select_yaxes()]
    assert drawn == ["loss (log scale)", *titles]


def test_cells_show_lines_and_code(tmp_path: Path) -> None:
    """Lines of a cell stand one under the other, code is set as such, and all else is escaped."""
    rows = Rows("Title", ("head",), [("a\n`x < 1`",)])
    write_page(tmp_path / "page.html", "", "", [], draw_losses({}), [rows])
    assert "<td>a<br><code>x &lt; 1</code></td>" in (tmp_path / "page.html").read_text()
