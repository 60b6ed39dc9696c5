"""A forward pass looked at op by op: what each was given, what it gave, and which of them led to the loss."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import isinf, nan
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from trimtab.errors import InputError
from trimtab.probes.inspection import (
    clean_name,
    clean_node,
    count_bad,
    count_masked_rows,
    covers_storage,
    find_first,
    has_numbers,
    is_integer,
    is_leaf,
    is_lowest,
    is_written,
    key_storage,
    list_flags,
    list_tensors,
    name_op,
)
from trimtab.probes.reasons import Evidence, Kind, Origin, Range, explain, list_values, measure_range
from trimtab.probes.rerun import ComputeLoss

_UNWRITTEN = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "empty_permuted", "resize_")
"""Operations whose result holds whatever the memory held."""

_OVERWRITING = ("copy_", "fill_", "zero_", "normal_", "uniform_", "bernoulli_", "random_", "exponential_")
"""Operations in place that do not read what was there."""

_MIXING = ("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "convolution", "linear", "mkldnn_rnn_layer")
"""Operations that no mask is meant for, since they add what is masked to what is not."""

ROOT = "(model)"
"""What the model itself is called, which has no qualified name."""

LOSS = "loss"
"""Where `compute_loss` is when no module of the model runs."""


@dataclass(slots=True, eq=False)
class Call:
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
        return tuple(measure_range(name, each) for name, each in named if has_numbers(each))


@dataclass(slots=True, eq=False)
class _Op:
    """One operation below autograd, or a tensor that was there before."""

    order: int
    name: str
    call: Call
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
        is_low = any(is_lowest(each) for each in self.inputs)
        return self.may_mask or (self.gives == {"-inf"} and (is_low or self.name == "log"))

    def note(self, tensor: Tensor, name: str = "output") -> bool:
        """Look at a tensor it gives; True if that is not finite."""
        flags = list_flags(tensor)
        if flags and self.output is None:
            self.output = measure_range(name, tensor)
            self.first_index = find_first(tensor)
        self.gives |= flags
        return bool(flags)


class Trace:
    """The forward pass: every operation, and which non-finite result came from which."""

    def __init__(self, scale: float) -> None:
        self.scale = scale
        self.labels: dict[Node, Call] = {}
        self.call: Call | None = None
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
            ("data", list_tensors(batch, "batch")),
            ("parameter", model.named_parameters()),
            ("buffer", model.named_buffers()),
        ]
        for kind, named in sources:
            for name, tensor in named:
                if not has_numbers(tensor) or not list_flags(tensor):
                    continue
                op = self._add(_Op(0, "", Call(name, None, ""), kind=kind))
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
            self.labels[scaled.grad_fn] = Call(LOSS, None, "scale")
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
        name = name_op(func)
        call = self.call or Call(*self._running[-1], clean_name(name))
        op = self._add(_Op(0, clean_name(name), call))
        call.ops.append(op)
        for argument in func._schema.arguments:
            if is_written(argument) and (name in _OVERWRITING or argument.kwarg_only):
                continue
            for _, tensor in list_tensors(values[argument.name], ""):
                if has_numbers(tensor) or (op.name == "div" and is_integer(tensor)):
                    op.inputs += (measure_range(argument.name, tensor),)
                    is_bad = self._link(op, tensor)
                    is_addend = argument.name == "self" and op.name in ("addmm", "baddbmm", "addmv")
                    op.is_mixed |= is_bad and op.name in _MIXING and not is_addend
        numbers = [each for each in values.values() if isinstance(each, (int, float)) and not isinstance(each, bool)]
        op.may_mask = any(isinf(each) for each in numbers)
        op.divisor = float(numbers[0]) if numbers and op.name in ("div", "pow") else nan
        op.num_masked = count_masked_rows(op.name, values)
        return op

    def finish(self, op: _Op, func: Any, values: Mapping[str, Any], result: Any) -> None:
        """Look at what an operation gave, or wrote to."""
        written = [values[each.name] for each in func._schema.arguments if is_written(each)]
        for _, tensor in list_tensors([result, written], ""):
            if not has_numbers(tensor):
                continue
            if name_op(func) in _UNWRITTEN:
                self._unwritten.add(self._keep(tensor))
            elif op.note(tensor):
                key = self._keep(tensor)
                before = self._writers.get(key)
                if before is not None and before is not op and before not in op.parents:
                    op.parents.append(before)
                self._writers[key] = op
            elif covers_storage(tensor):
                self._writers.pop(key_storage(tensor), None)

    def open_call(self, function: str, args: Any) -> Call:
        """A call of a function."""
        self.label_unknown(args)
        return Call(*self._running[-1], function)

    def label_unknown(self, tensors: Any) -> None:
        """Label what made some tensors, where no function was seen to: an autograd function of the user's."""
        for _, tensor in list_tensors(tensors, ""):
            node = tensor.grad_fn
            if node is not None and node not in self.labels:
                self.labels[node] = Call(*self._running[-1], clean_node(node))

    def close_call(self, call: Call, result: Any) -> None:
        """Label the part of the autograd graph that a call has made."""
        stack = [tensor.grad_fn for _, tensor in list_tensors(result, "")]
        while stack:
            node = stack.pop()
            if node is not None and node not in self.labels and not is_leaf(node):
                self.labels[node] = call
                stack.extend(child for child, _ in node.next_functions)

    def blame_forward(self, loss: Tensor) -> Origin:
        """The origin of a loss that is not finite."""
        last = self._writers.get(key_storage(loss))
        origin = None if last is None else self.trace_back([last])
        if origin is not None:
            return origin
        op = self._state[0] if self._state else _Op(0, "", Call(LOSS, None, ""), kind="loss")
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
        return make_origin(evidence, call, message, output, op.first_index)

    def _add(self, op: _Op) -> _Op:
        op.order = self._num_ops
        self._num_ops += 1
        return op

    def _keep(self, tensor: Tensor) -> int:
        """The key of a tensor's storage, which is kept alive so that no other gets the same."""
        self._alive.append(list_values(tensor).untyped_storage())
        return key_storage(tensor)

    def _link(self, op: _Op, tensor: Tensor) -> bool:
        """Note which operation wrote an input, if that is not finite."""
        flags = list_flags(tensor)
        if not flags:
            return False
        op.takes |= flags
        key = key_storage(tensor)
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

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self._trace = trace

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        trace = self._trace
        if trace.is_busy or trace.call is not None:
            return func(*args, **kwargs)
        call = trace.call = trace.open_call(clean_name(getattr(func, "__name__", str(func))), (args, kwargs))
        try:
            result = func(*args, **kwargs)
        finally:
            trace.call = None
        trace.close_call(call, result)
        return result


class _Operations(TorchDispatchMode):
    """Sees every operation below autograd, whoever calls it, with its inputs and results."""

    supports_higher_order_operators = True

    def __init__(self, trace: Trace) -> None:
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


def make_origin(evidence: Evidence, call: Call, message: str, output: Range, first: tuple[int, ...]) -> Origin:
    """An origin with the reason and the fix that the evidence speaks for."""
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


def _tell_forward(op: _Op, kind: Kind, output: Range) -> str:
    count = f"{count_bad(output, 'value')} not finite, the first at {op.first_index}"
    if kind in ("data", "parameter", "buffer"):
        return f"{kind} {op.call.place} has {count}, before anything ran"
    if op.is_foreign:
        return f"{op.call.place}: {op.call.operation} is handed a tensor with {count}"
    inner = "" if op.name in ("", op.call.operation) else f" (in {op.name})"
    before = "inputs in which only masks are infinite" if op.takes else "finite inputs"
    return f"{op.call.place}: {op.call.operation}{inner} gives {count}, from {before}"


def _list_ancestors(ends: Iterable[_Op]) -> set[_Op]:
    found: set[_Op] = set()
    stack = list(ends)
    while stack:
        op = stack.pop()
        if op not in found:
            found.add(op)
            stack.extend(op.parents)
    return found
