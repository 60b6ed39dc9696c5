"""`trimtab serve`: runs in the browser, live; and nothing else to be read, nothing to be written."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import pytest
from typer.testing import CliRunner

from tests.conftest import require
from tests.report.live import LiveRun
from trimtab.cli import app
from trimtab.errors import InputError
from trimtab.journal import JOURNAL
from trimtab.report import serve as serving
from trimtab.report.catalogue import Catalogue
from trimtab.report.guard import HEADERS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

require("starlette", "uvicorn")

HOSTILE = "<img src=x onerror=alert(1)>&amp;'\"`${x}"
"""A name that is a run's, and would be more where it is not shown as text."""

TOKEN = "open-sesame-and-more"

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")


@contextmanager
def serve(root: Path, *options: str, **environment: str) -> Iterator[str]:
    """A server in a process of its own; gives its address. It ends by Ctrl-C, without a word and at once."""
    command = [sys.executable, "-c", "from trimtab.cli import app; app()", "serve", str(root), "--port", "0", *options]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env={**os.environ, **environment}, **pipes) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, process.communicate()[1]
            yield line.split()[0]
        finally:
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=20)[1]
        assert (process.returncode, said) == (0, "")
        assert time.monotonic() - began < 5


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server answered."""

    status: int
    """The status."""

    headers: Mapping[str, str]
    """The headers, by their names in lower case."""

    content: bytes
    """All of it; empty of a stream."""


def ask(address: str, path: str, method: str = "GET", **headers: str) -> Answer:
    """Ask for a path that is sent as it is given; a stream is let go of."""
    place = urlsplit(address)
    connection = HTTPConnection(place.hostname or "", place.port, timeout=20)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        told = {name.lower(): value for name, value in answer.getheaders()}
        is_stream = told.get("content-type", "").startswith("text/event-stream")
        return Answer(answer.status, told, b"" if is_stream and method == "GET" else answer.read())
    finally:
        connection.close()


class Stream:
    """Server-sent events of a path, as they come."""

    def __init__(self, address: str, path: str) -> None:
        place = urlsplit(address)
        self._connection = HTTPConnection(place.hostname or "", place.port, timeout=20)
        self._connection.request("GET", path)
        self._answer = self._connection.getresponse()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._answer.close()
        self._connection.close()

    def read(self) -> tuple[str, Any]:
        """The next event, by its name and what it holds."""
        name = ""
        while True:
            line = self._answer.readline().decode()
            assert line, "the stream has ended"
            if line.startswith("event: "):
                name = line.removeprefix("event: ").strip()
            elif line.startswith("data: "):
                return name, json.loads(line.removeprefix("data: "))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs, with secrets beside it and links that lead to them."""
    top = tmp_path_factory.mktemp("served")
    root = top / "runs"
    for name in ("healthy", "faulty", f"deep/er/{HOSTILE}", "secret-journal"):
        run = LiveRun(root / name, (HOSTILE, "body", "head"))
        run.make_steps(40, learning_rate=0.1, **{HOSTILE: 1.0})
        run.review(1.2)
        if name != "healthy":
            run.skip_step(HOSTILE)
        run.end(f"failed: {HOSTILE}" if name == "faulty" else "finished")
    outside = LiveRun(top / "outside")
    outside.make_steps(5)
    outside.end()
    (top / "secret.txt").write_text("the secret")
    (root / "healthy" / "secret.txt").write_text("the secret")
    (root / "linked").symlink_to(top / "outside")
    (root / "secret-journal" / JOURNAL).unlink()
    (root / "secret-journal" / JOURNAL).symlink_to(top / "secret.txt")
    (root / "no-run").mkdir()
    (root / "damaged").mkdir()
    (root / "damaged" / "manifest.json").write_text("[]")
    return root


@pytest.fixture(scope="module")
def address(runs: Path) -> Iterator[str]:
    before = hash_all(runs.parent)
    with serve(runs) as opened:
        yield opened
    assert hash_all(runs.parent) == before, "the server has changed something"


def hash_all(folder: Path) -> str:
    """What all files of a folder hold, by their names."""
    told = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        told.update(str(path).encode() + (path.read_bytes() if path.is_file() else b""))
    return told.hexdigest()


def test_list_has_every_run_and_no_other(address: str) -> None:
    """The list has the runs within the folder, by their paths; what links lead to is not there."""
    told = json.loads(ask(address, "/api/runs").content)
    assert told.keys() == {"healthy", "faulty", f"deep/er/{HOSTILE}", "damaged"}
    healthy = told["healthy"]
    assert (healthy["state"], healthy["step"], healthy["val_loss"]) == ("finished", 40, 1.2)
    assert healthy["curve"][0] == [1, 2.0]
    assert (told["faulty"]["state"], told["faulty"]["counts"]) == ("failed", {"skip": 1})
    assert told["damaged"]["state"] == "damaged"


def test_list_has_verdicts_soon(address: str) -> None:
    """Runs that have ended are diagnosed in the background."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        told = json.loads(ask(address, "/api/runs").content)
        if told["healthy"]["verdict"] and told["faulty"]["verdict"]:
            break
        time.sleep(0.3)
    assert told["healthy"]["verdict"] == "healthy"
    assert told["faulty"]["verdict"] in ("degraded", "failed")


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/api/run/../secret.txt", id="dots"),
        pytest.param("/api/run/..%2fsecret.txt", id="slash-encoded"),
        pytest.param("/api/run/%2e%2e/secret.txt", id="dots-encoded"),
        pytest.param("/api/run/%252e%252e%252fsecret.txt", id="encoded-twice"),
        pytest.param("/api/run/healthy/../../outside", id="through-a-run"),
        pytest.param("/api/run/healthy%2f..%2f..%2foutside", id="through-a-run-encoded"),
        pytest.param("/api/run/healthy/secret.txt", id="file-of-a-run"),
        pytest.param("/api/run/%2fetc%2fpasswd", id="absolute"),
        pytest.param("/api/run//etc/passwd", id="two-slashes"),
        pytest.param("/api/run/healthy%00", id="zero"),
        pytest.param("/api/run/healthy%5c..%5c..%5coutside", id="backslashes"),
        pytest.param("/api/run/%ff%fe", id="no-text"),
        pytest.param("/api/run/linked", id="link-out"),
        pytest.param("/api/run/secret-journal", id="file-that-is-a-link"),
        pytest.param("/api/run/", id="nothing"),
        pytest.param("/events/../secret.txt", id="events"),
        pytest.param("/events/linked", id="events-of-a-link"),
        pytest.param("/api/compare?run=healthy&run=../outside", id="comparison"),
        pytest.param("/api/compare?run=healthy&run=linked", id="comparison-with-a-link"),
        pytest.param("/api/compare?run=healthy", id="comparison-of-one"),
        pytest.param("/assets/../serve.py", id="assets"),
        pytest.param("/assets/..%2fserve.py", id="assets-encoded"),
        pytest.param("/assets/run.html", id="page-as-asset"),
        pytest.param("/healthy/manifest.json", id="no-files-at-all"),
        pytest.param("/openapi.json", id="no-such-path"),
    ],
)
def test_paths_do_not_leave_the_folder(path: str, address: str) -> None:
    """Whatever is asked for, only runs of the list and the assets are there."""
    answer = ask(address, path)
    assert answer.status == 404
    assert b"secret" not in answer.content
    assert b"root:" not in answer.content


@pytest.mark.parametrize(
    "path", ["/", "/run/healthy", "/api/runs", "/api/run/healthy", "/events", "/assets/run.js", "/x"]
)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "CONNECT"])
def test_nothing_can_be_written(method: str, path: str, address: str) -> None:
    """Whatever is no reading is refused; that no file has changed is seen when the server has ended."""
    answer = ask(address, path, method)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html"),
        ("/run/healthy", "text/html"),
        ("/compare?run=healthy&run=faulty", "text/html"),
        ("/api/runs", "application/json"),
        ("/api/run/healthy", "application/json"),
        ("/api/compare?run=healthy&run=faulty", "application/json"),
        ("/assets/plotly.js", "text/javascript"),
        ("/assets/page.css", "text/css"),
        ("/events", "text/event-stream"),
        ("/events/healthy", "text/event-stream"),
        ("/nothing", "text/plain"),
    ],
)
def test_every_answer_is_guarded(path: str, kind: str, address: str) -> None:
    """Each answer has its type and tells the browser to run nothing else, to frame it nowhere and to guess nothing."""
    for method in ("GET", "HEAD"):
        answer = ask(address, path, method)
        assert answer.headers["content-type"].startswith(kind)
        assert answer.status == (404 if path == "/nothing" else 200)
        for name, value in HEADERS.items():
            assert answer.headers[name] == value
        assert "server" not in answer.headers
        assert method == "GET" or answer.content == b""
    policy = HEADERS["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy


@pytest.mark.parametrize(
    ("host", "is_known"),
    [
        ("127.0.0.1:8765", True),
        ("localhost", True),
        ("LOCALHOST:1", True),
        ("[::1]:8765", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example:8765", False),
        ("192.168.0.1", False),
        ("[fe80::1]", False),
        ("", False),
        ("[", False),
    ],
)
def test_other_names_are_refused(host: str, is_known: bool, address: str) -> None:
    """A page elsewhere that has its own name point to this machine gets nothing."""
    assert ask(address, "/api/runs", Host=host).status == (200 if is_known else 403)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        pytest.param(("--host", "0.0.0.0"), "takes a token", id="all-addresses"),
        pytest.param(("--host", "::"), "takes a token", id="all-addresses-of-version-6"),
        pytest.param(("--host", "192.168.7.7"), "takes a token", id="one-address"),
        pytest.param(("--host", "a-machine.example"), "takes a token", id="name"),
        pytest.param(("--host", "0.0.0.0", "--token", ""), "at least 8 characters", id="empty-token"),
        pytest.param(("--token", "short"), "at least 8 characters", id="short-token"),
        pytest.param(("--host", "203.0.113.7", "--token", TOKEN), "cannot be used", id="no-address-of-this-machine"),
    ],
)
def test_address_without_token_is_refused(options: tuple[str, ...], said: str, tmp_path: Path) -> None:
    """Nothing is opened to other machines without a token: one sentence, and status 2."""
    done = CliRunner().invoke(app, ["serve", str(tmp_path), *options])
    assert done.exit_code == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """Of a folder that is not there it is said so."""
    done = CliRunner().invoke(app, ["serve", str(tmp_path / "nothing")])
    assert done.exit_code == 2
    assert "is no folder" in done.stderr


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the packages of the extra, it is said how to get them."""
    monkeypatch.setattr(serving, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"starlette and uvicorn cannot be found; pip install 'trimtab\[serve\]'"):
        serving.create_app(tmp_path)


def test_token_opens_what_others_can_reach(runs: Path) -> None:
    """On another address there is nothing without the token: it is shown in a header, or once, and then by a cookie."""
    with serve(runs, "--host", "0.0.0.0", TRIMTAB_TOKEN=TOKEN) as address:
        place = f"http://127.0.0.1:{urlsplit(address).port}"
        for path in ("/", "/api/runs", "/events", "/assets/run.js", "/nothing"):
            for headers in (
                {},
                {"Authorization": f"Bearer {TOKEN}x"},
                {"Authorization": TOKEN},
                {"Cookie": "trimtab=1"},
            ):
                answer = ask(place, path, **headers)
                assert answer.status == 401
                assert b"healthy" not in answer.content
        assert ask(place, "/?token=wrong-wrong").status == 401
        assert ask(place, f"/?token={TOKEN}", "POST").status == 405
        assert ask(place, "/api/runs", Authorization=f"Bearer {TOKEN}").status == 200
        assert ask(place, f"/api/runs?token={TOKEN}").status == 200
        shown = ask(place, f"//evil.example/%0a?run=a%26b&token={TOKEN}", Accept="text/html")
        assert (shown.status, shown.headers["location"]) == (303, "/evil.example/%0A?run=a%26b")
        cookie = shown.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert TOKEN not in cookie
        assert ask(place, "/api/runs", Cookie=cookie.partition(";")[0]).status == 200
        assert ask(place, "/api/runs", Cookie=cookie.partition(";")[0][:-1]).status == 401
        assert ask(place, "/", Host="evil.example", Authorization=f"Bearer {TOKEN}").status == 403


def test_events_tell_what_changes(tmp_path: Path) -> None:
    """Of the list only what changed is told, and of a run how it stands; a new run and one that is gone, too."""
    run = LiveRun(tmp_path / "first")
    run.make_steps(10)
    run.flush()
    with serve(tmp_path) as address, Stream(address, "/events") as listed, Stream(address, "/events/first") as one:
        assert listed.read()[1]["runs"]["first"]["step"] == 10
        assert one.read()[1]["step"] == 10
        began = time.monotonic()
        run.make_steps(5)
        assert one.read()[1]["step"] == 15
        assert time.monotonic() - began < 2
        assert listed.read()[1]["runs"]["first"]["step"] == 15
        second = LiveRun(tmp_path / "second")
        second.make_steps(1)
        second.end()
        while "second" not in (told := listed.read()[1]["runs"]):
            pass
        assert told.keys() == {"second"}
        run.end()
        shutil.rmtree(tmp_path / "first")
        while listed.read()[1]["runs"] != {"first": None}:
            pass
        while one.read()[0] != "gone":
            pass


def test_folder_that_is_a_run_is_served(tmp_path: Path) -> None:
    """The folder may be a run itself."""
    run = LiveRun(tmp_path / "run")
    run.make_steps(3)
    run.end()
    catalogue = Catalogue(tmp_path / "run")
    assert list(catalogue.list_runs()) == ["."]
    assert catalogue.find(".") == tmp_path / "run"


def test_long_run_is_listed_without_being_read(tmp_path: Path) -> None:
    """Of a long journal the list reads some places and the end, a run that went back included."""
    run = LiveRun(tmp_path / "long")
    run.make_steps(8000)
    run.step = 7500
    run.make_steps(100, loss=9.0)
    run.flush()
    began = time.monotonic()
    told = Catalogue(tmp_path).list_runs()["long"]
    assert time.monotonic() - began < 0.5
    assert (told["step"], told["loss"]) == (7600, 9.0)
    steps = [step for step, _ in told["curve"]]
    assert steps == sorted(set(steps))
    assert len(steps) <= 162
    assert steps[0] < 100
    run.end()


# In the browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    require("playwright")
    if not Path(CHROMIUM).exists():
        if os.environ.get("CI") == "true":
            raise FileNotFoundError(f"there is no browser at {CHROMIUM}, and CI=true asks for all tests")
        pytest.skip(f"there is no browser at {CHROMIUM}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that fails where it complains, where a dialog opens, and where it asks anyone but its server."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    said: list[str] = []
    opened.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("dialog", lambda dialog: said.append(f"dialog: {dialog.message}"))
    hosts: set[str] = set()
    opened.on("request", lambda request: hosts.add(urlsplit(request.url).hostname or ""))
    yield opened
    opened.close()
    assert said == []
    assert hosts <= {"127.0.0.1", ""}


def wait_for_text(page: Page, selector: str, pattern: str) -> None:
    """Wait until what is shown somewhere matches a pattern; the page's policy lets nobody evaluate code in it."""
    page.locator(selector).filter(has_text=re.compile(pattern)).wait_for()


def test_hostile_names_are_text(page: Page, address: str) -> None:
    """Runs, groups, metrics and messages that are HTML are shown as they are: in the list, the page, a comparison."""
    name = f"deep/er/{HOSTILE}"
    page.goto(address)
    page.get_by_text(name, exact=True).click()
    page.wait_for_selector("#page h1")
    assert page.inner_text("#page h1") == HOSTILE
    assert page.title().startswith(HOSTILE)
    assert page.locator("#page").get_by_text(HOSTILE).count() > 1
    page.goto(f"{address}run/faulty")
    page.wait_for_selector("#page h1")
    assert page.inner_text("#reason") == f"it failed: {HOSTILE}"
    page.goto(f"{address}compare?run={quote(name)}&run=faulty")
    page.wait_for_selector("#page h1")
    assert HOSTILE in page.inner_text("#page")
    assert page.locator("img[src=x]").count() == 0


def test_list_and_run_are_live(page: Page, browser: Browser, tmp_path: Path) -> None:
    """A new step is in the list, in the head of its page and in the curves of an open page within 2 seconds."""
    run = LiveRun(tmp_path / "run")
    run.tell("plan", first_epoch=1, phase=["training"] * 4, num_steps=400, settings={})
    run.make_steps(60)
    run.flush()
    with serve(tmp_path) as address:
        page.goto(address)
        page.wait_for_selector("#runs tbody tr")
        assert "60 / 400" in page.inner_text("#runs tbody")
        assert "running" in page.inner_text("#runs tbody")
        opened = browser.new_page()
        opened.goto(f"{address}run/run")
        opened.wait_for_selector("#page h1")
        assert opened.inner_text("#place") == "step 60 of 400 · epoch 1/4 · training"
        took = []
        for _ in range(3):  # the machine may be busy with something else for once
            time.sleep(1.0)
            run.make_steps(7)
            began = time.monotonic()
            wait_for_text(opened, "#place", f"^step {run.step} of 400")
            wait_for_text(opened, "#range", f" {run.step}$")
            took.append(time.monotonic() - began)
            wait_for_text(page, "#runs tbody", f"{run.step} / 400")
        assert min(took) < 2
        run.end()
        wait_for_text(opened, "#state", "^finished$")
        wait_for_text(page, "#runs tbody", "finished")
        opened.close()
        page.goto("about:blank")


def test_runs_are_chosen_and_compared(page: Page, address: str) -> None:
    """Two runs are ticked in the list and compared; the button waits for the second. What is looked for is found."""
    page.goto(address)
    page.wait_for_selector("#runs tbody tr")
    page.fill("#find", "FAUL")
    assert page.locator("#runs tbody tr:visible").count() == 1
    page.fill("#find", "")
    page.get_by_label("choose healthy").check()
    assert page.locator("#compare").is_disabled()
    page.get_by_label("choose faulty").check()
    page.click("#compare")
    page.wait_for_selector("#page h1")
    assert page.inner_text("#page h1") == "Comparison of 2 runs"
    assert re.search(r"status\s+finished\s+failed", page.inner_text("#page"))


def test_token_in_the_address_is_left_once(browser: Browser, runs: Path) -> None:
    """In a browser the token of the address is taken once; it is gone from the address, and the page is live."""
    with serve(runs, "--token", TOKEN) as address:
        context = browser.new_context()
        opened = context.new_page()
        answer = opened.goto(address)
        assert answer is not None
        assert answer.status == 401
        opened.goto(f"{address}?token={TOKEN}")
        opened.wait_for_selector("#runs tbody tr")
        assert TOKEN not in opened.url
        opened.goto(f"{address}run/healthy")
        opened.wait_for_selector("#page h1")
        context.close()
