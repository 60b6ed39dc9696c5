"""What a preflight says: a line for each thing that was tried."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Status: TypeAlias = Literal["pass", "warn", "fail", "skipped"]
"""How a line ends. `skipped`: it was not tried, and the reason says why."""


MORE_TIME = "raise the budget"
"""The fix where there was no time."""


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that was tried before the first step."""

    name: str
    """What was tried; kebab-case."""

    status: Status
    """How it ended."""

    number: float | None
    """What was measured; the reason says of what, and in which unit. None where there is no number."""

    reason: str
    """What was seen, in one sentence."""

    fix: str = ""
    """What to do; empty where there is nothing to do."""

    step: int = 0
    """The step of the checklist it belongs to."""

    def __str__(self) -> str:
        fix = f" → {self.fix}" if self.fix else ""
        return f"{self.step:>2} {self.status:<7} {self.name}: {self.reason}{fix}"

    def to_dict(self) -> dict[str, Any]:
        """It as JSON has it."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True, slots=True)
class Preflight:
    """What a preflight found: the lines of the checklist in order, and the batch it looked at; text when printed."""

    lines: tuple[Line, ...]
    """The lines, in the order of the checklist."""

    picture: str
    """The first batch: what it holds, and a picture of it in characters."""

    seconds: float
    """How long it took."""

    @property
    def status(self) -> Status:
        """`fail` if any line fails, else `warn` if any warns, else `pass`."""
        found = {each.status for each in self.lines}
        return "fail" if "fail" in found else "warn" if "warn" in found else "pass"

    @property
    def exit_status(self) -> int:
        """What the command ends with: 1 if a line fails, else 0."""
        return int(self.status == "fail")

    def find(self, name: str) -> Line:
        """The first line of a name.

        Raises:
            KeyError: if there is none.
        """
        for each in self.lines:
            if each.name == name:
                return each
        raise KeyError(name)

    def count(self, status: Status) -> int:
        """How many lines end so."""
        return sum(each.status == status for each in self.lines)

    def __str__(self) -> str:
        counts = ", ".join(f"{self.count(each)} {each}" for each in ("pass", "warn", "fail", "skipped"))
        return "\n".join([self.picture, "", *map(str, self.lines), "", f"{counts} in {self.seconds:.0f} s"])

    def to_dict(self) -> dict[str, Any]:
        """It as JSON has it."""
        lines = [each.to_dict() for each in self.lines]
        return {"status": self.status, "seconds": self.seconds, "picture": self.picture, "lines": lines}
