"""How much of an update was lost to rounding."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from trimtab.probes import Reading, probe
from trimtab.probes.subject import Moment
from trimtab.ranks import take_part

HALF = (torch.float16, torch.bfloat16)
"""The dtypes of parameters in which small updates are lost: they keep 11 and 8 significant bits."""


def count_numbers(moment: Moment) -> int:
    """Two counts per half-precision parameter where the update is one to measure."""
    return 2 * len(_list_half(moment)) if moment.is_ratio_due else 0


@probe("lost_updates", size=count_numbers, per_group=("lost_updates",), is_sampled=True)
def measure_lost_updates(moment: Moment) -> Reading:
    """`lost_updates`: of each group, the share of the weights the last update left exactly as they were, from 0 to 1.

    Only weights with a gradient other than 0 count, and only those of parameters in bfloat16 or float16: a weight of
    bfloat16 stays what it is unless the update is above a 512th of it, for some values a 256th. NaN for a group
    without such weights, and nothing is measured in a run without them. The gradients looked at are those at hand,
    one step younger than the update.

    Left out are tables of which a batch uses some rows, such as embeddings, since the update before used other rows:
    sparse gradients, and those whose rows are zero to more than a half.
    """
    if not count_numbers(moment):
        return {}
    subject, half = moment.subject, _list_half(moment)
    if moment.reference is None:
        yield torch.full((count_numbers(moment),), torch.nan)
        return {}
    counts = [
        count_lost(subject.parameters[index], moment.reference[index]) * subject.num_parts[index] for index in half
    ]
    numbers = yield torch.cat([count.to(subject.device) for count in counts])
    totals = np.zeros((len(subject.groups), 2))
    np.add.at(totals, subject.group_of[half], np.asarray(numbers, dtype=np.float64).reshape(-1, 2))
    with np.errstate(invalid="ignore"):
        shares = totals[:, 0] / totals[:, 1]
    return {"lost_updates": tuple(shares.astype(np.float32).tolist())} if np.isfinite(shares).any() else {}


def count_lost(parameter: Tensor, before: Tensor) -> Tensor:
    """How many weights with a gradient are as they were before the update, and how many have one; shape (2,).

    Args:
        parameter: a parameter, with its gradient; of a sharded one this rank's part is looked at.
        before: what it was.
    """
    gradient, parameter = take_part(parameter.grad), take_part(parameter)
    if gradient is None or gradient.is_sparse or not gradient.numel():
        return torch.zeros(2, device=parameter.device)
    has_gradient = gradient != 0
    is_lost = has_gradient & (parameter == before)
    counts = torch.stack((is_lost.sum(), has_gradient.sum())).to(torch.float32)
    if gradient.ndim < 2:
        return counts
    is_used = has_gradient.flatten(1).any(1)
    return torch.where(2 * is_used.sum() < len(is_used), 0.0, counts)


def _list_half(moment: Moment) -> list[int]:
    """The indices of the parameters in half precision."""
    return [index for index, each in enumerate(moment.subject.parameters) if each.dtype in HALF]
