"""Whether the micro-batches of a step pull in the same direction."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from math import isfinite, nan

import torch
from torch import Tensor

from trimtab.probes import Reading, Watch, probe
from trimtab.probes.subject import Moment, Subject

NAME = "gradient_agreement"


class AgreementWatch(Watch):
    """Sees each micro-batch's own gradient of every parameter, and keeps the one before.

    Args:
        subject: the live training.
    """

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self._before: dict[int, Tensor] = {}
        self._num_seen: dict[int, int] = defaultdict(int)
        self._dots: dict[int, list[Tensor]] = defaultdict(list)
        self._squares: dict[int, list[Tensor]] = defaultdict(list)
        self._failure: Exception | None = None
        trained = [each for each in subject.parameters if each.requires_grad]
        self.hooks = [each.register_hook(partial(self._see, id(each))) for each in trained]

    def judge(self, device: torch.device) -> Tensor:
        """The mean cosine between the gradients of consecutive micro-batches; shape (1,), NaN for fewer than two."""
        self._before = {}
        if self._failure is not None:
            raise self._failure
        squares = {index: _add(parts, device) for index, parts in self._squares.items()}
        cosines = [
            _add(parts, device) / (squares[index] * squares[index - 1]).sqrt() for index, parts in self._dots.items()
        ]
        return torch.stack(cosines).mean().reshape(1) if cosines else torch.full((1,), nan)

    def _see(self, key: int, gradient: Tensor) -> None:
        """Called in a backward pass with what it adds to one gradient: nothing may wait for the device, or raise."""
        if not self.is_open:
            return
        try:
            dense = gradient.detach().to_dense() if gradient.is_sparse else gradient.detach()
            real = torch.view_as_real(dense) if dense.is_complex() else dense
            index, flat = self._num_seen[key], real.reshape(-1).float()
            self._num_seen[key] += 1
            self._squares[index].append(torch.dot(flat, flat))
            before = self._before.get(key)
            if before is not None:
                self._dots[index].append(torch.dot(flat, before))
            self._before[key] = flat
        except Exception as failure:
            self._failure = failure


def _add(parts: list[Tensor], device: torch.device) -> Tensor:
    return torch.stack([each.to(device) for each in parts]).sum()


@probe(NAME, size=lambda moment: int(moment.is_sampled), watch=AgreementWatch)
def measure_gradient_agreement(moment: Moment) -> Reading:
    """`gradient_agreement`: the mean cosine between the gradients of consecutive micro-batches of a sampled step.

    1 where they pull the same way, 0 where they have nothing in common, so that the step is noise. Absent where a step
    is one micro-batch. It costs one gradient's memory in that step.
    """
    if not moment.is_sampled:
        return {}
    watch = moment.watches.get(NAME)
    numbers = yield torch.full((1,), nan) if watch is None else watch.judge(moment.subject.device)
    agreement = float(numbers[0])
    return {NAME: agreement} if isfinite(agreement) else {}
