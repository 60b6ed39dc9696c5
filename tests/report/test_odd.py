"""Runs that are not as runs usually are: their pages open, without a complaint, and say what there is to say."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.conftest import require
from tests.report.browser import Opened, browse, require_chromium
from trimtab.journal import Journal, describe_run as describe_manifest
from trimtab.report.document import describe_run
from trimtab.report.page import write_report
from trimtab.types import Action, Decision, Measurement, Record, Value

require("playwright")

OpenTab = Callable[..., Opened]
Loss = Callable[[int], float]


@pytest.fixture(scope="module")
def open_tab() -> Iterator[OpenTab]:
    require_chromium()
    with browse() as give:
        yield give


def write_odd(folder: Path, num_steps: int, loss: Loss, groups: Sequence[str] = ("a", "b"), *, ends: bool) -> None:
    """Write a run whose every number is its loss."""
    journal = Journal(folder, describe_manifest(groups, ("group_grad_norm",) if groups else (), ["float32"], {}))
    for step in range(1, num_steps + 1):
        values: dict[str, Value] = {"loss": loss(step), "grad_norm": loss(step), "step_seconds": 0.1}
        if groups:
            values["group_grad_norm"] = (loss(step),) * len(groups)
        journal.write(Record(Measurement(step, values), Decision(step), Action(step)))
    if ends:
        journal.write_event("end", step=num_steps, status="finished", num_failures=0)
    journal.close()


LAYERS = [f"model.layers.{layer}.self_attention.projection" for layer in range(200)]
SHOWN: dict[str, tuple[int, Loss, Sequence[str], bool, str]] = {
    "empty": (0, float, ["a"], False, "No step has been recorded."),
    "one-step": (1, float, ["a"], True, "1 recorded, up to step 1"),
    "no-groups": (100, lambda step: 1 / step, [], True, "No detector found anything."),
    "many-groups": (100, lambda step: 1 / step, LAYERS, True, "parameter groups 200"),
    "nan-everywhere": (100, lambda _: math.nan, ["a"], True, "loss-not-finite"),
    "zero-everywhere": (100, lambda _: 0.0, ["a"], True, "100 recorded"),
    "below-zero": (100, lambda step: -step / 10, ["a"], True, "100 recorded"),
    "near-the-end-of-float64": (100, lambda step: 1e306 * step, [], True, "100 recorded"),
    "still-going": (100, lambda step: 1 / step, ["a"], False, "So far: "),
}


@pytest.mark.parametrize(("num_steps", "loss", "groups", "ends", "told"), SHOWN.values(), ids=SHOWN.keys())
def test_odd_runs_open(
    open_tab: OpenTab, tmp_path: Path, num_steps: int, loss: Loss, groups: Sequence[str], told: str, *, ends: bool
) -> None:
    """Nothing on the console, something to read, and the buttons work wherever there is anything to zoom into."""
    write_odd(tmp_path / "run", num_steps, loss, groups, ends=ends)
    write_report(tmp_path / "page.html", describe_run(tmp_path / "run"))
    opened = open_tab()
    page = opened.open(tmp_path / "page.html")
    text = page.locator("#page").inner_text()
    assert told in text.replace("\n", " ")
    if num_steps:
        for name in ("Zoom in", "Later steps", "Zoom out", "Show all steps"):
            page.get_by_role("button", name=name).click()
    assert opened.complaints == []


def test_a_step_has_its_number_once(open_tab: OpenTab, tmp_path: Path) -> None:
    """Of a run of three steps the axis has each of them, and none between them."""
    write_odd(tmp_path / "run", 3, float, ends=True)
    write_report(tmp_path / "page.html", describe_run(tmp_path / "run"))
    page = open_tab().open(tmp_path / "page.html")
    assert page.locator("#panel-loss .xtick text").all_text_contents() == ["1", "2", "3"]


def test_groups_are_told_apart_by_what_differs(open_tab: OpenTab, tmp_path: Path) -> None:
    """Names that are too long lose what they all begin with, not what tells them apart."""
    write_odd(tmp_path / "run", 50, float, LAYERS[:40], ends=True)
    write_report(tmp_path / "page.html", describe_run(tmp_path / "run"))
    page = open_tab(viewport={"width": 1300, "height": 1600}).open(tmp_path / "page.html")
    names = page.locator("#panel-group_grad_norm_by_group .ytick text").all_text_contents()
    assert names[:2] == ["…0.self_attention.projection", "…1.self_attention.projection"]
    assert len(set(names)) == 40
