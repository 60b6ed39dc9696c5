"""How much of the gradients float16 could not hold."""

from __future__ import annotations

import torch
from torch import Tensor

from trimtab.probes import Reading, probe
from trimtab.probes.subject import Moment

SMALLEST = torch.finfo(torch.float16).smallest_normal
"""2⁻¹⁴, about 6.1e-5: below it float16 loses a bit of every number with each halving, and below 6e-8 all of it."""


def count_totals(moment: Moment) -> int:
    """Two totals at a sampled step of a float16 run whose gradients the loop has not clipped already."""
    return 2 if moment.is_sampled and moment.grad_norm is None and _is_float16(moment) else 0


@probe("underflow", size=count_totals)
def measure_underflow(moment: Moment) -> Reading:
    """`underflow_share`: the share of the gradient numbers that were too small for float16, from 0 to 1.

    It is measured at sampled steps, in a run with an enabled loss scaler (which is taken for a float16 run) or with
    float16 parameters. A number counts as too small if its magnitude, times the loss scale, is below 2⁻¹⁴. At a check
    the gradients are unscaled, and under autocast those of float32 parameters are float32; times the scale they are
    what the float16 backward pass put out, sums over micro-batches apart.

    Zeros count only in a tensor of nothing else. In any other they are left out on both sides of the share: a
    rectified unit, a pixel that is always black and the unused row of an embedding give zeros too, while a tensor
    whose numbers have underflowed to zero in part has 3 decades of numbers below 2⁻¹⁴ beside them.

    Not measured where the loop hands its own `grad_norm` over, since by then it has often clipped. With several ranks
    the counts are averaged before the share is taken.
    """
    if not count_totals(moment):
        return {}
    subject = moment.subject
    scale: Tensor | float | None = 1.0
    if subject.scaler is not None and subject.scales:
        scale = subject.scaler._get_scale_async()
    gradients = [each for each in subject.list_gradients() if each is not None and each.numel()]
    if not subject.scales:
        gradients = [each for each in gradients if each.dtype == torch.float16]
    if scale is None or not gradients:
        yield torch.full((2,), torch.nan)
        return {}
    numbers = yield count_small(gradients, scale, subject.device)
    num_small, num_counted = float(numbers[0]), float(numbers[1])
    return {"underflow_share": num_small / num_counted} if num_counted > 0 else {}


def count_small(gradients: list[Tensor], scale: Tensor | float, device: torch.device) -> Tensor:
    """How many numbers are too small for float16 once scaled, and of how many; shape (2,).

    Args:
        gradients: unscaled gradients, none of them empty.
        scale: the loss scale.
        device: where the counts are gathered.
    """
    limit = SMALLEST / scale
    limits = {each.device: limit.to(each.device) if isinstance(limit, Tensor) else limit for each in gradients}
    below = torch.stack([(each.abs() < limits[each.device]).sum().to(device) for each in gradients])
    there = torch.stack([torch.count_nonzero(each).to(device) for each in gradients])
    size = torch.tensor([each.numel() for each in gradients], device=device)
    is_empty = there == 0
    small = torch.where(is_empty, size, below - (size - there))
    return torch.stack((small.sum(), torch.where(is_empty, size, there).sum())).to(torch.float32)


def _is_float16(moment: Moment) -> bool:
    return moment.subject.scales or any(each.dtype == torch.float16 for each in moment.subject.parameters)
