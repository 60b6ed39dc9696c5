"""The loss of the step."""

from __future__ import annotations

from trimtab.probes import Reading, probe
from trimtab.probes.subject import Moment


@probe("loss", size=lambda moment: int(moment.loss is not None))
def measure_loss(moment: Moment) -> Reading:
    """`loss`: the loss handed to `check`, in its own unit; not measured where it is not known."""
    if moment.loss is None:
        return {}
    numbers = yield moment.loss
    return {"loss": float(numbers[0])}
