"""A trial: the loss of one batch, forward and backward, with the calls of PyTorch noted that say how it is made."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.overrides import TorchFunctionMode

from trimtab.probes.batches import map_tensors
from trimtab.probes.inspection import clean_name, list_tensors
from trimtab.probes.rerun import ComputeLoss, keep_training
from trimtab.recipes.calls import (
    ACTIVATIONS,
    LOSSES,
    PAIRING,
    PASSING,
    TARGET_NAMES,
    WATCHED,
    Call,
    count_out_of_range,
)


@dataclass(slots=True, eq=False)
class Trial:
    """What became of one batch."""

    calls: list[Call] = field(default_factory=list)
    """The calls of watched functions, in order."""

    modules: list[str] = field(default_factory=list)
    """The names of the modules that ran, in order of their first call; the model itself is the empty name."""

    autocast: set[torch.dtype] = field(default_factory=set)
    """The dtypes of autocast that were on."""

    loss: Tensor | None = None
    """The loss without its graph; None if there is none."""

    has_gradient: bool = False
    """True if the loss depends on something that has a gradient."""

    gradients: dict[str, Tensor | None] = field(default_factory=dict)
    """The gradient of each trained parameter, None for those that the loss does not depend on; empty if there was no
    backward pass."""

    reached: set[int] = field(default_factory=set)
    """The ids of the parameters that the loss depends on, those beside the model's too."""

    error: Exception | None = None
    """What was raised on the way."""

    first_use: str = ""
    """The function that the first tensor of inputs went into."""

    @property
    def losses(self) -> list[Call]:
        """The calls of losses."""
        return [each for each in self.calls if each.function in LOSSES]


def unwrap(model: nn.Module) -> nn.Module:
    """A model without the wrapper of a distributed run, whose forward pass would wait for other ranks."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


class _OutOfRange(Exception):
    """Indices that no kernel may see: on a GPU they would end the process's use of it."""


def run_trial(
    model: nn.Module,
    compute_loss: ComputeLoss,
    batch: Any,
    *,
    trains: bool = True,
    others: Sequence[nn.Parameter] = (),
) -> Trial:
    """Compute the loss of a batch, and its gradients, and leave everything as it was.

    Buffers, gradients, training flags and random numbers are set back. Hooks that step an optimizer do not run.

    Args:
        model: the model; a wrapper of a distributed run is left out.
        compute_loss: gives the loss of a batch.
        batch: the batch.
        trains: take the gradients too; else the model is in eval mode, and there is no graph.
        others: parameters beside the model's, of which it is seen whether the loss depends on them.
    """
    model, trial = unwrap(model), Trial()
    batch = map_tensors(batch, lambda tensor: tensor.detach().clone())
    held = nn.ModuleList([model, *([compute_loss] if isinstance(compute_loss, nn.Module) else [])])
    with keep_training(held), _run_eagerly(), torch.set_grad_enabled(trains), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are said again when the loop runs
        if not trains:
            model.eval()
        try:
            loss = _run_forward(trial, model, compute_loss, batch)
            if trains and trial.has_gradient and loss.numel() == 1:
                named = {name: each for name, each in model.named_parameters() if each.requires_grad}
                wanted = [*named.values(), *(each for each in others if each.requires_grad)]
                found = torch.autograd.grad(loss.reshape(()), wanted, allow_unused=True)
                trial.gradients = dict(zip(named, found, strict=False))
                trial.reached = {id(each) for each, one in zip(wanted, found, strict=True) if one is not None}
        except Exception as error:
            trial.error = error
    return trial


def _run_forward(trial: Trial, model: nn.Module, compute_loss: ComputeLoss, batch: Any) -> Tensor:
    with _Recorder(trial, model, batch) as recorder, recorder.follow_modules():
        result = compute_loss(model, batch)
        loss: Any = sum(result.values()) if isinstance(result, Mapping) else result
    if not isinstance(loss, Tensor):
        raise TypeError(f"the loss is a {type(loss).__name__!r}; it has to be a tensor")
    trial.loss, trial.has_gradient = loss.detach(), loss.requires_grad
    return loss


class _Recorder(TorchFunctionMode):
    """Notes calls, and what made the tensors that they are given."""

    def __init__(self, trial: Trial, model: nn.Module, batch: Any) -> None:
        super().__init__()
        self._trial = trial
        self._names = {id(module): name for name, module in model.named_modules()}
        self._path: list[str] = []
        self._made: dict[int, tuple[str, Tensor]] = {}
        named = list(list_tensors(batch, ""))
        for index, (name, tensor) in enumerate(named):
            is_target = any(f"['{each}']" in name for each in TARGET_NAMES)
            is_last = not isinstance(batch, Mapping) and len(named) > 1 and index == len(named) - 1
            self._mark(tensor, "target" if is_target or is_last else "inputs")

    @contextmanager
    def follow_modules(self) -> Iterator[None]:
        """Know which module is running."""

        def enter(module: nn.Module, _: Any) -> None:
            name = self._names.get(id(module), self._path[-1] if self._path else "")
            self._path.append(name)
            if name not in self._trial.modules:
                self._trial.modules.append(name)

        def leave(*_: Any) -> None:
            self._path.pop()

        handles = [
            hooks.register_module_forward_pre_hook(enter),
            hooks.register_module_forward_hook(leave, always_call=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = clean_name(getattr(func, "__name__", ""))
        if name in ("linear", "conv1d", "conv2d", "conv3d", "matmul") and args and isinstance(args[0], Tensor):
            self._note_autocast(args[0].device.type)
        if name in WATCHED:
            self._keep(name, args, kwargs)
        origin = self._find_origin(args[0] if args else kwargs.get("input"))
        result = func(*args, **kwargs)
        if origin == "inputs" and isinstance(result, Tensor) and name not in (*PASSING, "get"):
            self._trial.first_use = self._trial.first_use or name
        if name in PAIRING:
            self._keep_broadcast(name, args, result)
        if isinstance(result, Tensor) and not name.startswith("_"):
            self._follow(name, origin, args, result)
        return result

    def _follow(self, name: str, origin: str, args: Sequence[Any], result: Tensor) -> None:
        """Know a result again."""
        if name in ACTIVATIONS:
            self._mark(result, name)
        elif name == "log" and origin in ("softmax", "sigmoid"):
            self._mark(result, "log_softmax" if origin == "softmax" else "logsigmoid")
        elif origin and (name in PASSING or (name == "add" and not isinstance(args[1], Tensor))):
            self._mark(result, origin)
        else:
            self._made.pop(id(result), None)

    def _mark(self, tensor: Tensor, origin: str) -> None:
        self._made[id(tensor)] = (origin, tensor)  # the tensor is kept, so that no other gets its id

    def _find_origin(self, value: Any) -> str:
        return self._made.get(id(value), ("",))[0] if isinstance(value, Tensor) else ""

    def _note_autocast(self, device: str) -> None:
        if torch.is_autocast_enabled(device):
            self._trial.autocast.add(torch.get_autocast_dtype(device))

    def _keep(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        given = args if name not in LOSSES else (_take(args, kwargs, 0, "input"), _take(args, kwargs, 1, "target"))
        rest = args[2:] if name in LOSSES else ()
        both = (*given, *rest)
        call = Call(
            name,
            self._path[-1] if self._path else "",
            tuple(each.detach() if isinstance(each, Tensor) else each for each in both),
            dict(kwargs),
            tuple(self._find_origin(each) for each in both),
        )
        self._trial.calls.append(call)
        if count_out_of_range(call)[0]:
            raise _OutOfRange(f"{name} was given indices that are out of range")

    def _keep_broadcast(self, name: str, args: Sequence[Any], result: Any) -> None:
        """Keep a call that made a matrix of two columns, one of them the target."""
        if len(args) < 2 or not all(isinstance(each, Tensor) for each in (*args[:2], result)):
            return
        largest = max(args[0].numel(), args[1].numel())
        origins = tuple(self._find_origin(each) for each in args[:2])
        if result.numel() > largest > 1 and origins.count("target") == 1:
            tensors = tuple(each.detach() for each in args[:2])
            self._trial.calls.append(Call(name, self._path[-1] if self._path else "", tensors, {}, origins))


def _take(args: Sequence[Any], kwargs: Mapping[str, Any], index: int, name: str) -> Any:
    return args[index] if index < len(args) else kwargs.get(name)


@contextmanager
def _run_eagerly() -> Iterator[None]:
    """Run compiled models uncompiled, and share no cached casts of weights with what runs before or after."""
    torch.clear_autocast_cache()
    try:
        with torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext():
            yield
    finally:
        torch.clear_autocast_cache()
