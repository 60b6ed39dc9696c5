"""The loss of the step."""

from __future__ import annotations

import torch

from trimtab.probes import Reading, probe
from trimtab.probes.subject import Moment
from trimtab.ranks import is_distributed


def count_losses(moment: Moment) -> int:
    """The loss, where it is known; of several ranks all, with how many of them have one."""
    return 2 if is_distributed() else int(moment.loss is not None)


@probe("loss", size=count_losses)
def measure_loss(moment: Moment) -> Reading:
    """`loss`: the loss handed to `check`, in its own unit; not measured where it is not known.

    In a distributed run the mean over the ranks that have one.
    """
    if not is_distributed():
        if moment.loss is None:
            return {}
        numbers = yield moment.loss
        return {"loss": float(numbers[0])}
    numbers = yield [0.0, 0.0] if moment.loss is None else torch.stack((moment.loss, torch.ones_like(moment.loss)))
    return {"loss": float(numbers[0] / numbers[1])} if numbers[1] > 0 else {}
