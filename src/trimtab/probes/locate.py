"""Where a loss or a gradient first stops being finite: one forward and one backward pass, looked at op by op."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from math import inf, isfinite, isinf, nan
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from trimtab.errors import InputError
from trimtab.probes.reasons import Evidence, Kind, Origin, Range, explain, list_values, measure_range
from trimtab.probes.rerun import ComputeLoss, keep_training

ROOT = "(model)"
"""What the model itself is called, which has no qualified name."""

LOSS = "loss"
"""Where `compute_loss` is when no module of the model runs."""

_UNWRITTEN = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "empty_permuted", "resize_")
"""Operations whose result holds whatever the memory held."""

_OVERWRITING = ("copy_", "fill_", "zero_", "normal_", "uniform_", "bernoulli_", "random_", "exponential_")
"""Operations in place that do not read what was there."""

_MIXING = ("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "convolution", "linear", "mkldnn_rnn_layer")
"""Operations that no mask is meant for, since they add what is masked to what is not."""

_REFLECTED = {"rdiv": "div", "truediv": "div", "rtruediv": "div", "idiv": "div", "rsub": "sub", "rpow": "pow"}
"""Names of operators with their arguments the other way round."""


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
    trace = _Trace(scale)
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
class _Call:
    """One function as the user wrote it, with the operations it came to."""

    place: str
    module: nn.Module | None
    function: str
    ops: list[_Op] = field(default_factory=list)

    @property
    def operation(self) -> str:
        """What a person calls it: the layer where it is one of PyTorch's own, else the function."""
        layer = self.module
        if layer is None or not type(layer).__module__.startswith("torch.nn.") or any(True for _ in layer.children()):
            return self.function
        return type(layer).__name__

    @property
    def parameters(self) -> tuple[Range, ...]:
        """The parameters of its module."""
        named = () if self.module is None else self.module.named_parameters(recurse=False)
        return tuple(measure_range(name, each) for name, each in named if _has_numbers(each))


@dataclass(slots=True, eq=False)
class _Op:
    """One operation below autograd, or a tensor that was there before."""

    order: int
    name: str
    call: _Call
    kind: Kind | None = None
    inputs: tuple[Range, ...] = ()
    divisor: float = nan
    num_masked: int = 0
    output: Range | None = None
    first_index: tuple[int, ...] = ()
    takes: frozenset[str] = frozenset()
    gives: frozenset[str] = frozenset()
    parents: list[_Op] = field(default_factory=list)
    may_mask: bool = False
    is_mixed: bool = False
    is_foreign: bool = False

    @property
    def is_mask(self) -> bool:
        """True if its infinities look intended: written as such, the log of 0, or twice the lowest number."""
        if "nan" in self.gives:
            return False
        is_low = any(_is_lowest(each) for each in self.inputs)
        return self.may_mask or (self.gives == {"-inf"} and (is_low or self.name == "log"))

    def note(self, tensor: Tensor, name: str = "output") -> bool:
        """Look at a tensor it gives; True if that is not finite."""
        flags = _list_flags(tensor)
        if flags and self.output is None:
            self.output = measure_range(name, tensor)
            self.first_index = _find_first(tensor)
        self.gives |= flags
        return bool(flags)


class _Trace:
    """The forward pass: every operation, and which non-finite result came from which."""

    def __init__(self, scale: float) -> None:
        self.scale = scale
        self.labels: dict[Node, _Call] = {}
        self.call: _Call | None = None
        self.is_busy = False
        self._running: list[tuple[str, nn.Module | None]] = [(LOSS, None)]
        self._num_ops = 0
        self._writers: dict[int, _Op] = {}
        self._unwritten: set[int] = set()
        self._alive: list[Any] = []
        self._state: list[_Op] = []

    def add_state(self, model: nn.Module, batch: Any) -> None:
        """Look for what is not finite before anything has run: in the batch, the parameters and the buffers."""
        sources: list[tuple[Kind, Iterable[tuple[str, Tensor]]]] = [
            ("data", _list_tensors(batch, "batch")),
            ("parameter", model.named_parameters()),
            ("buffer", model.named_buffers()),
        ]
        for kind, named in sources:
            for name, tensor in named:
                if not _has_numbers(tensor) or not _list_flags(tensor):
                    continue
                op = self._add(_Op(0, "", _Call(name, None, ""), kind=kind))
                op.note(tensor, name)
                op.may_mask = op.gives == {"-inf"} and (kind != "parameter" or not tensor.requires_grad)
                self._state.append(op)
                self._writers.setdefault(self._keep(tensor), op)

    def run_forward(self, model: nn.Module, batch: Any, compute_loss: ComputeLoss) -> tuple[Tensor, Tensor]:
        """The loss, and the loss times the scale."""
        with self._watch_modules(model), _Functions(self), _Operations(self):
            given = compute_loss(model, batch)
            loss = sum(given.values()) if isinstance(given, Mapping) else given
            if not isinstance(loss, Tensor) or loss.ndim != 0:
                what = f"has shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"is a {type(loss).__name__!r}"
                raise InputError(f"locate_nonfinite: the loss {what}; it has to be a 0-d tensor, such as loss.mean()")
            scaled = loss
            if self.scale != 1.0:
                scaled = loss * torch.full((), self.scale, dtype=torch.float32, device=loss.device)
        if scaled is not loss and scaled.grad_fn is not None:
            self.labels[scaled.grad_fn] = _Call(LOSS, None, "scale")
        return loss, scaled

    @contextmanager
    def look(self) -> Iterator[None]:
        """While this looks at tensors, what it calls is not the user's."""
        self.is_busy, was_busy = True, self.is_busy
        try:
            with torch.no_grad():
                yield
        finally:
            self.is_busy = was_busy

    def start(self, func: Any, values: Mapping[str, Any]) -> _Op:
        """Look at what an operation is given, by argument name, before it runs."""
        name = _name(func)
        call = self.call or _Call(*self._running[-1], _clean(name))
        op = self._add(_Op(0, _clean(name), call))
        call.ops.append(op)
        for argument in func._schema.arguments:
            if _is_written(argument) and (name in _OVERWRITING or argument.kwarg_only):
                continue
            for _, tensor in _list_tensors(values[argument.name], ""):
                if _has_numbers(tensor) or (op.name == "div" and _is_integer(tensor)):
                    op.inputs += (measure_range(argument.name, tensor),)
                    is_bad = self._link(op, tensor)
                    is_addend = argument.name == "self" and op.name in ("addmm", "baddbmm", "addmv")
                    op.is_mixed |= is_bad and op.name in _MIXING and not is_addend
        numbers = [each for each in values.values() if isinstance(each, (int, float)) and not isinstance(each, bool)]
        op.may_mask = any(isinf(each) for each in numbers)
        op.divisor = float(numbers[0]) if numbers and op.name in ("div", "pow") else nan
        op.num_masked = _count_masked_rows(op.name, values)
        return op

    def finish(self, op: _Op, func: Any, values: Mapping[str, Any], result: Any) -> None:
        """Look at what an operation gave, or wrote to."""
        written = [values[each.name] for each in func._schema.arguments if _is_written(each)]
        for _, tensor in _list_tensors([result, written], ""):
            if not _has_numbers(tensor):
                continue
            if _name(func) in _UNWRITTEN:
                self._unwritten.add(self._keep(tensor))
            elif op.note(tensor):
                key = self._keep(tensor)
                before = self._writers.get(key)
                if before is not None and before is not op and before not in op.parents:
                    op.parents.append(before)
                self._writers[key] = op
            elif _covers_storage(tensor):
                self._writers.pop(_key(tensor), None)

    def open_call(self, function: str, args: Any) -> _Call:
        """A call of a function."""
        self.label_unknown(args)
        return _Call(*self._running[-1], function)

    def label_unknown(self, tensors: Any) -> None:
        """Label what made some tensors, where no function was seen to: an autograd function of the user's."""
        for _, tensor in _list_tensors(tensors, ""):
            node = tensor.grad_fn
            if node is not None and node not in self.labels:
                self.labels[node] = _Call(*self._running[-1], _clean_node(node))

    def close_call(self, call: _Call, result: Any) -> None:
        """Label the part of the autograd graph that a call has made."""
        stack = [tensor.grad_fn for _, tensor in _list_tensors(result, "")]
        while stack:
            node = stack.pop()
            if node is not None and node not in self.labels and not _is_leaf(node):
                self.labels[node] = call
                stack.extend(child for child, _ in node.next_functions)

    def blame_forward(self, loss: Tensor) -> Origin:
        """The origin of a loss that is not finite."""
        last = self._writers.get(_key(loss))
        origin = None if last is None else self.trace_back([last])
        if origin is not None:
            return origin
        op = self._state[0] if self._state else _Op(0, "", _Call(LOSS, None, ""), kind="loss")
        op.note(loss)
        return self.describe(op)

    def blame_state(self) -> Origin | None:
        """A parameter that is not finite or a buffer that holds NaN, whether the loss depends on it or not."""
        damaged = (op for op in self._state if op.kind == "parameter" and not op.may_mask)
        broken = (op for op in self._state if op.kind == "buffer" and "nan" in op.gives)
        op = next(damaged, None) or next(broken, None)
        return None if op is None else self.describe(op)

    def trace_back(self, ends: Iterable[_Op], *, is_strict: bool = False) -> Origin | None:
        """The origin of some non-finite results; if strict, None unless something else than a mask made them."""
        line = sorted(_list_ancestors(ends), key=lambda op: op.order)
        births = [op for op in line if not op.parents]
        real = next((op for op in births if not op.is_mask), None)
        if real is not None or is_strict or not births:
            return None if real is None else self.describe(real)
        turn = next((op for op in line if "nan" in op.gives - op.takes or op.is_mixed), None)
        turn = turn or next((op for op in line if op.name == "nll_loss_forward"), None)
        if turn is not None and (turn.num_masked or turn.name == "nll_loss_forward"):
            return self.describe(turn)
        given = next((op for op in births if op.kind is not None), None)
        log = next((op for op in births if op.name == "log"), None)
        return self.describe(given or log or turn or births[0])

    def describe(self, op: _Op) -> Origin:
        """What is known of an operation of the forward pass."""
        call, output = op.call, op.output or Range("output", (), "float32", nan, nan, 0.0, 1)
        kind: Kind = op.kind or ("loss" if call.place == LOSS else "forward")
        parameters = call.parameters
        evidence = Evidence(
            kind=kind,
            name=op.name.replace("_", ""),
            flags=op.gives,
            dtype=output.dtype,
            inputs=op.inputs,
            parameters=parameters,
            divisor=op.divisor,
            num_masked=op.num_masked,
            is_mask=op.is_mask,
            is_foreign=op.is_foreign,
            scale=self.scale,
        )
        message = _tell_forward(op, kind, output)
        return _make_origin(evidence, call, message, output, op.first_index)

    def _add(self, op: _Op) -> _Op:
        op.order = self._num_ops
        self._num_ops += 1
        return op

    def _keep(self, tensor: Tensor) -> int:
        """The key of a tensor's storage, which is kept alive so that no other gets the same."""
        self._alive.append(list_values(tensor).untyped_storage())
        return _key(tensor)

    def _link(self, op: _Op, tensor: Tensor) -> bool:
        """Note which operation wrote an input, if that is not finite."""
        flags = _list_flags(tensor)
        if not flags:
            return False
        op.takes |= flags
        key = _key(tensor)
        if key not in self._writers and key not in self._unwritten:
            foreign = self._add(_Op(0, "", op.call, may_mask=True, is_foreign=True))
            foreign.note(tensor)
            self._writers[self._keep(tensor)] = foreign
        if key in self._writers:
            op.parents.append(self._writers[key])
        return True

    @contextmanager
    def _watch_modules(self, model: nn.Module) -> Iterator[None]:
        """Know at any time which module runs."""

        def enter(place: str, module: nn.Module, _: Any) -> None:
            self._running.append((place, module))

        def leave(_: nn.Module, __: Any, output: Any) -> None:
            with torch._C.DisableTorchFunction():
                self.label_unknown(output)
            self._running.pop()

        with ExitStack() as stack:
            for name, module in model.named_modules():
                if isinstance(module, torch.jit.ScriptModule):
                    continue
                before = module.register_forward_pre_hook(partial(enter, name or ROOT), prepend=True)
                stack.callback(before.remove)
                stack.callback(module.register_forward_hook(leave, always_call=True).remove)
            yield


class _Functions(TorchFunctionMode):
    """Sees every function as the user calls it, which gives names and owners to the parts of the autograd graph."""

    def __init__(self, trace: _Trace) -> None:
        super().__init__()
        self._trace = trace

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        trace = self._trace
        if trace.is_busy or trace.call is not None:
            return func(*args, **kwargs)
        call = trace.call = trace.open_call(_clean(getattr(func, "__name__", str(func))), (args, kwargs))
        try:
            result = func(*args, **kwargs)
        finally:
            trace.call = None
        trace.close_call(call, result)
        return result


class _Operations(TorchDispatchMode):
    """Sees every operation below autograd, whoever calls it, with its inputs and results."""

    supports_higher_order_operators = True

    def __init__(self, trace: _Trace) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._trace = trace

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        trace = self._trace
        if not isinstance(func, torch._ops.OpOverload):
            return func(*args, **kwargs)
        names = [each.name for each in func._schema.arguments]
        values = dict.fromkeys(names) | dict(zip(names, args, strict=False)) | kwargs
        with trace.look():
            op = trace.start(func, values)
        result = func(*args, **kwargs)
        with trace.look():
            trace.finish(op, func, values, result)
        return result


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

    def __init__(self, trace: _Trace, model: nn.Module, loss: Tensor) -> None:
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
        self._bad = {name: each for name, each in pairs if each is not None and _list_flags(each)}

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
        evidence = Evidence("gradient", "sum", _list_flags(gradient), output.dtype, scale=self._trace.scale)
        message = f"the gradient of {name} is not finite where its parts are summed"
        return _make_origin(evidence, _Call(name, None, "sum"), message, output, _find_first(gradient))

    def _look(self, node: Node, inputs: tuple[Tensor | None, ...], outputs: tuple[Tensor | None, ...]) -> None:
        """Called when a node has run, with what leaves it (the gradients of its inputs) and what came in."""
        bad_inputs = [each for each in inputs if _is_bad(each)]
        bad_outputs = [each for each in outputs if _is_bad(each)]
        seen = _Pass(node, bool(bad_outputs), tuple(_is_bad(each) for each in inputs))
        for shown in [*bad_inputs, *bad_outputs][:1]:
            assert shown is not None
            seen.gives, seen.first_index = _list_flags(shown), _find_first(shown)
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
        trace, own = self._trace, _clean_node(seen.node)
        call = trace.labels.get(seen.node) or _Call(LOSS, None, own)
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
            f"{call.place}: at {call.operation} {how} {_count(output, 'gradient value')} not finite, "
            f"{before}; it reaches {', '.join(names[:3])}{rest}"
        )
        return _make_origin(evidence, call, message, output, seen.first_index)


def _make_origin(evidence: Evidence, call: _Call, message: str, output: Range, first: tuple[int, ...]) -> Origin:
    reason, fix = explain(evidence)
    return Origin(
        kind=evidence.kind,
        where=call.place,
        operation=call.operation,
        message=message,
        num_bad=output.num_bad,
        first_index=first,
        shape=output.shape,
        dtype=output.dtype,
        inputs=evidence.inputs,
        parameters=evidence.parameters,
        reason=reason,
        fix=fix,
    )


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


def _tell_forward(op: _Op, kind: Kind, output: Range) -> str:
    count = f"{_count(output, 'value')} not finite, the first at {op.first_index}"
    if kind in ("data", "parameter", "buffer"):
        return f"{kind} {op.call.place} has {count}, before anything ran"
    if op.is_foreign:
        return f"{op.call.place}: {op.call.operation} is handed a tensor with {count}"
    inner = "" if op.name in ("", op.call.operation) else f" (in {op.name})"
    before = "inputs in which only masks are infinite" if op.takes else "finite inputs"
    return f"{op.call.place}: {op.call.operation}{inner} gives {count}, from {before}"


def _count(output: Range, noun: str) -> str:
    total = math.prod(output.shape)
    return f"{output.num_bad:,} of {total:,} {noun}{'s' * (total != 1)}"


def _list_tensors(value: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors in nested mappings, lists and tuples, with their paths."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _list_tensors(each, f"{path}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for index, each in enumerate(value):
            yield from _list_tensors(each, f"{path}[{index}]")


def _list_ancestors(ends: Iterable[_Op]) -> set[_Op]:
    found: set[_Op] = set()
    stack = list(ends)
    while stack:
        op = stack.pop()
        if op not in found:
            found.add(op)
            stack.extend(op.parents)
    return found


def _list_nodes(root: Node) -> list[Node]:
    """The nodes of an autograd graph but for its leaves."""
    found = {root: None}
    stack = [root]
    while stack:
        for child, _ in stack.pop().next_functions:
            if child is not None and child not in found and not _is_leaf(child):
                found[child] = None
                stack.append(child)
    return list(found)


def _list_bad_children(seen: _Pass) -> list[Node]:
    """The nodes that a non-finite gradient went to."""
    edges = zip(seen.node.next_functions, seen.left_bad, strict=False)
    return [child for (child, _), is_bad in edges if is_bad and child is not None]


def _list_flags(tensor: Tensor) -> frozenset[str]:
    """Which of "nan", "inf" and "-inf" a tensor holds."""
    values = list_values(tensor)
    if bool(torch.isfinite(values).all()):
        return frozenset()
    found = {"nan": torch.isnan(values), "inf": values == inf, "-inf": values == -inf}
    return frozenset(flag for flag, where in found.items() if bool(where.any()))


def _find_first(tensor: Tensor) -> tuple[int, ...]:
    values = list_values(tensor)
    index = int((~torch.isfinite(values)).flatten().to(torch.uint8).argmax())
    return tuple(int(each) for each in np.unravel_index(index, values.shape))


def _count_masked_rows(name: str, values: Mapping[str, Any]) -> int:
    """How many rows that a softmax runs over are −inf, or False, throughout."""
    if name in ("softmax", "log_softmax"):
        mask, dim = values["self"], values["dim"]
    elif "scaled_dot_product" in name:
        mask, dim = values.get("attn_mask", values.get("attn_bias")), -1
    else:
        return 0
    if not isinstance(mask, Tensor):
        return 0
    is_out = ~mask if mask.dtype == torch.bool else mask == -inf
    return int(is_out.all(dim).sum())


def _has_numbers(tensor: Tensor) -> bool:
    """True if its values can be looked at and can be other than finite."""
    is_float = tensor.is_complex() or (tensor.is_floating_point() and tensor.element_size() > 1)
    is_plain = tensor.layout in (torch.strided, torch.sparse_coo) and not tensor.is_nested and not tensor.is_meta
    return is_float and is_plain and not is_lazy(tensor)


def _is_integer(tensor: Tensor) -> bool:
    is_float = tensor.is_floating_point() or tensor.is_complex()
    return not is_float and not tensor.is_meta and tensor.layout == torch.strided


def _is_bad(tensor: Tensor | None) -> bool:
    return tensor is not None and _has_numbers(tensor) and bool(_list_flags(tensor))


def _is_leaf(node: Node) -> bool:
    return node.name() == "torch::autograd::AccumulateGrad"


def _is_lowest(found: Range) -> bool:
    """True if it reaches down to about the lowest number of its dtype, as masks do that avoid −inf."""
    dtype = getattr(torch, found.dtype)
    return bool(dtype.is_floating_point and found.min <= torch.finfo(dtype).min / 4)


def _covers_storage(tensor: Tensor) -> bool:
    values = list_values(tensor)
    return values.numel() * values.element_size() == values.untyped_storage().nbytes()


def _key(tensor: Tensor) -> int:
    return int(list_values(tensor).untyped_storage()._cdata)


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _name(func: Any) -> str:
    return str(func._schema.name.rpartition("::")[2])


def _clean(name: str) -> str:
    bare = name.strip("_")
    return _REFLECTED.get(bare, bare)


def _clean_node(node: Node) -> str:
    """What the operation of a node is called: "Sqrt" for "SqrtBackward0"."""
    return re.sub(r"Backward\d*$", "", node.name().rpartition("::")[2])
