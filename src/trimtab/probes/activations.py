"""What layers give: mean, spread, largest magnitude, and the shares that are zero and saturated."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import inf, nan
from typing import TypeGuard

import numpy as np
import torch
from torch import Tensor, nn

from trimtab.probes import Reading, Watch, probe
from trimtab.probes.subject import Moment, Subject

NAME = "activations"

METRICS = ("activation_mean", "activation_std", "activation_largest", "zero_units", "saturated_units")

ACTIVATIONS = (
    nn.CELU,
    nn.ELU,
    nn.GELU,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardtanh,
    nn.LeakyReLU,
    nn.Mish,
    nn.PReLU,
    nn.ReLU,
    nn.SELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softplus,
    nn.Softsign,
    nn.Tanh,
)
"""The activations that are seen as modules; ReLU6 is a Hardtanh."""

EDGE = 0.005
"""A value within this share of the bounds' distance of one of them is saturated: of a tanh, from 0.99 on."""

NEAR = 0.99
"""The share of its largest magnitude from which a value without bounds counts as saturated."""

MIN_VALUES = 256
"""Values that a layer has to give for its shares to mean anything."""

MIN_SAMPLES = 8
"""Samples of a batch from which it is told whether outputs differ between them."""


class ActivationWatch(Watch):
    """Sums up what layers give in the forward passes of a step: of every output six numbers are kept.

    Of a group with activations that are modules, these are seen, otherwise the outputs of its trained modules.

    Args:
        subject: the live training.
    """

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self._sums: dict[int, Tensor] = {}
        self._largest: dict[int, Tensor] = {}
        self._spread: Tensor | None = None
        self._failure: Exception | None = None
        self.hooks = [module.register_forward_hook(partial(self._see, group)) for module, group in list_layers(subject)]
        if not isinstance(subject.model, torch.jit.ScriptModule):
            self.hooks.append(subject.model.register_forward_hook(self._see_output))

    def judge(self, subject: Subject) -> Tensor:
        """The metrics of every group, one metric after the other, then the spread; NaN where nothing was seen."""
        if self._failure is not None:
            raise self._failure
        table = torch.full((len(METRICS), len(subject.groups)), nan, device=subject.device)
        for group, sums in self._sums.items():
            num, total, squares, num_zero, num_saturated = sums.to(subject.device).unbind()
            largest = self._largest[group].to(subject.device)
            found = (total / num, (squares / num).sqrt(), largest, num_zero / num, num_saturated / num)
            table[:, group] = torch.where(num >= MIN_VALUES, torch.stack(found).float(), nan)
        spread = torch.full((1,), nan) if self._spread is None else self._spread.reshape(1)
        return torch.cat((table.flatten(), spread.to(table)))

    def _see(self, group: int, module: nn.Module, _: object, output: object) -> None:
        """Called in a forward pass: nothing may change the output, keep it alive, or raise."""
        if not self._can_see(output):
            return
        try:
            with torch.no_grad():
                values = output.detach().float()
                sizes = values.abs()
                largest = sizes.amax()
                low, high = find_bounds(module)
                is_edge = sizes > NEAR * largest if high == inf else _is_at_edge(values, low, high)
                num = torch.tensor(float(values.numel()), dtype=torch.float64, device=values.device)
                squares = measure_squares(values)
                sums = [num, values.sum(dtype=torch.float64), squares, (values == 0).sum(), is_edge.sum()]
                found = torch.stack([each.to(torch.float64) for each in sums])
                known = self._sums.get(group)
                self._sums[group] = found if known is None else known + found.to(known.device)
                before = self._largest.get(group)
                self._largest[group] = largest if before is None else torch.maximum(before, largest.to(before.device))
        except Exception as failure:
            self._failure = failure

    def _can_see(self, output: object) -> TypeGuard[Tensor]:
        """True for numbers of the forward pass that is trained: not of a validation, or within a `torch.func`."""
        if torch.compiler.is_compiling() or not self.is_open or not torch.is_grad_enabled():
            return False
        if not isinstance(output, Tensor) or not output.is_floating_point() or not output.numel():
            return False
        return output.layout == torch.strided and not torch._C._functorch.is_functorch_wrapped_tensor(output)

    def _see_output(self, _: nn.Module, __: object, output: object) -> None:
        if not self._can_see(output) or output.ndim < 1 or len(output) < MIN_SAMPLES:
            return
        try:
            with torch.no_grad():
                values = output.detach().float()
                self._spread = values.std(0).square().mean().sqrt() / values.square().mean().sqrt()
        except Exception as failure:
            self._failure = failure


def measure_squares(values: Tensor) -> Tensor:
    """The squared distances of values from the mean over the samples of their batch, summed up.

    What a layer adds to all samples alike, such as a bias, says nothing of the input and is left out so.
    """
    if values.ndim < 2 or len(values) < 2:
        return (values - values.mean()).square().sum(dtype=torch.float64)
    return (values - values.mean(0)).square().sum(dtype=torch.float64)


def list_layers(subject: Subject) -> Iterator[tuple[nn.Module, int]]:
    """The modules that are seen, each with the index of its group.

    An activation belongs to the trained module before it; one behind all of them is the output's, which may saturate.
    """
    group_of = dict(zip(subject.names, subject.group_of.tolist(), strict=True))
    trained: list[tuple[nn.Module, int]] = []
    active: list[tuple[nn.Module, int, int]] = []
    for path, module in subject.network.named_modules():
        owned = [name for name, _ in module.named_parameters(path, recurse=False) if name in group_of]
        if isinstance(module, torch.jit.ScriptModule):
            continue
        if isinstance(module, ACTIVATIONS) and trained:
            active.append((module, trained[-1][1], len(trained)))
        elif owned:
            trained.append((module, group_of[owned[0]]))
    inner = [(module, group) for module, group, num_before in active if num_before < len(trained)]
    with_activation = {group for _, group in inner}
    yield from inner
    yield from ((module, group) for module, group in trained if group not in with_activation)


def find_bounds(module: nn.Module) -> tuple[float, float]:
    """Between which two values an activation stays; infinite ones where it has none above.

    Of ReLU6 only the upper one bounds: what is 0 is dead, not saturated.
    """
    if isinstance(module, nn.ReLU6):
        return -inf, 6.0
    if isinstance(module, nn.Hardtanh):
        return float(module.min_val), float(module.max_val)
    if isinstance(module, (nn.Sigmoid, nn.Hardsigmoid)):
        return 0.0, 1.0
    return (-1.0, 1.0) if isinstance(module, (nn.Tanh, nn.Softsign)) else (-inf, inf)


def _is_at_edge(values: Tensor, low: float, high: float) -> Tensor:
    if low == -inf:
        return values > (1 - EDGE) * high
    margin = EDGE * (high - low)
    return (values < low + margin) | (values > high - margin)


def count_numbers(moment: Moment) -> int:
    """The metrics of each group and one number of the output, at a sampled step."""
    return len(METRICS) * len(moment.subject.groups) + 1 if moment.is_sampled else 0


@probe(NAME, size=count_numbers, per_group=METRICS, is_sampled=True, watch=ActivationWatch)
def measure_activations(moment: Moment) -> Reading:
    """`activation_mean`, `activation_std`, `activation_largest`, `zero_units`, `saturated_units`: of each group.

    They are of all values its activations gave in the step, or its trained modules where it has no activation that is
    a module: mean, standard deviation between the samples, largest magnitude, and the shares that are exactly 0, and
    at a bound of the activation, or for one without bounds above 0.99 of the largest. `output_spread`: how far the
    model's outputs differ between samples, relative to their size; absent where the model gives no tensor. In a
    distributed run the means over all ranks.
    """
    if not moment.is_sampled:
        return {}
    watch, subject = moment.watches.get(NAME), moment.subject
    num = count_numbers(moment)
    numbers = yield torch.full((num,), nan) if watch is None else watch.judge(subject)
    table = np.asarray(numbers[:-1], dtype=np.float32).reshape(len(METRICS), -1)
    found = {name: tuple(row.tolist()) for name, row in zip(METRICS, table, strict=True) if np.isfinite(row).any()}
    spread = float(numbers[-1])
    return {**found, **({"output_spread": spread} if np.isfinite(spread) else {})}
