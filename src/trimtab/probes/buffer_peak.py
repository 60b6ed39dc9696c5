"""The largest number in the buffers that change."""

from __future__ import annotations

from math import inf

import torch

from trimtab.probes import Reading, probe
from trimtab.probes.subject import Moment


@probe("buffer_peak", size=lambda moment: int(bool(moment.buffers)))
def measure_buffer_peak(moment: Moment) -> Reading:
    """`buffer_peak`: the largest magnitude in the buffers that the model changes, such as BatchNorm's statistics.

    NaN or infinite where one of their numbers is. In a distributed run it is the mean over all ranks. Absent for
    models without such buffers.
    """
    if not moment.buffers:
        return {}
    device = moment.subject.device
    peaks = torch.stack([each.to(device, torch.float32) for each in torch._foreach_norm(moment.buffers, inf)])
    numbers = yield peaks.max().reshape(1)
    return {"buffer_peak": float(numbers[0])}
