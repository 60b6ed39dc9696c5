"""The demo, cut short."""

import itertools
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from trimtab.bench.demo import DEMO_FAULTS, NUM_STEPS, Result, draw_faults, run_demo
from trimtab.bench.showing import build_tables, write_demo_page
from trimtab.errors import InputError
from trimtab.faults import inject
from trimtab.journal import read_run, to_json


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return run_demo(tmp_path_factory.mktemp("demo"), seed=3, names=["huge-weight", "nan-loss"], num_steps=100)


def test_every_fault_is_found_and_little_is_lost(result: Result) -> None:
    """Each fault is found at most a step late, and no more than 20 updates are lost to it."""
    assert sorted(each.name for each in result.faults) == ["huge-weight", "nan-loss"]
    for each in result.faults:
        assert each.found_step is not None
        assert each.found_step - each.step <= 1
        assert 1 <= each.num_lost <= 20


def test_the_supervised_run_ends_near_the_healthy_one(result: Result) -> None:
    """With faults and a supervisor a short run ends near the healthy one, and nearer than with the usual guard."""
    assert abs(result.compare("supervised")) < 0.1
    assert not result.compare("usual_guard") <= result.compare("supervised")


def test_each_run_has_its_folder(result: Result) -> None:
    """All three runs are recorded: every step, every validation, and findings in the faulty ones alone."""
    for name in ("healthy", "usual_guard", "supervised"):
        log = read_run(result.folder / name)
        assert sum(each.clock == "step" for each in log.measurements) == 100
        assert sum(each.clock == "review" for each in log.measurements) == 12
        assert bool(log.records) == (name != "healthy")


def test_the_result_for_programs(result: Result) -> None:
    """`--json` holds the three validation losses, and for every fault name, step, finding and responses."""
    held = json.loads(json.dumps(to_json(result.to_dict())))
    assert all(isinstance(held[name]["val_loss"], (float, str)) for name in ("healthy", "usual_guard", "supervised"))
    assert all(each.keys() >= {"name", "step", "found_step", "responses"} for each in held["faults"])


class _Links(HTMLParser):
    """Collects whatever a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href") and tag != "a"]


def test_the_page_is_offline(result: Result) -> None:
    """The page loads nothing, and every decision of the supervised run is told on it."""
    page = write_demo_page(result).read_text(encoding="utf-8")
    links = _Links()
    links.feed(page)
    assert links.loaded == []
    for decision, _ in read_run(result.folder / "supervised").records.values():
        assert decision.findings[0].message in page


def test_the_tables_have_a_row_each(result: Result) -> None:
    """The terminal shows every run and every fault."""
    runs, faults = build_tables(result)
    assert (runs.row_count, faults.row_count) == (3, 2)


@pytest.mark.parametrize("seed", range(20))
def test_faults_are_drawn_apart(seed: int) -> None:
    """All five faults fall into the middle of the run, far enough apart to tell them from each other."""
    drawn = draw_faults(seed)
    assert sorted(each.fault for each in drawn) == sorted(DEMO_FAULTS)
    assert all(0.15 * NUM_STEPS <= each.step <= 0.85 * NUM_STEPS for each in drawn)
    pairs = itertools.pairwise(drawn)
    assert all(after.step - before.step - inject(before.fault, 1).duration >= 29 for before, after in pairs)


def test_a_demo_too_short_for_its_faults_says_so(tmp_path: Path) -> None:
    """A run with no room for its faults is refused before anything is trained."""
    with pytest.raises(InputError, match="faults take"):
        run_demo(tmp_path, num_steps=50)
    assert list(tmp_path.iterdir()) == []
