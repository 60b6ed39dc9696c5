"""Where a loss or a gradient first stops being finite: one forward and one backward pass, looked at op by op."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from math import inf, isfinite, nan
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from trimtab.errors import InputError
from trimtab.probes.inspection import clean_node, count_bad, find_first, is_bad, is_leaf, list_flags
from trimtab.probes.reasons import Evidence, Origin, Range, measure_range
from trimtab.probes.rerun import ComputeLoss, keep_training
from trimtab.probes.trace import LOSS, Call, Trace, make_origin


def locate_nonfinite(
    model: nn.Module,
    batch: Any,
    compute_loss: ComputeLoss,
    *,
    autocast: torch.dtype | None = None,
    scale: float = 1.0,
) -> Origin | None:
    """Find the first operation that makes a loss or a parameter's gradient non-finite.

    The batch goes forward and backward once. What is blamed is the first operation, in the order of execution, whose
    inputs are finite, whose result is not, and whose result leads on to the loss or to the gradient of a parameter;
    so −inf that masks before a softmax is not blamed, nor NaN that is selected away again. Where the batch itself
    brought it in, that is named; a parameter that is not finite, or a buffer that holds NaN, is named whether it was
    used or not. The cost is that of several passes, with a transfer from the device for every tensor.

    Gradients, buffers, training flags, `requires_grad` and random numbers are as before at the end, also if
    `compute_loss` raises. The model runs in the mode it is in, under the autocast that is active, and uncompiled.
    Reentrant checkpointing is not supported: it does not work with `torch.autograd.grad`.

    Args:
        model: the model; its gradients are neither read nor written.
        batch: tensors in nested mappings, lists and tuples, or whatever `compute_loss` takes.
        compute_loss: gives the loss of a batch, 0-d, or several losses by name whose sum is the loss.
        autocast: turn autocast on for the model's device with this dtype, float16 or bfloat16.
        scale: what to multiply the loss by before the backward pass, as a `GradScaler` does.

    Returns:
        Where it begins; None if loss and gradients are finite.

    Raises:
        InputError: if an argument or the loss is of the wrong kind.
    """
    _validate(model, autocast, scale)
    trace = Trace(scale)
    device = next((each.device.type for each in (*model.parameters(), *model.buffers())), "cpu")
    with keep_training(model), _run_eagerly(), torch.enable_grad():
        trace.add_state(model, batch)
        with torch.autocast(device, dtype=autocast) if autocast is not None else nullcontext():
            loss, scaled = trace.run_forward(model, batch, compute_loss)
        origin = (
            _Backward(trace, model, scaled).blame() if isfinite(float(loss.detach())) else trace.blame_forward(loss)
        )
        damage = trace.blame_state()
    return damage if damage is not None and (origin is None or origin.kind != "data") else origin


@dataclass(slots=True, eq=False)
class _Pass:
    """What went through one node of the autograd graph."""

    node: Node
    came_bad: bool
    """True if a gradient that came in was not finite."""

    left_bad: tuple[bool, ...]
    """For each edge, whether the gradient that left by it was not finite."""

    gives: frozenset[str] = frozenset()
    output: Range | None = None
    first_index: tuple[int, ...] = ()


class _Backward:
    """The backward pass: which gradient of which node first was not finite, and whether it reached a parameter."""

    def __init__(self, trace: Trace, model: nn.Module, loss: Tensor) -> None:
        self._trace = trace
        self._passes: dict[Node, _Pass] = {}
        self._bad: dict[str, Tensor] = {}
        named = {name: each for name, each in model.named_parameters() if each.requires_grad}
        self._names = {id(each): name for name, each in named.items()}
        if loss.grad_fn is None or not named:
            return
        with ExitStack() as stack:
            for node in _list_nodes(loss.grad_fn):
                stack.callback(node.register_hook(partial(self._look, node)).remove)
            gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        pairs = zip(named, gradients, strict=True)
        self._bad = {name: each for name, each in pairs if each is not None and list_flags(each)}

    def blame(self) -> Origin | None:
        """The origin; None if the gradients of all parameters are finite."""
        if not self._bad:
            return None
        reached_badly = {child for each in self._passes.values() for child in _list_bad_children(each)}
        for each in self._passes.values():
            is_sum = each.came_bad and each.node not in reached_badly
            if is_sum or (not each.came_bad and any(each.left_bad)):
                names = self._list_reached(each)
                if names:
                    return self._describe(each, names, is_sum)
        name, gradient = next(iter(self._bad.items()))
        output = measure_range(name, gradient)
        evidence = Evidence("gradient", "sum", list_flags(gradient), output.dtype, scale=self._trace.scale)
        message = f"the gradient of {name} is not finite where its parts are summed"
        return make_origin(evidence, Call(name, None, "sum"), message, output, find_first(gradient))

    def _look(self, node: Node, inputs: tuple[Tensor | None, ...], outputs: tuple[Tensor | None, ...]) -> None:
        """Called when a node has run, with what leaves it (the gradients of its inputs) and what came in."""
        bad_inputs = [each for each in inputs if is_bad(each)]
        bad_outputs = [each for each in outputs if is_bad(each)]
        seen = _Pass(node, bool(bad_outputs), tuple(is_bad(each) for each in inputs))
        for shown in [*bad_inputs, *bad_outputs][:1]:
            assert shown is not None
            seen.gives, seen.first_index = list_flags(shown), find_first(shown)
            seen.output = measure_range("gradient", shown)
        self._passes[node] = seen

    def _list_reached(self, start: _Pass) -> list[str]:
        """The parameters whose gradient a non-finite one led to."""
        found, seen, stack = set(), {start.node}, [start]
        while stack:
            for child in _list_bad_children(stack.pop()):
                variable = id(getattr(child, "variable", None))
                if variable in self._names:
                    found.add(self._names[variable])
                elif child in self._passes and child not in seen:
                    seen.add(child)
                    stack.append(self._passes[child])
        return [name for name in self._bad if name in found]

    def _describe(self, seen: _Pass, names: list[str], is_sum: bool) -> Origin:
        trace, own = self._trace, clean_node(seen.node)
        call = trace.labels.get(seen.node) or Call(LOSS, None, own)
        op = next((each for each in call.ops if each.name.replace("_", "") == own.lower()), None)
        op = op or next((each for each in call.ops if each.inputs), None)
        earlier = None if op is None or is_sum else trace.trace_back(op.parents, is_strict=True)
        if earlier is not None:
            return earlier
        output = seen.output or Range("gradient", (), "float32", nan, nan, 0.0, 1)
        evidence = Evidence(
            kind="gradient",
            name="sum" if is_sum else "scale" if call.function == "scale" else own.lower(),
            flags=seen.gives,
            dtype=output.dtype,
            inputs=() if op is None else op.inputs,
            parameters=call.parameters,
            divisor=nan if op is None else op.divisor,
            num_masked=0 if op is None else op.num_masked,
            scale=trace.scale,
        )
        how = "several gradients sum to" if is_sum else "the backward pass gives"
        before = "each of which is finite" if is_sum else "though what came in was"
        rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
        message = (
            f"{call.place}: at {call.operation} {how} {count_bad(output, 'gradient value')} not finite, "
            f"{before}; it reaches {', '.join(names[:3])}{rest}"
        )
        return make_origin(evidence, call, message, output, seen.first_index)


def _validate(model: nn.Module, autocast: torch.dtype | None, scale: float) -> None:
    if not isinstance(model, nn.Module):
        raise InputError(f"locate_nonfinite: model is a {type(model).__name__!r}; it has to be a torch.nn.Module")
    if autocast not in (None, torch.float16, torch.bfloat16):
        raise InputError(f"locate_nonfinite: autocast is {autocast}; it has to be torch.float16 or torch.bfloat16")
    if not 0 < scale < inf:
        raise InputError(f"locate_nonfinite: scale is {scale}; it has to be a positive number")


@contextmanager
def _run_eagerly() -> Iterator[None]:
    """Run compiled models uncompiled, and share no cached casts of weights with what runs before or after."""
    torch.clear_autocast_cache()
    try:
        with torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext():
            yield
    finally:
        torch.clear_autocast_cache()


def _list_nodes(root: Node) -> list[Node]:
    """The nodes of an autograd graph but for its leaves."""
    found = {root: None}
    stack = [root]
    while stack:
        for child, _ in stack.pop().next_functions:
            if child is not None and child not in found and not is_leaf(child):
                found[child] = None
                stack.append(child)
    return list(found)


def _list_bad_children(seen: _Pass) -> list[Node]:
    """The nodes that a non-finite gradient went to."""
    edges = zip(seen.node.next_functions, seen.left_bad, strict=False)
    return [child for (child, _), is_bad in edges if is_bad and child is not None]
