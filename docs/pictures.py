"""The pictures of the documentation: a run with faults is trained, and what it looks like is photographed.

    python docs/pictures.py [--demo FOLDER]

`trimtab demo` trains its three runs; in the middle of the last one, which is held for it, the terminal view, the
server's list and the live page are photographed, and at its end the report, light and dark, and the comparison. They
lie in docs/assets. With the
folder of a demo that was run before, nothing is trained, and the live views show runs that have ended.
"""

from __future__ import annotations

import argparse
import io
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright
from rich.console import Console

from trimtab.bench.demo import RUNS
from trimtab.report.dashboard import DASHBOARD
from trimtab.report.terminal import draw_run
from trimtab.report.watcher import Watcher

ASSETS = Path(__file__).parent / "assets"
"""Where the pictures lie."""

CHROMIUM = Path("/usr/bin/chromium")
"""The browser of Debian's package."""

LIVE_STEP = 400
"""The step of the last run at which the live views are photographed: three faults are behind it."""

MOST_BYTES = 300_000
"""What a picture may weigh."""

SHARPNESS = 1.5
"""Pixels of a picture to a pixel of the page."""

NUM_COLORS = 256
"""The colours of a picture: pages are flat, and one palette holds them all."""

TERMINAL = (132, 36)
"""Columns and lines of the terminal."""

TRIMTAB = (sys.executable, "-c", "import sys; sys.argv[0] = 'trimtab'; from trimtab.cli import app; app()")
"""The command, called by its name alone, since the report shows how a run was called."""

JUDGED = "#runs tbody:has(tr:nth-child(2) .verdict:not(:empty)):has(tr:nth-child(3) .verdict:not(:empty))"
"""A selector of the list once the runs that have ended have their verdicts."""


@dataclass(frozen=True, slots=True)
class Shot:
    """A picture of a page."""

    name: str
    """The file, without its ending."""

    width: int
    """The width of the window."""

    height: int
    """The height of the window, and of the picture."""

    is_dark: bool = False
    """True for the dark colours."""

    anchor: str = ""
    """A selector of what is to lie at the upper edge; empty for the top of the page."""


def main() -> None:
    """Take all pictures; ends with 1 if one of them weighs too much."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, help="the folder of a demo that was run before")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"])
        if options.demo is None:
            folder = Path(scratch) / "demo"
            with run(*TRIMTAB, "demo", "--out", folder.name, inside=folder.parent) as demo:
                wait_for_step(folder / RUNS[-1], LIVE_STEP, demo)
                demo.send_signal(signal.SIGSTOP)  # the browser would slow it down, and the report would say so
                shoot_live(browser, folder)
                demo.send_signal(signal.SIGCONT)
                if demo.wait():
                    sys.exit(f"the demo ended with {demo.returncode}")
        else:
            folder = options.demo
            shoot_live(browser, folder)
        shoot_pages(browser, folder)
        browser.close()
    heavy = [path.name for path in sorted(ASSETS.glob("*.png")) if path.stat().st_size > MOST_BYTES]
    if heavy:
        sys.exit(f"heavier than {MOST_BYTES} bytes: {', '.join(heavy)}")


@contextmanager
def run(*command: str, inside: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    """A process, in a folder of its own if one is given, that does not outlive the block."""
    process = subprocess.Popen(command, cwd=inside, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        process.wait()


def wait_for_step(folder: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Wait until a run has come to a step, or the process that trains it has ended."""
    watcher = Watcher(folder)
    while process.poll() is None and watcher.catch_up().step < step:
        time.sleep(0.2)


def shoot_live(browser: Browser, folder: Path) -> None:
    """The terminal view of the last run, the server's list, and its live page."""
    shoot_terminal(browser, folder / RUNS[-1])
    with run(*TRIMTAB, "serve", str(folder), "--port", "0") as server:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        shoot(browser, address, Shot("list", 1280, 420), ready=JUDGED)
        shoot(browser, f"{address}run/{RUNS[-1]}", Shot("live", 1280, 800), ready="body[data-is-drawn]")


def shoot_pages(browser: Browser, folder: Path) -> None:
    """The report of the last run, light and dark, and the comparison of all."""
    report = (folder / RUNS[-1] / DASHBOARD).resolve().as_uri()
    shots = [
        Shot("report", 1280, 1205),
        Shot("report-dark", 1280, 1205, is_dark=True),
        Shot("report-groups", 1280, 760, anchor="#panel-grad_norm"),
        Shot("report-events", 1280, 620, anchor="#events"),
        Shot("report-diagnosis", 1280, 760, anchor="#diagnosis"),
    ]
    for each in shots:
        shoot(browser, report, each, ready="body[data-is-drawn]")
    comparison = (folder / DASHBOARD).resolve().as_uri()
    shoot(browser, comparison, Shot("comparison", 1280, 1000), ready="body[data-is-drawn]")


def shoot(browser: Browser, address: str, shot: Shot, ready: str) -> None:
    """Open a page, wait until a selector is there, and keep what the window shows."""
    tab = open_tab(browser, shot)
    tab.goto(address)
    tab.wait_for_selector(ready, timeout=60_000)
    if shot.anchor:
        tab.evaluate("anchor => document.querySelector(anchor).scrollIntoView()", shot.anchor)
    tab.wait_for_timeout(500)
    keep(shot.name, tab.screenshot())
    tab.close()


def open_tab(browser: Browser, shot: Shot) -> Page:
    """A tab of the size of a picture."""
    return browser.new_page(
        viewport={"width": shot.width, "height": shot.height},
        device_scale_factor=SHARPNESS,
        color_scheme="dark" if shot.is_dark else "light",
    )


def shoot_terminal(browser: Browser, folder: Path) -> None:
    """What `trimtab watch` shows, in the colours of a terminal."""
    watcher = Watcher(folder)
    console = Console(width=TERMINAL[0], height=TERMINAL[1], record=True, file=io.StringIO(), force_terminal=True)
    for line in draw_run(watcher, watcher.catch_up(), *TERMINAL):
        console.print(line, no_wrap=True, overflow="crop", highlight=False)
    drawing = re.sub(r"@font-face \{[^}]*\}", "", console.export_svg(title=f"trimtab watch runs/{folder.name}"))
    drawing = drawing.replace("Fira Code", "DejaVu Sans Mono")
    tab = open_tab(browser, Shot("watch", 1280, 900))
    tab.set_content(f"<body style='margin: 0'>{drawing}</body>")
    keep("watch", tab.locator("svg").first.screenshot(omit_background=True))
    tab.close()


def keep(name: str, picture: bytes) -> None:
    """Write a picture into the folder of assets, in as few bytes as its colours allow."""
    image: Any = Image.open(io.BytesIO(picture)).convert("RGB")
    path = ASSETS / f"{name}.png"
    reduced = image.quantize(NUM_COLORS, method=Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)
    reduced.save(path, optimize=True)


if __name__ == "__main__":
    main()
