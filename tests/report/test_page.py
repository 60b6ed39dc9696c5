"""The page of a run in a real browser: it asks for nothing, tells its stories, and zooms as one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import require
from tests.report.browser import Opened, browse, require_chromium
from tests.report.runs import HOSTILE, LAST, RESTORED, ROLLBACK, write_run
from trimtab.report.document import compare_runs, describe_run
from trimtab.report.page import write_report

require("playwright")

OpenTab = Callable[..., Opened]

RANGES = (
    "[...document.querySelectorAll('.plot')].filter(each => each._fullLayout).map(each => each._fullLayout.xaxis.range)"
)


@pytest.fixture(scope="module")
def open_tab() -> Iterator[OpenTab]:
    require_chromium()
    with browse() as give:
        yield give


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a faulty run."""
    folder = write_run(tmp_path_factory.mktemp("runs") / "faulty")
    write_report(folder / "dashboard.html", describe_run(folder))
    return folder / "dashboard.html"


def test_a_faulty_run_opens_offline(open_tab: OpenTab, page_file: Path) -> None:
    """No complaint, no request but for the page itself, and the four answers on top; it is below 8 MB."""
    opened = open_tab()
    page = opened.open(page_file)
    assert opened.complaints == []
    assert opened.requested == [page_file.as_uri()]
    assert page.locator(".card h2").all_inner_texts() == ["Verdict", "What happened", "What was done", "Did it help"]
    assert page.locator("#panel-loss .main-svg").count() > 0
    assert page_file.stat().st_size < 8e6


def test_a_rollback_tells_its_story_on_hover_and_on_focus(open_tab: OpenTab, page_file: Path) -> None:
    """What was found, what was done and what was lost, beside the mark, by mouse and by keyboard."""
    page = open_tab().open(page_file)
    story = page.locator("#story")
    assert not story.is_visible()
    page.locator(".mark[data-kind=rollback]").hover()
    assert f"back to step {RESTORED}" in story.inner_text()
    page.mouse.move(5, 5)
    assert not story.is_visible()
    page.locator(".mark").first.focus()
    page.keyboard.press("ArrowRight")
    assert story.is_visible()
    assert "Skipped" in story.inner_text()


def test_a_mark_and_its_entry_in_the_list_lead_to_each_other(open_tab: OpenTab, page_file: Path) -> None:
    """A click on the mark goes to the entry; the entry's button shows the steps around it, with the mark in focus."""
    page = open_tab().open(page_file)
    page.locator(".mark[data-kind=rollback]").click()
    chosen = page.locator(".entry.is-chosen")
    assert f"step {ROLLBACK}" in chosen.inner_text()
    chosen.get_by_role("button").click()
    assert page.evaluate("document.activeElement.dataset.kind") == "rollback"
    first, last = page.evaluate(RANGES)[0]
    assert 0 < first < ROLLBACK < last < LAST


@pytest.mark.parametrize("panel", ["loss", "grad_norm", "group_grad_norm_by_group"])
def test_zooming_one_panel_zooms_all(open_tab: OpenTab, page_file: Path, panel: str) -> None:
    """A drag across any panel sets the steps of every panel; a double-click shows all of them again."""
    page = open_tab(viewport={"width": 1300, "height": 1600}).open(page_file)
    before = page.evaluate(RANGES)
    plot = page.locator(f"#panel-{panel} .nsewdrag").first
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    assert box is not None
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.25 * box["width"], middle)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.5 * box["width"], middle, steps=5)
    page.mouse.up()
    page.wait_for_function(f"document.querySelector('#panel-{panel} .plot')._fullLayout.xaxis.range[0] > 30")
    zoomed = page.evaluate(RANGES)
    assert len(zoomed) >= 5
    assert all(each == pytest.approx(zoomed[0]) for each in zoomed)
    assert zoomed[0] == pytest.approx([1 + 0.25 * 199, 1 + 0.5 * 199], abs=2)
    page.get_by_role("button", name="Show all steps").click()
    assert page.evaluate(RANGES) == before


def test_what_a_rollback_gave_up_is_faint_and_apart(open_tab: OpenTab, page_file: Path) -> None:
    """The live curve has a gap where another, faint one has the steps that were undone; no step is on both."""
    page = open_tab().open(page_file)
    live, faint = page.evaluate(
        "document.querySelector('#panel-loss .plot').data.filter(each => each.name === 'training loss')"
        ".map(each => each.x.filter((_, row) => each.y[row] !== null))"
    )
    assert faint == list(range(RESTORED + 2, ROLLBACK + 1))
    assert not set(live) & set(faint)
    assert page.evaluate("document.querySelector('#panel-loss .plot').data[1].opacity") < 0.5


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_in_dark(open_tab: OpenTab, page_file: Path, scheme: str) -> None:
    """The page, its text and the numbers of its axes follow what the reader prefers: a contrast of 4.5 at least."""
    page = open_tab(color_scheme=scheme).open(page_file)
    paper = _brightness(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert (paper > 0.5) == (scheme == "light")
    for selector in ("body", ".soft", ".card p", "#panel-loss .xtick text", ".card strong"):
        style = f"getComputedStyle(document.querySelector({selector!r}))"
        color = _brightness(page.evaluate(f"{style}.{'fill' if 'text' in selector else 'color'}"))
        contrast = (max(paper, color) + 0.05) / (min(paper, color) + 0.05)
        assert contrast >= 4.5, (selector, contrast)


def _brightness(color: str) -> float:
    """The relative luminance of a colour such as `rgb(1, 2, 3)`, as WCAG has it."""
    parts = [float(each) / 255 for each in color.removeprefix("rgba(").removeprefix("rgb(").rstrip(")").split(",")[:3]]
    red, green, blue = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_names_of_a_run_are_text(open_tab: OpenTab, tmp_path: Path) -> None:
    """A run, a group, a metric and a message that would be markup are shown letter by letter and do nothing."""
    folder = write_run(
        tmp_path / HOSTILE.replace("/", ""), groups=[HOSTILE, "b"], metrics=[HOSTILE], message=f"{HOSTILE}</script>"
    )
    write_report(tmp_path / "page.html", describe_run(folder))
    opened = open_tab()
    page = opened.open(tmp_path / "page.html")
    page.locator(".mark[data-kind=rollback]").hover()
    assert HOSTILE in page.locator("#story").inner_text()
    assert page.locator("h1").inner_text() == HOSTILE
    assert HOSTILE in (page.locator("#panel-group_grad_norm_by_group .ytick text").first.text_content() or "")
    assert HOSTILE in page.locator("#events").inner_text()
    assert page.locator("img").count() == 0
    assert (opened.asked, opened.complaints) == ([], [])
    assert len(opened.requested) == 1


def test_a_page_prints(open_tab: OpenTab, page_file: Path) -> None:
    """Every panel is drawn on paper, as wide as the page, without what is only for a screen."""
    page = open_tab(color_scheme="dark").open(page_file)
    content = page.pdf(format="A4")
    assert content.startswith(b"%PDF")
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert not page.locator(".tools").is_visible()
    assert _brightness(page.evaluate("getComputedStyle(document.body).backgroundColor")) > 0.9
    widths = page.evaluate(
        "[...document.querySelectorAll('.plot .main-svg')].map(each => each.getBoundingClientRect().width)"
    )
    assert max(widths) <= 680
    assert len(widths) >= len(page.evaluate(RANGES)) == page.locator(".plot").count()


def test_a_panel_is_drawn_when_it_comes_into_sight(open_tab: OpenTab, page_file: Path) -> None:
    """The first one at once; the place of the others is kept, so that nothing moves when they are drawn."""
    page = open_tab(viewport={"width": 1300, "height": 300}).open(page_file)
    assert page.locator("#panel-loss .main-svg").count() > 0
    last = page.locator("#panel-step_seconds")
    assert last.locator(".main-svg").count() == 0
    before = page.evaluate("document.documentElement.scrollHeight")
    page.get_by_role("button", name="Zoom in").click()
    last.scroll_into_view_if_needed()
    last.locator(".main-svg").first.wait_for()
    page.wait_for_function(f"{RANGES}.length > 3")
    assert len({tuple(each) for each in page.evaluate(RANGES)}) == 1
    assert page.evaluate("document.documentElement.scrollHeight") == pytest.approx(before, abs=40)


def test_what_is_alike_is_folded_and_a_mark_unfolds_it(open_tab: OpenTab, tmp_path: Path) -> None:
    """Ten findings of the same kind are one line of the list and one mark; both hold all ten."""
    folder = write_run(tmp_path / "run", faults=[ROLLBACK, *range(100, 110)])
    write_report(tmp_path / "page.html", describe_run(folder))
    page = open_tab().open(tmp_path / "page.html")
    fold = page.locator(".fold")
    assert "10 × Found: loss-spike" in fold.locator("summary").inner_text()
    assert fold.locator(".entry").count() == 0
    page.locator(".mark[data-kind=finding]").first.click()  # of several marks a click zooms in
    page.locator(".mark[data-kind=finding]").nth(3).click()
    assert fold.locator(".entry").count() == 10
    assert "step" in page.locator(".entry.is-chosen").inner_text()


def test_signs_are_explained(open_tab: OpenTab, page_file: Path) -> None:
    """Above the curves stands what each sign means that is drawn, and of no other."""
    page = open_tab().open(page_file)
    signs = page.locator("#signs li").all_inner_texts()
    assert signs[:3] == ["skipped", "rolled back", "found"]
    assert {"not finite", "undone by a rollback, and the curve of it faint"} <= set(signs)
    assert "halted" not in signs


def test_a_narrow_window_has_all_of_it(open_tab: OpenTab, page_file: Path) -> None:
    """On a phone nothing reaches beyond the edge."""
    page = open_tab(viewport={"width": 390, "height": 800}).open(page_file)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_runs_are_compared_on_the_same_axes(open_tab: OpenTab, page_file: Path, tmp_path: Path) -> None:
    """Both losses are in one panel, each run has its marks, and what differs is in tables."""
    other = write_run(tmp_path / "other", faults=[])
    write_report(tmp_path / "page.html", compare_runs([page_file.parent, other]))
    opened = open_tab()
    page = opened.open(tmp_path / "page.html")
    assert opened.complaints == []
    assert page.locator(".lane").count() == 2
    legend = page.locator("#panel-loss .legend li").evaluate_all(
        "all => all.map(each => each.querySelector('span')?.textContent ?? each.textContent)"
    )
    assert legend == ["training loss", "faulty", "other", "validation loss", "faulty", "other"]
    assert page.locator("#differences h2").all_inner_texts()[0] == "Results"


def test_a_newer_document_is_drawn_in_place(open_tab: OpenTab, page_file: Path, tmp_path: Path) -> None:
    """`trimtab.show` may be called again with a document that has more: the zoom and the panels stay."""
    more = describe_run(write_run(tmp_path / "faulty", metrics=["embedding_rank"]))
    opened = open_tab()
    page = opened.open(page_file)
    assert page.locator("#panel-embedding_rank").count() == 0
    page.get_by_role("button", name="Zoom in").click()
    zoomed = page.evaluate(RANGES)[0]
    page.evaluate("document => trimtab.show(document)", more)
    page.wait_for_selector("#panel-embedding_rank .main-svg")
    assert page.evaluate(RANGES)[0] == zoomed
    assert opened.complaints == []
