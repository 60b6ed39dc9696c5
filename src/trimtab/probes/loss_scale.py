"""The loss scale of mixed-precision training."""

from __future__ import annotations

import torch

from trimtab.probes import Reading, probe
from trimtab.probes.subject import Moment


@probe("loss_scale", size=lambda moment: int(moment.subject.scales))
def measure_loss_scale(moment: Moment) -> Reading:
    """`loss_scale`: the factor the loss was multiplied by; not measured without an enabled scaler."""
    scaler = moment.subject.scaler
    if scaler is None or not scaler.is_enabled():
        return {}
    scale = scaler._get_scale_async()
    numbers = yield torch.tensor([torch.nan]) if scale is None else scale
    return {"loss_scale": float(numbers[0])}
