"""Watching a run in a terminal while it is written."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from trimtab.report.standing import Standing, tell_seconds
from trimtab.report.terminal import clean, draw_run, to_plain
from trimtab.report.watcher import Watcher

LOOK_EVERY_SECONDS = 0.25
"""How often the folder is looked into; so soon a resized terminal is drawn anew, too."""

LINE_EVERY_SECONDS = 10.0
"""How often a line is printed at most where there is no terminal to draw on."""


def watch_run(folder: str | Path, console: Console) -> None:
    """Show a run live, until Ctrl-C; where there is no terminal, print a line now and then until the run has ended.

    Args:
        folder: the run folder; it need not be there yet.
        console: where to show it.
    """
    watcher = Watcher(folder)
    try:
        if console.is_terminal:
            _show_live(watcher, console)
        else:
            _print_lines(watcher, console)
    except KeyboardInterrupt:
        if console.is_terminal:  # the screen is the one of before again; what was last seen stays on it
            print_run(watcher, watcher.assess(), console)


def print_run(watcher: Watcher, standing: Standing, console: Console) -> None:
    """Print all there is to say of a run, as wide as the console."""
    for line in draw_run(watcher, standing, console.width):
        shown = line if _shows_all(console.encoding) else to_plain(line)
        console.print(shown, no_wrap=True, overflow="crop", highlight=False)


class _Screen:
    """A run that is drawn to the size of the terminal whenever it is drawn."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self.standing = watcher.look()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        height = options.height or console.height
        if self._watcher.is_behind:
            yield Text(f"reading {clean(self.standing.name)}: {self._watcher.share_read:.0%}")
            return
        for line in draw_run(self._watcher, self.standing, options.max_width, height - 1):
            yield to_plain(line) if options.ascii_only else line
        told = "nothing more is to come" if self.standing.is_over else "live"
        yield Text(f"{told}; Ctrl-C ends the view, not the run", style="dim")


def _show_live(watcher: Watcher, console: Console) -> None:
    screen = _Screen(watcher)
    with Live(screen, console=console, screen=True, auto_refresh=False) as live:
        while True:
            until = time.monotonic() + LOOK_EVERY_SECONDS
            watcher.read()
            while watcher.is_behind and time.monotonic() < until:
                watcher.read()
            screen.standing = watcher.assess()
            live.refresh()
            time.sleep(max(until - time.monotonic(), 0))


def _print_lines(watcher: Watcher, console: Console) -> None:
    told, due = "", 0.0
    while True:
        standing = watcher.catch_up()
        line = tell_line(standing)
        if line != told and (time.monotonic() >= due or standing.is_over):
            console.print(line, soft_wrap=True, markup=False, highlight=False)
            told, due = line, time.monotonic() + LINE_EVERY_SECONDS
        if standing.is_over:
            return
        time.sleep(LOOK_EVERY_SECONDS)


def tell_line(standing: Standing) -> str:
    """How a run stands, in a line."""
    return ", ".join(_tell_parts(standing))


def _tell_parts(standing: Standing) -> Iterator[str]:
    yield f"{clean(standing.name)}: {standing.state.replace('-', ' ')}"
    if standing.step:
        yield f"step {standing.step}" + (f" of {standing.num_steps}" if standing.num_steps else "")
    for metric in ("loss", "val_loss"):
        if metric in standing.values:
            yield f"{metric} {standing.values[metric]:.4g}"
    if standing.step_seconds > 0 and not standing.is_over:
        yield f"{1 / standing.step_seconds:.3g} steps/s"
    if math.isfinite(standing.left_seconds):
        yield f"{tell_seconds(standing.left_seconds)} left"
    yield from (f"{verdict} {num}" for verdict, num in standing.counts.items())
    if standing.reason:
        yield clean(standing.reason)


def _shows_all(encoding: str) -> bool:
    return encoding.lower().startswith("utf")
