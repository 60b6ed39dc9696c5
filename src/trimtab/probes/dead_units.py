"""Units of ReLU layers that are zero for a whole batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from math import nan

import numpy as np
import torch
from torch import Tensor, nn

from trimtab.probes import Reading, Watch, probe
from trimtab.probes.subject import Moment, Subject

NAME = "dead_units"

RELUS = (nn.ReLU, nn.ReLU6)
"""What is exactly 0 for every negative input, and lets no gradient through there."""

CHANNELS_FIRST = (nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d, nn.InstanceNorm1d, nn.GroupNorm)
"""After these, a 3-d output is (batch, channels, time); otherwise it is taken for (batch, time, features)."""

MIN_PLACES = 32
"""Places (samples, times their positions) a unit must have been seen at: of a live unit half of them are 0 in a young
network and nine in ten in a sparse one, of which 32 in a row have a chance of 1 in 30."""


class UnitWatch(Watch):
    """Sees which units of a model's ReLU modules are above zero anywhere in a step's batch.

    Of every output only one flag per unit is kept. A module that is called at several places of the network counts
    once for each width; of the calls with one width, a unit is dead if it is in all.

    Args:
        subject: the live training.
    """

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self._is_alive: dict[tuple[int, int, int], Tensor] = {}
        self._num_places: Counter[tuple[int, int, int]] = Counter()
        self._failure: Exception | None = None
        self.hooks = [
            relu.register_forward_hook(partial(self._see, group, before)) for relu, group, before in list_relus(subject)
        ]

    def judge(self, subject: Subject) -> Tensor:
        """The share of dead units in each group, NaN where none was seen often enough; shape (groups,)."""
        if self._failure is not None:
            raise self._failure
        shares = torch.full((len(subject.groups),), nan, device=subject.device)
        by_group: dict[int, list[Tensor]] = {}
        for key, is_alive in self._is_alive.items():
            if self._num_places[key] >= MIN_PLACES:
                by_group.setdefault(key[0], []).append(is_alive.to(subject.device))
        for group, flags in by_group.items():
            shares[group] = 1 - torch.cat(flags).float().mean()
        return shares

    def _see(self, group: int, before: nn.Module, relu: nn.Module, _: object, output: Tensor) -> None:
        """Called in a forward pass: nothing may change the output, keep it alive, or raise."""
        if torch.compiler.is_compiling() or not self.is_open or not 2 <= output.ndim <= 5:
            return
        try:
            unit = choose_dimension(output, before)
            num_units = output.shape[unit]
            key = (group, id(relu), num_units)
            with torch.no_grad():
                is_alive = output.amax([each for each in range(output.ndim) if each != unit]) != 0
                known = self._is_alive.get(key)
                self._is_alive[key] = is_alive if known is None else known | is_alive
            self._num_places[key] += output.numel() // num_units
        except Exception as failure:
            self._failure = failure


def list_relus(subject: Subject) -> Iterator[tuple[nn.Module, int, nn.Module]]:
    """The ReLU modules of a model, each with the trained module before it and that one's group, by its index.

    Before it means in the order of the model's modules. Those before all trained modules are left out.
    """
    group_of = dict(zip(subject.names, subject.group_of.tolist(), strict=True))
    before, group = None, 0
    for path, module in subject.network.named_modules():
        for name, _ in module.named_parameters(path, recurse=False):
            if name in group_of:
                before, group = module, group_of[name]
        if isinstance(module, RELUS) and before is not None:
            yield module, group, before


def choose_dimension(output: Tensor, before: nn.Module) -> int:
    """The dimension of an output that counts its units: the last after a linear layer, otherwise the second or last."""
    is_last = isinstance(before, nn.Linear) or (output.ndim == 3 and not isinstance(before, CHANNELS_FIRST))
    return output.ndim - 1 if is_last else 1


def count_groups(moment: Moment) -> int:
    """One number per group at a sampled step."""
    return len(moment.subject.groups) if moment.is_sampled else 0


@probe(NAME, size=count_groups, per_group=(NAME,), is_sampled=True, watch=UnitWatch)
def measure_dead_units(moment: Moment) -> Reading:
    """`dead_units`: of each group, the share of ReLU units that were 0 for the whole batch.

    A unit is a channel of a convolution, or a feature. Only modules of the types `ReLU` and `ReLU6` are seen, and
    each counts for the group of the trained module before it; the functions of the same name are not seen, nor is
    what `torch.compile` has compiled. NaN for a group without such units; in a distributed run the mean over all
    ranks, each with its own batch.
    """
    if not moment.is_sampled:
        return {}
    watch, subject = moment.watches.get(NAME), moment.subject
    numbers = yield torch.full((len(subject.groups),), nan) if watch is None else watch.judge(subject)
    shares = np.asarray(numbers, dtype=np.float32)
    return {NAME: tuple(shares.tolist())} if np.isfinite(shares).any() else {}
