"""The parts of a loss that is a sum."""

from __future__ import annotations

import torch

from trimtab.probes import Reading, probe
from trimtab.probes.subject import Moment


@probe("loss_parts", size=lambda moment: len(moment.parts))
def measure_loss_parts(moment: Moment) -> Reading:
    """`part_NAME`: each part of the loss that was handed to `check`, in its own unit."""
    if not moment.parts:
        return {}
    device = moment.subject.device
    numbers = yield torch.stack([part.to(device, torch.float64) for part in moment.parts.values()])
    return {f"part_{name}": float(number) for name, number in zip(moment.parts, numbers, strict=True)}
