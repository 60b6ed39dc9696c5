"""How far parameters that change outside the optimizer have moved."""

from __future__ import annotations

from trimtab.probes import Reading, probe
from trimtab.probes.subject import Moment


@probe("self_update", size=lambda moment: int(moment.self_change is not None))
def measure_self_update(moment: Moment) -> Reading:
    """`self_update_ratio`: the largest ‖Δw‖ / ‖w‖ of a self-updating parameter since the step's first forward pass."""
    if moment.self_change is None:
        return {}
    numbers = yield [moment.self_change]
    return {"self_update_ratio": float(numbers[0])}
