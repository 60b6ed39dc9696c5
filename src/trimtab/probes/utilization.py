"""How much of the device is used."""

from __future__ import annotations

import torch

from trimtab.probes import Reading, probe
from trimtab.probes.subject import Moment


def count_numbers(moment: Moment) -> int:
    """The share and whether it is known, at a sampled step on a device that says how much of it is used."""
    return 2 * int(moment.is_sampled and moment.subject.device.type == "cuda")


@probe("device_utilization", size=count_numbers)
def measure_utilization(moment: Moment) -> Reading:
    """`device_utilization`: the share of the last second or so in which the GPU was busy, from 0 to 1.

    At sampled steps on CUDA devices; absent where the driver does not say, or nvidia-ml-py is not installed.
    """
    if not count_numbers(moment):
        return {}
    numbers = yield _read(moment.subject.device)
    return {"device_utilization": float(numbers[0])} if numbers[1] == 1 else {}


def _read(device: torch.device) -> list[float]:
    try:
        return [torch.cuda.utilization(device) / 100, 1.0]
    except Exception:  # it is read through a package that may be missing, and a driver that may refuse
        return [0.0, 0.0]
