"""A run in a few numbers and a small curve, at a cost that does not grow with its length: for a list of many."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.errors import RunFormatError
from trimtab.journal import EVENTS, JOURNAL, LineFollower, measure_age, read_manifest, to_json
from trimtab.journal.follower import parse_measurement
from trimtab.report.happenings import Happenings
from trimtab.report.standing import judge_state, read_holder
from trimtab.types import Measurement

NUM_PLACES = 160
"""Places of a long journal that are looked at."""

PLACE_BYTES, TAIL_BYTES = 4096, 1 << 16
"""What is read at each of them, and at the end."""

SHORT_BYTES = 1 << 18
"""A journal up to so long is read whole."""

NUM_TOLD = 1
"""Of what happened, the newest is told."""


class Outline:
    """A run of a list; `look` gives what the list shows of it.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._begin()

    @property
    def is_over(self) -> bool:
        """True if the run said at the last look that it has ended, or its process is gone."""
        return self._is_over

    def look(self) -> dict[str, Any]:
        """What the list shows of the run now, as JSON can hold it."""
        try:
            return self._look()
        except (RunFormatError, OSError) as error:
            reason = str(error) if isinstance(error, RunFormatError) else f"it cannot be read: {error.strerror}"
            return {"state": "damaged", "reason": reason, "step": 0, "curve": [], "counts": {}}

    def _begin(self) -> None:
        self._events = LineFollower(self._folder / EVENTS)
        self._happenings = Happenings(NUM_TOLD)
        self._size = -1
        self._rows: Sequence[Measurement] = ()
        self._is_over = False

    def _look(self) -> dict[str, Any]:
        manifest = read_manifest(self._folder)
        path = self._folder / JOURNAL
        size = path.stat().st_size if path.exists() else 0
        if self._events.num_left < 0 or size < self._size:
            self._begin()
        if size != self._size:
            self._rows, self._size = _leave_out_undone(sample_journal(path)), size
        while lines := self._events.read():
            self._happenings.take(lines)
        return to_json(self._describe(manifest))  # type: ignore[no-any-return]

    def _describe(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        steps = [each for each in self._rows if each.clock == "step"]
        seconds = [value for each in steps if isinstance(value := each.values.get("step_seconds"), float)]
        step, told = (steps[-1].step if steps else 0), self._happenings
        status = told.find_end(step)
        state, reason = judge_state(
            status=status,
            num_seen=len(steps),
            silent_seconds=measure_age(self._folder),
            level=float(np.median(seconds)) if seconds else math.nan,
            is_between=told.is_between(step),
            holder=read_holder(self._folder) if status is None else None,
        )
        self._is_over = status is not None or state == "gone"
        return {
            "state": state,
            "reason": reason or (told.halted_because if state == "halted" else ""),
            "step": step,
            "num_steps": told.num_steps,
            "loss": _find_newest(self._rows, "loss"),
            "val_loss": _find_newest(self._rows, "val_loss"),
            "curve": _list_losses(steps),
            "counts": dict(told.counts),
            "num_lost": told.num_lost,
            "newest": told.told[-1].text if told.told else "",
            "started": str(manifest.get("started", "")),
        }


def sample_journal(path: Path) -> list[Measurement]:
    """Some of the lines of a journal, evenly spaced, and the newest ones; all of one that is short.

    Raises:
        RunFormatError: if it is damaged.
    """
    if not path.exists():
        return []
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= SHORT_BYTES:
            content = file.read()
            return [_parse(line, path) for line in content[: content.rfind(b"\n") + 1].splitlines()]
        found = []
        for place in np.linspace(0, size - TAIL_BYTES, NUM_PLACES).astype(int).tolist():
            file.seek(place)
            lines = file.read(PLACE_BYTES).split(b"\n")[1:-1]
            found += [_parse(lines[0], path)] if lines else []
        file.seek(size - TAIL_BYTES)
        tail = file.read(TAIL_BYTES)
        return [*found, *(_parse(line, path) for line in tail[: tail.rfind(b"\n") + 1].split(b"\n")[1:-1])]


def _parse(line: bytes, path: Path) -> Measurement:
    try:
        return parse_measurement(json.loads(line), path)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise RunFormatError(f"run: {str(path)!r} is damaged: a line of it is no JSON object") from error


def _leave_out_undone(rows: Sequence[Measurement]) -> list[Measurement]:
    """Rows by rising step: where a run was resumed from an earlier step, the later ones of before are left out."""
    kept: list[Measurement] = []
    for each in rows:
        while each.clock == "step" and kept and kept[-1].step >= each.step:
            kept.pop()
        kept.append(each)
    return kept


def _find_newest(rows: Sequence[Measurement], metric: str) -> float | None:
    found: Iterator[Any] = (each.values[metric] for each in reversed(rows) if metric in each.values)
    return next(found, None)


def _list_losses(steps: Sequence[Measurement]) -> list[list[float]]:
    """Steps and finite losses for a small curve."""
    points = [(each.step, value) for each in steps if isinstance(value := each.values.get("loss"), float)]
    finite = [[step, value] for step, value in points if math.isfinite(value)]
    stride = -(-len(finite) // NUM_PLACES) or 1
    return [[step, float(f"{value:.4g}")] for step, value in [*finite[:-1:stride], *finite[-1:]]]
