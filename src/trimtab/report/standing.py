"""How a run stands, as it can be told from its folder alone: at work, hung, gone, or how it ended."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from trimtab.detectors.stalled_step import is_hung
from trimtab.journal import to_json
from trimtab.report.health import Health
from trimtab.types import Severity

State = Literal[
    "not-begun",
    "starting",
    "running",
    "hung",
    "gone",
    "finished",
    "stopped-early",
    "paused",
    "halted",
    "failed",
    "damaged",
]

ENDED = ("gone", "finished", "stopped-early", "paused", "halted", "failed", "damaged")
"""The states in which nothing more is written, unless the run is started again."""

BAD = ("hung", "gone", "halted", "failed", "damaged")
"""The states in which a run needs somebody."""

HOLDER = "lock.holder"
"""The file in a run folder that says which process writes it, and on which machine."""

PAUSE_SECONDS = 600.0
"""Between two epochs and before the first step nothing may be written for so long: data are read, a model validated."""


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that writes a run."""

    process: int
    """Its number."""

    is_here: bool
    """True if it is one of this machine, whose processes can be seen."""

    is_alive: bool
    """False if it is known to be gone."""


@dataclass(frozen=True, slots=True)
class Told:
    """What happened to a run, in a line: a decision, or what was told beside the steps."""

    step: int
    """The step it happened at; the newest of them where it happened several times in a row."""

    kind: str
    """The verdict that was carried out, or the name of the event."""

    text: str
    """What was found and done, in a sentence."""

    severity: Severity | None = None
    """The gravest of what was found; None where nothing was."""

    since: int = 0
    """The first step of several in a row."""

    num: int = 1
    """How many there were in a row."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a run stands."""

    name: str
    """The name of its folder."""

    state: State
    """In one word."""

    reason: str = ""
    """Why, in a sentence; empty where there is nothing to add."""

    step: int = 0
    """The newest step."""

    num_steps: int | None = None
    """The steps it is to have; None where that is not known."""

    epoch: int | None = None
    """The epoch it is in, from 1; None where that is not known."""

    num_epochs: int | None = None
    """The epochs it is to have; None where that is not known."""

    phase: str = ""
    """`warm-up`, `training`, `validation` or `finalization`; empty where that is not known, and when it has ended."""

    step_seconds: float = math.nan
    """Seconds that a step takes, what is between two steps included: the mean of the newest steps."""

    silent_seconds: float = 0.0
    """Seconds since something was written."""

    supervisor_share: float = math.nan
    """The share of this time that the supervisor takes."""

    memory: Mapping[str, float] = field(default_factory=dict)
    """Bytes in use, by what they are of."""

    values: Mapping[str, float] = field(default_factory=dict)
    """The newest number of every metric that is one number."""

    health: Health | None = None
    """The gradient health of the groups at the newest step."""

    counts: Mapping[str, int] = field(default_factory=dict)
    """How often each verdict but `proceed` was carried out."""

    num_lost: int = 0
    """How many updates were lost by it."""

    told: Sequence[Told] = ()
    """The newest of what happened, the newest last."""

    @property
    def left_seconds(self) -> float:
        """Seconds until it has all its steps, if they take as long as the newest; NaN where that is not known."""
        if self.num_steps is None or self.state not in ("running", "hung"):
            return math.nan
        return max(self.num_steps - self.step, 0) * self.step_seconds

    @property
    def is_over(self) -> bool:
        """True if nothing more is to come."""
        return self.state in ENDED

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON can hold it."""
        fields = {name: value for name, value in asdict(self).items() if name != "health"}
        groups = [] if self.health is None else [asdict(each) for each in self.health.groups]
        told: dict[str, Any] = to_json({**fields, "left_seconds": self.left_seconds, "groups": groups})
        return told


def judge_state(
    *, status: str | None, num_seen: int, silent_seconds: float, level: float, is_between: bool, holder: Holder | None
) -> tuple[State, str]:
    """The state of a run that was begun, and why.

    Args:
        status: how it ended, as it said itself; None if it did not, or went on since.
        num_seen: the steps that were recorded.
        silent_seconds: seconds since something was written.
        level: seconds a step usually takes; NaN if that is not known.
        is_between: True between two epochs.
        holder: the process that writes it; None if no file names one.
    """
    if status is not None:
        return _name_end(status)
    if holder is not None and not holder.is_alive:
        return "gone", f"its process ({holder.process}) is gone, and did not say how the run ended"
    usual = level if math.isfinite(level) else 0.0
    seconds = {"seconds": PAUSE_SECONDS} if is_between or not num_seen else {}
    if is_hung(silent_seconds, usual, **seconds):
        where = f"; `py-spy dump --pid {holder.process}` shows where" if holder is not None and holder.is_here else ""
        known = f", where {usual:.3g} s is usual" if usual else ""
        return "hung", f"nothing was written for {tell_seconds(silent_seconds)}{known}{where}"
    return ("running", "") if num_seen else ("starting", "it has begun and made no step yet")


def read_holder(folder: Path) -> Holder | None:
    """The process that writes a run, or was the last to; None if it was let go of, or is not known."""
    try:
        number, _, machine = (folder / HOLDER).read_text(encoding="utf-8").strip().partition(" on ")
        process = int(number)
    except (OSError, ValueError):
        return None
    is_here = os.name == "posix" and machine == platform.node()
    return Holder(process, is_here, not is_here or _is_alive(process))


def read_memory(holder: Holder | None) -> float:
    """Bytes of memory that a process of this machine has in use; NaN where that cannot be told."""
    if holder is None or not (holder.is_here and holder.is_alive):
        return math.nan
    try:
        pages = Path(f"/proc/{holder.process}/statm").read_text(encoding="ascii").split()[1]
        return float(pages) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return math.nan


def tell_seconds(seconds: float) -> str:
    """A time as a person says it: 0.12 s, 45 s, 12 min, 3 h 20 min, 2 days 4 h."""
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, hours = round(seconds / 60), int(seconds // 3600)
    if minutes < 120:
        return f"{minutes} min"
    if hours < 48:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{hours // 24} days {hours % 24} h"


def _name_end(status: str) -> tuple[State, str]:
    """A state from what a run said at its end, such as `failed: ValueError`."""
    name, _, cause = status.partition(": ")
    known: dict[str, State] = {"finished": "finished", "stopped-early": "stopped-early", "paused": "paused"}
    known |= {"halted": "halted", "failed": "failed"}
    if name not in known:
        return "finished", f"it ended as {status!r}"
    return known[name], f"it failed: {cause}" if cause else ""


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass  # it is there and another user's, or no number of a process
    return True
