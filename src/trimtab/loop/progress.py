"""The progress bar of a run, on a terminal."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SHOW_EVERY_SECONDS = 0.2
"""How often the bar is changed, at most."""


class ProgressBar:
    """A bar for the steps of an epoch, with the newest losses beside it.

    Args:
        is_shown: True or False; None to show it where standard error is a terminal.
        num_epochs: how many epochs there are to make.
    """

    def __init__(self, is_shown: bool | None, num_epochs: int) -> None:
        console = Console(stderr=True)
        self._num_epochs = num_epochs
        self._due = 0.0
        self._val_loss = ""
        self._bar: Progress | None = None
        if console.is_terminal if is_shown is None else is_shown:
            columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
            texts = (TextColumn("{task.description}"), TextColumn("{task.fields[losses]}"))
            self._bar = Progress(texts[0], *columns, texts[1], console=console, transient=True)
            self._task = self._bar.add_task("", total=None, losses="")

    def __enter__(self) -> ProgressBar:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin_epoch(self, epoch: int, num_steps: int | None, num_done: int) -> None:
        """Show the bar of an epoch, counted from 1, of which some steps may be done."""
        if self._bar is not None:
            title = f"epoch {epoch}/{self._num_epochs}"
            self._bar.reset(self._task, description=title, total=num_steps, completed=num_done)

    def show_step(self, num_done: int, loss: float | None) -> None:
        """Show how many steps of the epoch are done, and the newest loss."""
        if self._bar is None or time.monotonic() < self._due:
            return
        self._due = time.monotonic() + SHOW_EVERY_SECONDS
        losses = ("" if loss is None else f"loss {loss:.4g}") + self._val_loss
        self._bar.update(self._task, completed=num_done, losses=losses)

    def show_review(self, val_loss: float) -> None:
        """Show the validation loss from now on."""
        self._val_loss = f" val_loss {val_loss:.4g}"
