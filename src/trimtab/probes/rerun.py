"""The loss of a batch once more, to tell a fault that passes from one that stays."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from trimtab.probes.batches import map_tensors

ComputeLoss: TypeAlias = Callable[[nn.Module, Any], Tensor | Mapping[str, Tensor]]
"""`compute_loss(model, batch)`: the loss, 0-d, or several losses by name whose sum is the loss."""

SPREAD_FACTOR = 11.0
"""How many spreads of two reruns the loss before may lie from them. A third draw from the normal distribution that two
draws came from lies within t·√(3/4) times their distance of their mean; t = 12.7 is Student's, for one degree of
freedom and 95 %."""

ROUNDING = float(torch.finfo(torch.float32).eps)
"""What the loss before may have lost, relative to it, by being kept as float32."""

SAME_IN_FLOAT32 = 0.1
"""How far the loss in float32 may be from the one in lower precision, relative to the larger, and still be the same
fault. bfloat16 rounds each number by up to 0.4 %, which a deep network amplifies; a spike is a multiple."""

HALF = (torch.float16, torch.bfloat16)
"""The dtypes of lower precision."""

Verdict = Literal["transient", "persistent", "structural", "precision"]


@dataclass(frozen=True, slots=True)
class Rerun:
    """What computing a loss again says of a fault."""

    verdict: Verdict
    """transient: it did not recur, so hardware or a race is suspect. persistent: it recurs with this batch and this
    state. structural: it recurs in float32 too. precision: it recurs, but not in float32."""

    before: float
    """The loss that was judged a fault."""

    after: float
    """The loss of the first rerun; of the second where only that one is not finite."""

    spread: float
    """How far apart two reruns from the same state are: 0 if the loss is deterministic, infinite if just one of them is
    finite."""

    in_float32: float | None
    """The loss in float32 without autocast; None if it was not computed or cannot be."""

    message: str
    """All of it in one sentence."""


@torch.enable_grad()
def judge_rerun(
    model: nn.Module, compute_loss: ComputeLoss, batch: Any, before: float, *, restore: Callable[[], None]
) -> Rerun:
    """Compute a loss again, twice from the same state and once in float32, to tell what kind of fault it was.

    Two reruns measure how far the loss is deterministic. The fault recurs if the loss before lies within
    `SPREAD_FACTOR` times their distance of their mean, or if neither it nor they are finite. Only then is the loss
    computed in float32: autocast is off, also where `compute_loss` turns it on, and a model with parameters or buffers
    in lower precision is copied, the batch too. Where the run was in float32 anyway, that says nothing new, so a finite
    loss that recurs is persistent and one that is not finite structural.

    The reruns build a graph, as the step did, since kernels are chosen by it. Setting the model's buffers back is
    the caller's business, either in `restore` or around all of it.

    Args:
        model: the model, in the mode it is in, under the autocast that is active.
        compute_loss: gives the loss of a batch.
        batch: the batch.
        before: the loss that was judged a fault.
        restore: sets the random numbers back to what they were; called before each rerun.
    """
    restore()
    first = compute_number(model, compute_loss, batch)
    restore()
    second = compute_number(model, compute_loss, batch)
    spread = _measure_spread(first, second)
    after = second if isfinite(first) and not isfinite(second) else first
    if not _recurs(before, first, second, spread):
        return Rerun("transient", before, after, spread, None, _tell("transient", before, after, spread, None))
    restore()
    in_float32, was_lower = _compute_in_float32(model, compute_loss, batch)
    verdict = _classify(before, in_float32, was_lower)
    return Rerun(verdict, before, after, spread, in_float32, _tell(verdict, before, after, spread, in_float32))


@contextmanager
def keep_training(model: nn.Module) -> Iterator[None]:
    """Set back at the end of a `with` block what a forward pass may change; the parameters' values it does not.

    That is buffers, tensor for tensor; gradients, as the tensors they are; training flags; `requires_grad`; and the
    random numbers of Python, NumPy and PyTorch, on the CPU and on every CUDA device in use.

    Args:
        model: the model.
    """
    modules = [(each, each.training, dict(each._buffers.items())) for each in model.modules()]
    values = {id(buffer): (buffer, buffer.clone()) for buffer in model.buffers()}
    parameters = [(each, each.grad, each.requires_grad) for each in model.parameters()]
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  the generator user code draws from
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(list(devices)):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        for module, training, buffers in modules:
            module.training = training
            if isinstance(module._buffers, dict):  # those of a scripted module cannot be replaced
                module._buffers.clear()
                module._buffers.update(buffers)
        with torch.no_grad():
            for live, value in values.values():
                if not torch.equal(live, value):
                    live.copy_(value)
        for parameter, grad, requires_grad in parameters:
            parameter.requires_grad_(requires_grad)
            parameter.grad = grad


class _WithoutAutocast(TorchFunctionMode):
    """Turns autocast off in every function, whoever turned it on, and notes whether it was on."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self._device = device
        self.was_on = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.was_on = self.was_on or torch.is_autocast_enabled(self._device)
        with torch.autocast(self._device, enabled=False):
            return func(*args, **(kwargs or {}))


def compute_number(model: nn.Module, compute_loss: ComputeLoss, batch: Any) -> float:
    """The loss of a batch as a number: the sum where there are several."""
    loss = compute_loss(model, batch)
    total = sum(loss.values()) if isinstance(loss, Mapping) else loss
    return float(total.detach() if isinstance(total, Tensor) else total)


def _compute_in_float32(model: nn.Module, compute_loss: ComputeLoss, batch: Any) -> tuple[float | None, bool]:
    """The loss in float32, None where the model cannot run in it, and whether the run is in lower precision."""
    state = [*model.parameters(), *model.buffers()]
    is_half = any(each.dtype in HALF for each in state)
    mode = _WithoutAutocast(state[0].device.type if state else "cpu")
    try:
        if is_half:
            model, batch = copy.deepcopy(model).float(), map_tensors(batch, _to_float32)
        with mode:
            return compute_number(model, compute_loss, batch), is_half or mode.was_on
    except RuntimeError:  # a kernel that has no float32, or too little memory
        return None, True


def _to_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in HALF else tensor


def _measure_spread(first: float, second: float) -> float:
    if isfinite(first) and isfinite(second):
        return abs(first - second)
    return inf if isfinite(first) or isfinite(second) else 0.0


def _recurs(before: float, first: float, second: float, spread: float) -> bool:
    if not isfinite(spread) or not isfinite(before) or not isfinite(first):
        return not any(isfinite(each) for each in (before, first, second))
    return abs(before - (first + second) / 2) <= SPREAD_FACTOR * spread + ROUNDING * abs(before)


def _classify(before: float, in_float32: float | None, was_lower: bool) -> Verdict:
    """What a fault is that recurs."""
    if in_float32 is None:
        return "persistent"
    if not isfinite(in_float32):
        return "structural"
    if not was_lower:
        return "persistent"
    larger = max(abs(before), abs(in_float32))
    is_same = isfinite(before) and abs(before - in_float32) <= SAME_IN_FLOAT32 * larger
    return "structural" if is_same else "precision"


def _tell(verdict: Verdict, before: float, after: float, spread: float, in_float32: float | None) -> str:
    if verdict == "transient":
        apart = "the reruns differ from each other" if spread == inf else f"two reruns differ by {spread:.2g}"
        return (
            f"transient: the loss is {after:.6g} this time, not {before:.6g} ({apart}), so the fault did not recur; "
            "suspect the hardware or a race"
        )
    again = f"{verdict}: the loss is {after:.6g} again"
    if verdict == "structural":
        return f"{again}, in float32 too, so the fault lies in the computation itself with this batch and these weights"
    if verdict == "precision":
        return f"{again} but {in_float32:.6g} in float32, so the fault lies in the lower precision"
    return f"{again}, so the fault lies in this batch or these weights"
