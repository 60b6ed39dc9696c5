"""A real browser for the tests of pages; it has no network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import ConsoleMessage, Dialog, Page

CHROMIUM = Path("/usr/bin/chromium")
"""Where Debian's package puts it."""

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]


def require_chromium() -> None:
    """Skip where there is no browser; where everything has to be tested, fail."""
    if not CHROMIUM.exists():
        if os.environ.get("CI") == "true":
            raise FileNotFoundError(f"{CHROMIUM} is not there, and CI=true asks for all tests")
        pytest.skip(f"{CHROMIUM} is not there; apt install chromium")


@dataclass
class Opened:
    """A page that was opened, and what it did."""

    page: Page
    """The page."""

    requested: list[str] = field(default_factory=list)
    """The addresses it asked for, its own first."""

    complaints: list[str] = field(default_factory=list)
    """What it wrote to the console as a warning or an error, and the errors that nothing caught."""

    asked: list[str] = field(default_factory=list)
    """The dialogs it opened."""

    def take_message(self, message: ConsoleMessage) -> None:
        """Note what is written to the console, if it is a complaint."""
        if message.type in ("warning", "error"):
            self.complaints.append(message.text)

    def take_dialog(self, dialog: Dialog) -> None:
        """Note a dialog, and close it."""
        self.asked.append(dialog.message)
        dialog.dismiss()

    def open(self, path: Path) -> Page:
        """Open a page and wait until it is drawn."""
        self.page.goto(path.resolve().as_uri())
        self.page.wait_for_selector("body[data-is-drawn]", timeout=60_000)
        return self.page


@contextmanager
def browse() -> Iterator[Any]:
    """A browser; gives a function that opens a new tab with the options of Playwright's `new_page`."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)

        def open_tab(**options: Any) -> Opened:
            opened = Opened(browser.new_page(**{"viewport": {"width": 1300, "height": 900}, **options}))
            opened.page.on("request", lambda request: opened.requested.append(request.url))
            opened.page.on("console", opened.take_message)
            opened.page.on("pageerror", lambda error: opened.complaints.append(str(error)))
            opened.page.on("dialog", opened.take_dialog)
            return opened

        yield open_tab
        browser.close()
