"""The loss of the step."""

from __future__ import annotations

import torch

from trimtab.probes import Reading, probe
from trimtab.probes.subject import Moment


@probe("loss", size=lambda moment: int(moment.loss is not None))
def measure_loss(moment: Moment) -> Reading:
    """`loss`: the loss handed to `check`, in its own unit; not measured where it is not known."""
    numbers = yield torch.empty(0) if moment.loss is None else moment.loss
    return {"loss": float(numbers[0])} if numbers.size else {}
