"""How long the step took."""

from __future__ import annotations

from time import perf_counter

from trimtab.probes import Reading, probe
from trimtab.probes.subject import Moment


@probe("step_seconds", size=lambda moment: 2 * int(moment.seconds is not None))
def measure_step_seconds(moment: Moment) -> Reading:
    """`step_seconds`: seconds since the step before; `supervisor_seconds`: those of them the supervisor took."""
    if moment.seconds is None:
        return {}
    numbers = yield moment.seconds
    return {"step_seconds": float(numbers[0]), "supervisor_seconds": float(numbers[1])}


class Stopwatch:
    """Where the time of a step goes: seconds from check to check, and those of them the supervisor took."""

    def __init__(self) -> None:
        self._began = self._check_began = 0.0
        self._seconds = 0.0

    def start(self) -> None:
        """Trimtab begins."""
        self._began = perf_counter()

    def stop(self) -> None:
        """Trimtab is done."""
        self._seconds += perf_counter() - self._began

    def read(self) -> tuple[float, float] | None:
        """Both numbers since the last reading, which is to be at the beginning of a check."""
        last, self._check_began = self._check_began, self._began
        seconds, self._seconds = self._seconds, 0.0
        return (self._began - last, seconds) if last else None
