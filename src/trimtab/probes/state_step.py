"""Which state a step measures."""

from __future__ import annotations

from trimtab.probes import probe
from trimtab.probes.subject import Moment
from trimtab.types import STATE_STEP, Value


@probe("state_step")
def measure_state_step(moment: Moment) -> dict[str, Value]:
    """`state_step`: the step whose update is the last one in the state at hand, after a skip or a rollback."""
    return {} if moment.state_step is None else {STATE_STEP: float(moment.state_step)}
