"""States as JSON and tensors; nothing of it can run code.

A state is a nested structure. `encode_state` takes its tensors and arrays out and leaves a tree that JSON can hold; a
value that JSON has no word for is an object whose first key begins with `$`:

    {"$tuple": [...]}  {"$size": [...]}  {"$dict": [[key, value], ...]}  {"$counter": mapping}
    {"$module": [mapping, metadata]}     the state of a module, which keeps the versions of its parts
    {"$int": hex}  {"$float": hex}  {"$bytes": base64}  {"$scalar": [dtype, hex]}  {"$dtype": name}  {"$device": name}
    {"$model": name}  {"$tensor": name}  {"$array": name}     in `model.safetensors`, and in `state.safetensors`
    {"$shards": name, "shape": [...], "dtype": name}          in `shards/`: of a sharded tensor, all its parts

A tensor that is dense but not contiguous has its `stride` beside its name.
"""

from __future__ import annotations

import base64
import math
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from trimtab.errors import InputError
from trimtab.ranks import is_distributed, is_sharded, take_part
from trimtab.state.tensors import DTYPE_CODES, METADATA, Leaf, find_dtype

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

MODEL_KEY = "model"
"""Under this key a state holds the model's own state, from plain names to tensors."""

MAX_DEPTH = 200
"""Levels of nesting; a structure deeper than this holds itself."""

INT_LIMIT = 2**63
"""Integers from here on are written in hexadecimal, which Python reads and writes at any length."""

NUMPY_KINDS = "biufc"
"""The kinds of NumPy scalars that are numbers."""


@dataclass(slots=True)
class Encoded:
    """A state with its tensors taken out."""

    tree: Any = None
    """The structure, as JSON can hold it."""

    model: dict[str, Leaf] = field(default_factory=dict)
    """The model's tensors, by their names in the model."""

    rest: dict[str, Leaf] = field(default_factory=dict)
    """All other tensors and arrays, by where they are in the state."""

    shards: dict[str, Tensor] = field(default_factory=dict)
    """This rank's parts of sharded tensors, by where they are in the state."""

    cuts: dict[str, Any] = field(default_factory=dict)
    """How each sharded tensor is cut, by the same names."""

    own: Encoded | None = None
    """What this rank alone has, such as its random numbers; None where there is one rank."""

    aliases: dict[str, str] = field(default_factory=dict)
    """The model's names of a tensor that is kept under another name already."""


def encode_state(state: Mapping[str, Any]) -> Encoded:
    """Take the tensors and arrays out of a state; they are not copied.

    Raises:
        InputError: if the state holds what a checkpoint cannot.
    """
    encoder = _Encoder()
    encoder.encoded.tree = encoder.encode(state, ())
    return encoder.encoded


def decode_state(
    tree: Any, model: Mapping[str, Tensor], rest: Mapping[str, Tensor], shards: Mapping[str, Tensor] | None = None
) -> Any:
    """The state that was encoded; names of one tensor are one tensor again."""
    return _Decoder(model, rest, shards or {}).decode(tree)


def list_shards(tree: Any) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """The sharded tensors that a structure names, with the shape and dtype of the whole."""
    if isinstance(tree, dict) and next(iter(tree), "") == "$shards":
        return {tree["$shards"]: (tuple(tree["shape"]), _decode_dtype(tree["dtype"]))}
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return {
        name: found for part in parts if isinstance(part, (dict, list)) for name, found in list_shards(part).items()
    }


class _Encoder:
    """Walks through a state and collects its tensors."""

    def __init__(self) -> None:
        self.encoded = Encoded()
        self._seen: dict[Any, str] = {}

    def encode(self, value: Any, path: tuple[Any, ...]) -> Any:
        kind = type(value)
        if value is None or kind is str or kind is bool:
            return value
        if kind is int:
            return value if -INT_LIMIT <= value < INT_LIMIT else {"$int": hex(value)}
        if kind is float:
            return value if math.isfinite(value) else {"$float": struct.pack(">d", value).hex()}
        if isinstance(value, Tensor):
            return self._encode_tensor(value, path)
        if len(path) > MAX_DEPTH:
            raise InputError(f"checkpoint: {_show(path[:3])} is nested too deep or holds itself; leave it out")
        if kind is list:
            return self._encode_items(value, path)
        if kind is tuple:
            return {"$tuple": self._encode_items(value, path)}
        if isinstance(value, Mapping):
            return self._encode_mapping(value, path)
        return self._encode_rare(value, path)

    def _encode_items(self, items: Sequence[Any], path: tuple[Any, ...]) -> list[Any]:
        if _is_plain(items):
            return list(items)
        return [self.encode(item, (*path, index)) for index, item in enumerate(items)]

    def _encode_mapping(self, mapping: Mapping[Any, Any], path: tuple[Any, ...]) -> Any:
        for key in mapping:
            if not isinstance(key, (str, int, float, tuple, bytes, type(None))):
                raise InputError(
                    f"checkpoint: {_show(path)} has a {type(key).__name__} as a key, and a checkpoint holds only text, "
                    "numbers, tuples and None as keys; leave it out"
                )
        values = {key: self.encode(value, (*path, key)) for key, value in mapping.items()}
        held: Any = values
        if not all(type(key) is str and not key.startswith("$") for key in values):
            held = {"$dict": [[self.encode(key, (*path, key)), value] for key, value in values.items()]}
        if isinstance(mapping, Counter):
            return {"$counter": held}
        metadata = getattr(mapping, "_metadata", None)
        if isinstance(metadata, Mapping):
            return {"$module": [held, self.encode(metadata, (*path, "_metadata"))]}
        return held

    def _encode_tensor(self, tensor: Tensor, path: tuple[Any, ...]) -> dict[str, Any]:
        if is_sharded(tensor):
            if is_distributed():
                return self._encode_shards(tensor, path)
            tensor = take_part(tensor)  # the only rank's part is the whole
        if type(tensor) not in (Tensor, nn.Parameter) or not _can_hold(tensor):
            kind = f"{type(tensor).__name__} of {tensor.dtype} and {tensor.layout} on {tensor.device}"
            raise InputError(
                f"checkpoint: {_show(path)} is a {kind}, and the safetensors format holds only plain dense tensors of "
                "its own dtypes; turn it into one, or leave it out"
            )
        tensor = tensor.detach()
        tag = "$model" if _is_of_model(path) else "$tensor"
        flags = (tensor.dtype, tensor.device, tensor.is_conj(), tensor.is_neg())
        mark = (tag, tensor.data_ptr(), tensor.shape, tensor.stride(), *flags) if tensor.numel() else None
        name = self._seen.get(mark)
        if name is None:
            name = self._keep(tensor, tag, path)
            if mark is not None:
                self._seen[mark] = name
        elif tag == "$model":
            self.encoded.aliases[path[-1]] = name
        is_permuted = not tensor.is_contiguous() and torch.empty_like(tensor, device="meta").stride() == tensor.stride()
        return {tag: name, "stride": list(tensor.stride())} if is_permuted else {tag: name}

    def _encode_shards(self, tensor: DTensor, path: tuple[Any, ...]) -> dict[str, Any]:
        name = ".".join(map(str, path))
        while name in self.encoded.shards:
            name += "_"
        self.encoded.shards[name] = take_part(tensor.detach())
        self.encoded.cuts[name] = tensor._spec
        return {"$shards": name, "shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}

    def _encode_rare(self, value: Any, path: tuple[Any, ...]) -> dict[str, Any]:
        kind = type(value)
        if kind in (np.ndarray, np.memmap) and find_dtype(value) in DTYPE_CODES:
            return {"$array": self._keep(value, "$array", path)}
        if isinstance(value, np.generic) and value.dtype.kind in NUMPY_KINDS:
            return {"$scalar": [value.dtype.str, value.tobytes().hex()]}
        if kind is bytes:
            return {"$bytes": base64.b64encode(value).decode()}
        if kind is torch.Size:
            return {"$size": list(value)}
        if kind is torch.dtype:
            return {"$dtype": str(value).removeprefix("torch.")}
        if kind is torch.device:
            return {"$device": str(value)}
        what = (
            f"{kind.__name__} of dtype {value.dtype}" if isinstance(value, (np.ndarray, np.generic)) else kind.__name__
        )
        raise InputError(
            f"checkpoint: {_show(path)} is a {what}, and a checkpoint holds only tensors, arrays, numbers, text and "
            "bytes, and mappings, lists and tuples of them; turn it into one of these, or leave it out"
        )

    def _keep(self, leaf: Leaf, tag: str, path: tuple[Any, ...]) -> str:
        if tag == "$model":
            self.encoded.model[path[-1]] = leaf
            return str(path[-1])
        name = ".".join(map(str, path))
        while name in self.encoded.rest or name == METADATA:
            name += "_"
        self.encoded.rest[name] = leaf
        return name


class _Decoder:
    """Puts a state together again."""

    def __init__(self, model: Mapping[str, Tensor], rest: Mapping[str, Tensor], shards: Mapping[str, Tensor]) -> None:
        self._tensors = {"$model": model, "$tensor": rest, "$array": rest, "$shards": shards}
        self._made: dict[tuple[str, str], Tensor] = {}

    def decode(self, tree: Any) -> Any:
        if isinstance(tree, list):
            return tree if _is_plain(tree) else [self.decode(item) for item in tree]
        if not isinstance(tree, dict):
            return tree
        tag = next(iter(tree), "")
        if not tag.startswith("$"):
            return {key: self.decode(value) for key, value in tree.items()}
        held = tree[tag]
        if tag in ("$model", "$tensor"):
            return self._find_tensor(tag, held, tree.get("stride"))
        if tag == "$array":
            return self._tensors[tag][held].numpy()
        if tag == "$shards":
            return self._tensors[tag][held]
        if tag == "$dict":
            return {self.decode(key): self.decode(value) for key, value in held}
        return DECODERS[tag](self.decode(held))

    def _find_tensor(self, tag: str, name: str, stride: list[int] | None) -> Tensor:
        made = self._made.get((tag, name))
        if made is None:
            made = self._tensors[tag][name]
            if stride is not None:
                made = torch.empty_strided(made.shape, stride, dtype=made.dtype).copy_(made)
            self._made[tag, name] = made
        return made


def _decode_module(held: list[Any]) -> OrderedDict[str, Any]:
    state: Any = OrderedDict(held[0])
    state._metadata = OrderedDict(held[1])
    return state  # type: ignore[no-any-return]


def _decode_dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name)
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"{name!r} is no dtype")
    return dtype


DECODERS: dict[str, Callable[[Any], Any]] = {
    "$tuple": tuple,
    "$size": torch.Size,
    "$counter": Counter,
    "$module": _decode_module,
    "$int": lambda held: int(held, 16),
    "$float": lambda held: struct.unpack(">d", bytes.fromhex(held))[0],
    "$bytes": lambda held: base64.b64decode(held, validate=True),
    "$scalar": lambda held: np.frombuffer(bytes.fromhex(held[1]), np.dtype(held[0]))[0],
    "$dtype": _decode_dtype,
    "$device": torch.device,
}
"""How a value is made of what its tag holds; tensors, arrays and mappings are made by the decoder itself."""


def _is_plain(items: Sequence[Any]) -> bool:
    """True if JSON holds every item as it is; told fast, for long lists of numbers."""
    kinds = set(map(type, items))
    if kinds == {int}:
        return bool(min(items) >= -INT_LIMIT and max(items) < INT_LIMIT)
    return kinds <= {str, bool, type(None)} or (kinds == {float} and all(map(math.isfinite, items)))


def _is_of_model(path: tuple[Any, ...]) -> bool:
    return len(path) == 2 and path[0] == MODEL_KEY and type(path[1]) is str and path[1] != METADATA


def _can_hold(tensor: Tensor) -> bool:
    is_dense = tensor.layout is torch.strided and not tensor.is_nested and not tensor.is_meta
    return is_dense and tensor.dtype in DTYPE_CODES


def _show(path: tuple[Any, ...]) -> str:
    return "state" + "".join(f"[{key!r}]" for key in path)
