"""Tensors and arrays as the bytes of a safetensors file, streamed, so that each is hashed as it passes."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Leaf = Tensor | NDArray[Any]
"""What is kept as bytes."""

METADATA = "__metadata__"
"""The one name in a safetensors header that is no tensor's."""

CHUNK = 4 * 2**20
"""Bytes written or read, and hashed, at a time: they stay in the processor's cache between the two."""

CODES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
    "complex64": "C64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2": "F8_E5M2",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
}
"""The dtypes of the safetensors format, by PyTorch's name."""

DTYPE_CODES = {getattr(torch, name): code for name, code in CODES.items() if hasattr(torch, name)}
DTYPES = {code: dtype for dtype, code in DTYPE_CODES.items()}


class Sink(Protocol):
    """What bytes are written to."""

    def write(self, data: Any, /) -> Any:
        """Take all of them."""


class Source(Protocol):
    """What bytes are read from."""

    def read(self, size: int, /) -> bytes:
        """This many bytes."""

    def readinto(self, buffer: Any, /) -> Any:
        """As many bytes as fill the buffer."""


def write_tensors(file: Sink, leaves: Mapping[str, Leaf], aliases: Mapping[str, str]) -> None:
    """Write a safetensors file, straight from the memory of tensors that are contiguous and on the CPU.

    Args:
        file: what is written to.
        leaves: the tensors, by name.
        aliases: further names of tensors, kept in the file's metadata as `safetensors.torch.load_model` reads them.
    """
    ordered = sorted(leaves.items(), key=lambda pair: -pair[1].dtype.itemsize)  # so that each begins aligned
    header: dict[str, Any] = {METADATA: {**aliases, "format": "pt"}}
    end = 0
    for name, leaf in ordered:
        begin, end = end, end + leaf.nbytes
        dtype = leaf.dtype if isinstance(leaf, Tensor) else find_dtype(leaf)
        header[name] = {"dtype": DTYPE_CODES[dtype], "shape": list(leaf.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    for _, leaf in ordered:
        for chunk in _split(_view_bytes(leaf)):
            file.write(chunk)


def read_tensors(file: Source, size: int) -> dict[str, Tensor]:
    """Read a safetensors file of this size; each tensor has memory of its own.

    Raises:
        ValueError: or what else Python raises, if it is none.
    """
    (length,) = struct.unpack("<Q", file.read(8))
    if length > size - 8:
        raise ValueError("the header is longer than the file")
    header = json.loads(file.read(length))
    header.pop(METADATA, None)
    tensors, at = {}, 0
    for name, entry in sorted(header.items(), key=lambda pair: pair[1]["data_offsets"]):
        dtype, shape = DTYPES[entry["dtype"]], entry["shape"]
        begin, end = entry["data_offsets"]
        if min(shape, default=0) < 0 or begin != at or end - begin != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{name!r} is not where it should be")
        if end > size - 8 - length:
            raise ValueError(f"{name!r} ends behind the file")
        tensors[name] = torch.empty(shape, dtype=dtype)
        for chunk in _split(_view_bytes(tensors[name])):
            file.readinto(chunk)
        at = end
    return tensors


def _view_bytes(leaf: Leaf) -> memoryview:
    """The bytes of a tensor or array: its own memory, unless it has to be made contiguous first."""
    if isinstance(leaf, Tensor):
        tensor = leaf.cpu().resolve_conj().resolve_neg().contiguous()
        return tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8).numpy().data
    return np.ascontiguousarray(leaf, leaf.dtype.newbyteorder("=")).reshape(-1).view(np.uint8).data


def _split(view: memoryview) -> Iterator[memoryview]:
    for begin in range(0, len(view), CHUNK):
        yield view[begin : begin + CHUNK]


def find_dtype(array: NDArray[Any]) -> torch.dtype | None:
    """The dtype of an array as a tensor, or None where PyTorch has none."""
    try:
        return torch.from_numpy(np.empty(0, array.dtype.newbyteorder("="))).dtype
    except TypeError:
        return None
