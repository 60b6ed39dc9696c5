"""How long the step took, and what of it went where."""

from __future__ import annotations

from time import perf_counter, process_time

from trimtab.probes import Reading, probe
from trimtab.probes.subject import Moment, StepTimes


@probe("step_seconds", size=lambda moment: 5 * int(moment.seconds is not None))
def measure_step_seconds(moment: Moment) -> Reading:
    """`step_seconds`: seconds since the step before; `supervisor_seconds`: those of them the supervisor took.

    `cpu_seconds`: what the process computed meanwhile, all its threads together and without the loader's workers.
    `data_seconds`: how long the loop waited for data, where it has said so.
    """
    times = moment.seconds
    if times is None:
        return {}
    waited = times.data
    numbers = yield [times.step, times.supervisor, times.cpu, waited or 0.0, float(waited is not None)]
    known = dict(zip(("step_seconds", "supervisor_seconds", "cpu_seconds"), map(float, numbers), strict=False))
    return known | ({"data_seconds": float(numbers[3])} if numbers[4] == 1 else {})


class Stopwatch:
    """Where the time of a step goes: from check to check, what of it the supervisor took, and what was waited."""

    def __init__(self) -> None:
        self._began = self._check_began = self._cpu = 0.0
        self._seconds = 0.0
        self._waited: float | None = None

    def start(self) -> None:
        """Trimtab begins."""
        self._began = perf_counter()

    def stop(self) -> None:
        """Trimtab is done."""
        self._seconds += perf_counter() - self._began

    def wait(self, seconds: float) -> None:
        """The loop has waited for data."""
        self._waited = (self._waited or 0.0) + seconds

    def read(self) -> StepTimes | None:
        """All of it since the last reading, which is to be at the beginning of a check; None at the first."""
        last, self._check_began = self._check_began, self._began
        cpu_before, self._cpu = self._cpu, process_time()
        seconds, self._seconds = self._seconds, 0.0
        waited, self._waited = self._waited, None
        return StepTimes(self._began - last, seconds, self._cpu - cpu_before, waited) if last else None
