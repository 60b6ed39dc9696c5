"""What one tensor, one argument or one name says while a batch is traced."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from math import inf
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.nn.parameter import is_lazy

from trimtab.probes.reasons import Range, list_values

_REFLECTED = {"rdiv": "div", "truediv": "div", "rtruediv": "div", "idiv": "div", "rsub": "sub", "rpow": "pow"}
"""Names of operators with their arguments the other way round."""


def count_bad(output: Range, noun: str) -> str:
    """How many of how many values are not finite, in words."""
    total = math.prod(output.shape)
    return f"{output.num_bad:,} of {total:,} {noun}{'s' * (total != 1)}"


def list_tensors(value: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors in nested mappings, lists and tuples, with their paths."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from list_tensors(each, f"{path}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for index, each in enumerate(value):
            yield from list_tensors(each, f"{path}[{index}]")


def list_flags(tensor: Tensor) -> frozenset[str]:
    """Which of "nan", "inf" and "-inf" a tensor holds."""
    values = list_values(tensor)
    if bool(torch.isfinite(values).all()):
        return frozenset()
    found = {"nan": torch.isnan(values), "inf": values == inf, "-inf": values == -inf}
    return frozenset(flag for flag, where in found.items() if bool(where.any()))


def find_first(tensor: Tensor) -> tuple[int, ...]:
    """The index of the first value that is not finite."""
    values = list_values(tensor)
    index = int((~torch.isfinite(values)).flatten().to(torch.uint8).argmax())
    return tuple(int(each) for each in np.unravel_index(index, values.shape))


def count_masked_rows(name: str, values: Mapping[str, Any]) -> int:
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


def has_numbers(tensor: Tensor) -> bool:
    """True if its values can be looked at and can be other than finite."""
    is_float = tensor.is_complex() or (tensor.is_floating_point() and tensor.element_size() > 1)
    is_plain = tensor.layout in (torch.strided, torch.sparse_coo) and not tensor.is_nested and not tensor.is_meta
    return is_float and is_plain and not is_lazy(tensor)


def is_integer(tensor: Tensor) -> bool:
    """True if it holds whole numbers that can be read."""
    is_float = tensor.is_floating_point() or tensor.is_complex()
    return not is_float and not tensor.is_meta and tensor.layout == torch.strided


def is_bad(tensor: Tensor | None) -> bool:
    """True if it has a number that is not finite."""
    return tensor is not None and has_numbers(tensor) and bool(list_flags(tensor))


def is_leaf(node: Node) -> bool:
    """True for the node that accumulates into the gradient of a leaf."""
    return node.name() == "torch::autograd::AccumulateGrad"


def is_lowest(found: Range) -> bool:
    """True if it reaches down to about the lowest number of its dtype, as masks do that avoid −inf."""
    dtype = getattr(torch, found.dtype)
    return bool(dtype.is_floating_point and found.min <= torch.finfo(dtype).min / 4)


def covers_storage(tensor: Tensor) -> bool:
    """True if it is all there is in its memory."""
    values = list_values(tensor)
    return values.numel() * values.element_size() == values.untyped_storage().nbytes()


def key_storage(tensor: Tensor) -> int:
    """What tells the memory of a tensor from any other."""
    return int(list_values(tensor).untyped_storage()._cdata)


def is_written(argument: Any) -> bool:
    """True for an argument that an operation writes to."""
    return argument.alias_info is not None and argument.alias_info.is_write


def name_op(func: Any) -> str:
    """The name of an operation without its namespace."""
    return str(func._schema.name.rpartition("::")[2])


def clean_name(name: str) -> str:
    """The name of a function as a user knows it."""
    bare = name.strip("_")
    return _REFLECTED.get(bare, bare)


def clean_node(node: Node) -> str:
    """What the operation of a node is called: "Sqrt" for "SqrtBackward0"."""
    return re.sub(r"Backward\d*$", "", node.name().rpartition("::")[2])
