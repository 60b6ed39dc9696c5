"""Where a line of text stands in a run: its epoch, its position in that, and what progress bars near it say."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trimtab.readers.columns import EPOCH, STEP
from trimtab.readers.gathering import Entry

BAR = re.compile(r"(\d+)/(\d+) \[[^\]]*(?:it/s|s/it|\?)[^\]]*\]?")
"""A progress bar of tqdm, which counts steps."""

POSITION = re.compile(
    r"""(?:\[\s*|\b(?:batch|mini-?batch|iter(?:ation)?)\b[\s:=#\[]*)(\d+)\s*/\s*(\d+)\b(?!\s*\[)(\s*\(\s*\d+(?:\.\d+)?%\))?
    |^\W*(\d+)/(\d+)\s\[[=>.]""",
    re.VERBOSE | re.IGNORECASE,
)
"""A position in an epoch, such as `[3200/60000 (5%)]`, `[ 120/5005]`, `Batch 100/938` or Keras's `10/100 [==>...]`."""

PAIRED = re.compile(r"^\W*\[\s*(\d+)\s*,\s*(\d+)\s*\]")
"""An epoch and a position in it, as in `[2, 4000] loss: 1.93`."""

COUNTER = re.compile(
    r"^\W*(?:train\w*\s+)?(epoch|(?:global[ _])?step|iter(?:ation)?)\b[\s:=#\[]*(\d[\d,]*)", re.IGNORECASE
)
"""A line that says where the run is, as Keras prints it above its progress bar."""

UNKNOWN = -1

TIED = 0.03
"""How far the steps per epoch that a bar says may differ from line to line, epochs being rounded."""


@dataclass(slots=True)
class Place:
    """Where a run is, as the lines up to one say."""

    counts: dict[str, Any] = field(default_factory=dict)
    """The step and the epoch that hold; absent where no line has said them."""

    position: tuple[int, int] | None = None
    """The position in the epoch, and the length of an epoch; 0 where that is not known."""

    bars: dict[int, int] = field(default_factory=dict)
    """How far each progress bar has come, by its total."""

    bar: int | None = None
    """How far the bar of this very line has come; None where it has none."""

    is_in_samples: bool = False
    """True if positions are counted in samples, as where a percentage stands behind them."""

    def read(self, line: str, whole: str, is_held_out: bool) -> None:
        """Take in a line.

        Args:
            line: the line without dates and colours.
            whole: the line as it stands.
            is_held_out: True if it tells of held-out data, whose positions are none of the training.
        """
        self.bar = None
        counter, paired = COUNTER.match(line), PAIRED.match(line)
        if counter:
            name = EPOCH if counter[1].lower() == EPOCH else STEP
            self.counts[name] = counter[2].replace(",", "")
        elif paired:
            self.counts[EPOCH], self.position = paired[1], (int(paired[2]), 0)
        if is_held_out:
            return
        found = POSITION.search(line)
        if found and (counter is None or counter[1].lower() == EPOCH) and not paired:
            self.position = (int(found[1] or found[4]), int(found[2] or found[5]))
            self.is_in_samples = self.is_in_samples or bool(found[3])
        if "/s" in whole or "s/" in whole:
            for bar in BAR.finditer(whole):
                self.bar = self.bars[int(bar[2])] = int(bar[1])
                if counter:
                    self.position = (int(bar[1]), int(bar[2]))


@dataclass(frozen=True, slots=True)
class Placed:
    """A line with a metric, and where it stands."""

    number: int
    """The number of the line."""

    cells: Mapping[str, Any]
    """Its names and numbers."""

    counts: Mapping[str, Any]
    """The step and the epoch that hold for it."""

    position: tuple[int, int] | None
    """Its position in the epoch, and the length of an epoch."""

    bars: Mapping[int, int]
    """How far each progress bar had come."""

    bar: int | None
    """How far the bar of this very line had come."""


def settle(lines: Sequence[Placed]) -> tuple[list[Entry], list[str]]:
    """The lines as entries, each with the step that is known of it, and notes on where that is from."""
    notes: list[str] = []
    if any(STEP in each.counts for each in lines):
        steps: list[int] | None = None
    elif (steps := _count_by_position(lines)) is not None:
        length = max(each.position[1] for each in lines if each.position)
        said = f", {length} to an epoch" if length else ""
        notes = [f"there is no step; epoch and position in it are taken for it{said}"]
    elif sum(each.bar is not None for each in lines) * 2 > len(lines):
        steps = [each.bar if each.bar is not None else UNKNOWN for each in lines]
        notes = ["there is no step; it is read from the progress bar on each line"]
    elif (total := _find_bar(lines)) is not None:
        steps = [each.bars.get(total, 0) for each in lines]
        notes = [f"there is no step; it is read from the progress bar that counts to {total}"]
    placed = [{} if step == UNKNOWN else {STEP: str(step)} for step in steps or [UNKNOWN] * len(lines)]
    entries: list[Entry] = [
        (each.number, {**each.counts, **step, **each.cells}) for each, step in zip(lines, placed, strict=True)
    ]
    return entries, notes


def _count_by_position(lines: Sequence[Placed]) -> list[int] | None:
    """The step of each line by its epoch and its position in it; None where they do not tell the lines apart."""
    known = [each.position for each in lines if each.position is not None]
    if not known or all(position == length for position, length in known) or len(set(known)) < 2:
        return None
    epochs = [_read_epoch(each.counts.get(EPOCH)) for each in lines]
    first = min((each for each in epochs if each is not None), default=0)
    furthest = max(position for position, _ in known) + int(min(position for position, _ in known) == 0)
    steps: list[int] = []
    for each, epoch in zip(lines, epochs, strict=True):
        position, length = each.position or (0, 0)
        passed = max((epoch or 0) - int(first > 0), 0)
        steps.append(passed * (length or furthest) + position if each.position else max(steps, default=0))
    return steps


def _read_epoch(text: Any) -> int | None:
    try:
        return int(float(text))
    except (TypeError, ValueError):
        return None


def _find_bar(lines: Sequence[Placed]) -> int | None:
    """The total of the progress bar that goes on with the epoch: evaluations and downloads have bars too."""
    totals = dict.fromkeys(total for each in lines for total in each.bars)
    for total in sorted(totals, reverse=True):
        seen = [(each.bars.get(total), _read_share(each.cells.get(EPOCH))) for each in lines]
        pairs = [(count, epoch) for count, epoch in seen if count and epoch]
        counts = [count for count, _ in seen if count is not None]
        if len(set(counts)) < min(len(lines), 2) or counts != sorted(counts):
            continue
        rates = sorted(count / epoch for count, epoch in pairs)
        middle = rates[len(rates) // 2] if rates else 0.0
        is_tied = sum(abs(rate - middle) <= TIED * middle + 1 for rate in rates) > 0.8 * len(rates)
        if not pairs or is_tied:
            return total
    return None


def _read_share(text: Any) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None
