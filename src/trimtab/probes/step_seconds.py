"""How long the step took."""

from __future__ import annotations

from trimtab.probes import Reading, probe
from trimtab.probes.subject import Moment


@probe("step_seconds", size=lambda moment: 2 * int(moment.seconds is not None))
def measure_step_seconds(moment: Moment) -> Reading:
    """`step_seconds`: seconds since the step before; `supervisor_seconds`: those of them the supervisor took."""
    if moment.seconds is None:
        return {}
    numbers = yield moment.seconds
    return {"step_seconds": float(numbers[0]), "supervisor_seconds": float(numbers[1])}
