"""The site of the documentation: it builds without a warning, is whole, and needs nothing but itself."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from filelock import FileLock

import trimtab
from tests.conftest import require
from tests.docs.pages import PAGES, ROOT, name_page, read_blocks
from trimtab import errors
from trimtab.bench.contestants import contestants
from trimtab.cli import app
from trimtab.detectors import detectors
from trimtab.diagnosis import QUESTIONS, known_causes
from trimtab.faults import Need, faults
from trimtab.policy import KINDS, PRESETS, Policy
from trimtab.probes import probes
from trimtab.recipes.linting import checks
from trimtab.signals import SIGNALS

require("material", "mkdocstrings")

WORDS = """step micro-batch review metric probe measurement history window detector level spread innovation limit breach
finding delay policy plan ladder response decision action skip clip cool rollback halt snapshot checkpoint candidate
proven journal record event replay overflow spike divergence plateau nonfinite group row""".split()
"""The words that the glossary has in any case; those of the policy's responses come to it."""


ERRORS = [
    name for name, each in vars(errors).items() if isinstance(each, type) and issubclass(each, errors.TrimtabError)
]
"""What Trimtab raises."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it, once for all processes of the tests; a warning ends the build."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "site"
    with FileLock(f"{folder}.lock"):
        if not (folder / "sitemap.xml").is_file():
            build(folder)
    return folder


def build(folder: Path) -> None:
    """Build the site into a folder."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    search = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": search}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def read(site: Path, page: str) -> str:
    """A page of the site."""
    return (site / page).read_text(encoding="utf-8")


class Links(HTMLParser):
    """What a page of the site fetches, what it leads to, and where it can be led to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.targets: list[str] = []
        self.anchors: set[str] = set()
        self.headings: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Look at one element."""
        held = {name: value for name, value in attrs if value}
        self.anchors.update(held[name] for name in ("id", "name") if name in held)
        if re.fullmatch(r"h[1-6]", tag) and "id" in held:
            self.headings.add(held["id"])
        if tag in ("script", "img", "iframe", "source") and "src" in held:
            self.fetched.append(held["src"])
        if tag == "link" and "href" in held:
            self.fetched.append(held["href"])
        if tag == "a" and "href" in held:
            self.targets.append(held["href"])


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    """No page, script or style of the site loads a thing from another place: it is whole offline, and tells nobody."""
    for page in site.rglob("*.html"):
        outside = [each for each in Links(page.read_text(encoding="utf-8")).fetched if re.match(r"(https?:)?//", each)]
        assert not outside, page
    for style in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*['\"]?(https?:)?//", style.read_text(encoding="utf-8")), style


def test_search_works_in_a_page_opened_as_a_file(site: Path) -> None:
    """A page opened as a file finds what is searched for, asks nothing of the network and has no error."""
    chromium = shutil.which("chromium")
    if chromium is None:
        assert os.environ.get("CI") != "true", "CI=true asks for all tests, and there is no chromium"
        pytest.skip("there is no chromium")
    from playwright.sync_api import sync_playwright

    asked: list[str] = []
    errors: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto((site / "howto" / "loop.html").as_uri())
        page.click("input.md-search__input")
        page.keyboard.type("gradient-spike")
        page.wait_for_selector(".md-search-result__item", state="attached")
        browser.close()
    assert asked
    assert not [address for address in asked if not address.startswith("file:")]
    assert not errors


def test_links_of_the_site_lead_somewhere(site: Path) -> None:
    """Every link between pages leads to a file that is there, and to a place in it that is there."""
    pages = {page: Links(page.read_text(encoding="utf-8")) for page in site.rglob("*.html") if page.name != "404.html"}
    for page, links in pages.items():
        for target in links.targets:
            address, _, anchor = unescape(target).partition("#")
            if re.match(r"\w+:", address):
                continue
            path = (page.parent / address).resolve() if address else page
            assert path.is_file(), (page, target)
            assert not anchor or path not in pages or anchor in pages[path].anchors, (page, target)


@pytest.mark.parametrize("name", trimtab.__all__)
def test_public_name_is_documented(site: Path, name: str) -> None:
    """Each public name has an entry on the page of Python's names."""
    found = getattr(trimtab, name)
    assert f"{found.__module__}.{found.__qualname__}" in Links(read(site, "reference/api/index.html")).anchors


def list_imports() -> Iterator[str]:
    """Each name of a module of ours that a page imports."""
    for block in (block for page in PAGES for block in read_blocks(page)):
        for module, names in re.findall(r"^from (trimtab[\w.]*) import ([\w, ]+)", block.code, re.MULTILINE):
            yield from (f"{module}.{name.strip()}" for name in names.split(","))


def test_what_a_page_imports_is_documented(site: Path) -> None:
    """Whatever a page imports from one of our modules has an entry in the reference."""
    anchors = {anchor for path in site.glob("reference/api/*.html") for anchor in Links(path.read_text()).anchors}
    documented = {anchor.rpartition(".")[2] for anchor in anchors if anchor.startswith("trimtab.")}
    imported = set(list_imports())
    assert imported
    assert not {name for name in imported if name.rpartition(".")[2] not in documented}


@pytest.mark.parametrize("name", ERRORS)
def test_error_is_documented(site: Path, name: str) -> None:
    """Each exception is in the reference."""
    pages = ("reference/api/errors.html", "reference/api/index.html")
    assert any(f"trimtab.errors.{name}" in Links(read(site, page)).anchors for page in pages)


@pytest.mark.parametrize("name", sorted(detectors))
def test_detector_has_a_page(site: Path, name: str) -> None:
    """Each detector has a page with each of its settings, and is in the list and in the table of the policy."""
    page = read(site, f"reference/detectors/{name}.html")
    assert all(f"<code>{setting}</code>" in page for setting in detectors[name].settings)
    assert f'href="{name}.html"' in read(site, "reference/detectors/index.html")
    assert f'href="detectors/{name}.html"' in read(site, "reference/policy.html")


def test_each_has_a_place_to_be_led_to(site: Path) -> None:
    """Each cause, each fault and each command has a heading of its own."""
    for question in QUESTIONS:
        names = {name for name, kind in known_causes.items() if kind.question == question}
        assert Links(read(site, f"reference/causes/{question}.html")).headings >= names
    assert Links(read(site, "reference/faults.html")).headings >= faults.keys()
    group: Any = typer.main.get_command(app)
    assert Links(read(site, "reference/cli.html")).headings >= {f"trimtab-{name}" for name in group.commands}


def list_code(site: Path, page: str) -> set[str]:
    """What stands in the typeface of code on a page, word by word."""
    return {
        word
        for text in re.findall(r"<code>(.*?)</code>", read(site, page))
        for word in re.split(r"[\s,]+", unescape(text))
    }


def test_every_option_is_documented(site: Path) -> None:
    """Each option and each argument of each command is on the page of commands."""
    group: Any = typer.main.get_command(app)
    code = list_code(site, "reference/cli.html")
    for command in (group, *group.commands.values()):
        for param in command.params:
            if param.name == "help":
                continue
            words = param.opts if param.param_type_name == "option" else [param.metavar or param.name.upper()]
            assert code.issuperset(words), (command.name, words)


@pytest.mark.parametrize(
    ("page", "names"),
    [
        pytest.param("reference/policy.html", set(Policy.__dataclass_fields__) - {"plans"}, id="numbers-of-a-policy"),
        pytest.param("reference/policy.html", set(KINDS), id="responses"),
        pytest.param("reference/run-folder.html", set(probes), id="probes"),
        pytest.param("howto/bench.html", set(contestants), id="contestants"),
        pytest.param("howto/faults.html", set(get_args(Need)) - {""}, id="needs-of-faults"),
        pytest.param("howto/fit.html", set(SIGNALS), id="signals"),
        pytest.param("howto/preflight.html", set(checks), id="checks-of-lint"),
        pytest.param("reference/run-folder.html", {"manifest.json", "journal.jsonl", "groups.f32"}, id="files"),
    ],
)
def test_page_has_every(site: Path, page: str, names: set[str]) -> None:
    """The page names each member of a set that it is about."""
    assert list_code(site, page) >= names


def test_every_event_is_documented(site: Path) -> None:
    """Each event that is written somewhere in the source is on the page of the run folder."""
    told = re.compile(r"""(?:_?tell_event|_?tell|_?warn|write_event)\(\s*"([a-z-]+)"|"event": "([a-z-]+)\"""")
    rooms = ("supervisor", "loop", "journal", "control")
    text = "".join(path.read_text() for room in rooms for path in (ROOT / "src" / "trimtab" / room).rglob("*.py"))
    names = {name for pair in told.findall(text) for name in pair if name}
    assert names >= {"decision", "end", "checkpoint"}
    assert list_code(site, "reference/run-folder.html") >= names


def test_presets_are_documented(site: Path) -> None:
    """Each named policy is on the page of the policy."""
    assert all(f"Policy.preset({name!r})" in unescape(read(site, "reference/policy.html")) for name in PRESETS)


def test_glossary_has_the_words() -> None:
    """Every word that has one meaning is in the glossary, and no word twice."""
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    words = [word for words in re.findall(r"^\| (.*?) \|", text, re.MULTILINE)[2:] for word in words.split(", ")]
    assert set(words) >= {*WORDS, *KINDS}
    assert len(words) == len(set(words))


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")], ids=name_page
)
def test_links_in_the_repository_lead_somewhere(page: Path) -> None:
    """Every link of a page leads to a file or folder of the repository, as one who reads it there needs it."""
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8")):
        is_generated = re.search(r"(^|/)(detectors|causes|api)/|reference/faults\.md$|^faults\.md$", target) is not None
        assert is_generated or (page.parent / target).exists(), target
