"""The bytes of a TensorBoard event file: frames, and the few fields of their messages that hold scalars.

A file is a row of frames: the length as a uint64, its checksum, the content, its checksum; all little-endian. A content
is a protocol-buffer message `Event`: field 1 is the wall time, 2 the step, 5 the summary; a summary's field 1 is a
value with tag (1), number (2), tensor (8) and metadata (9); a tensor has dtype (1), bytes (4) and typed lists.
The checksum of the length is verified, since nothing after a wrong length can be read; that of the content is not.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

Field: TypeAlias = tuple[int, int, int | bytes]
"""A field of a message: number, wire type, and what it holds."""

HEADER = struct.Struct("<QI")
FRAME_BYTES = 16
"""What a frame takes beside its content."""

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

CASTAGNOLI = 0x82F63B78
MASK = 0xA282EAD8
WORD = 0xFFFFFFFF

DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 19: "<f2"}
"""TensorFlow's numbers for the dtypes whose bytes NumPy can read."""

BFLOAT16 = 14

TYPED = {5: 1, 6: 2}
"""The fields of a tensor that hold a list of floats or doubles, with their dtypes."""

HALVES, INTEGERS = 13, (7, 10)
"""The fields that hold 16-bit floats as integers, and integers."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """A number in an event file."""

    tag: str
    """What it was logged as."""

    step: int
    """The step it was logged at."""

    value: float
    """The number."""


class DamageError(ValueError):
    """The bytes are no event file from here on."""


def make_table() -> tuple[int, ...]:
    """For each byte, what it does to a CRC-32C."""
    table = []
    for byte in range(256):
        remainder = byte
        for _ in range(8):
            remainder = remainder >> 1 ^ (CASTAGNOLI if remainder & 1 else 0)
        table.append(remainder)
    return tuple(table)


TABLE = make_table()


def mask_checksum(content: bytes) -> int:
    """The CRC-32C of some bytes, masked as frames have it."""
    checksum = WORD
    for byte in content:
        checksum = TABLE[(checksum ^ byte) & 0xFF] ^ checksum >> 8
    checksum ^= WORD
    return ((checksum >> 15 | checksum << 17) + MASK) & WORD


def is_events(head: bytes) -> bool:
    """True if some bytes begin with a frame."""
    return len(head) >= HEADER.size and mask_checksum(head[:8]) == HEADER.unpack_from(head)[1]


def read_frames(content: bytes) -> Iterator[bytes]:
    """The contents of all whole frames.

    Raises:
        DamageError: where the rest is no frame, or not a whole one.
    """
    place = 0
    while place < len(content):
        if place + HEADER.size > len(content):
            raise DamageError(f"it ends in the middle of an event, at byte {place}")
        length, checksum = HEADER.unpack_from(content, place)
        if mask_checksum(content[place : place + 8]) != checksum:
            raise DamageError(f"it is damaged at byte {place}")
        if place + FRAME_BYTES + length > len(content):
            raise DamageError(f"it ends in the middle of an event, at byte {place}")
        yield content[place + HEADER.size : place + HEADER.size + length]
        place += FRAME_BYTES + length


def read_scalars(event: bytes) -> Iterator[Scalar]:
    """The scalars of one event; pictures, histograms and texts are passed over.

    Raises:
        DamageError: if it is no message.
    """
    step, summaries = 0, list[bytes]()
    for number, kind, held in read_fields(event):
        if number == 2 and kind == VARINT and isinstance(held, int):
            step = held - (1 << 64) if held >> 63 else held
        elif number == 5 and isinstance(held, bytes):
            summaries.append(held)
    for summary in summaries:
        for number, _, held in read_fields(summary):
            if number == 1 and isinstance(held, bytes):
                tag, value = _read_value(held)
                if value is not None:
                    yield Scalar(tag, step, value)


def read_fields(message: bytes) -> Iterator[Field]:
    """The fields of a protocol-buffer message.

    Raises:
        DamageError: if it is none.
    """
    place, end = 0, len(message)
    while place < end:
        key, place = _read_varint(message, place)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, place = _read_varint(message, place)
            yield number, kind, value
            continue
        if kind == BYTES:
            length, place = _read_varint(message, place)
        elif kind in (FIXED32, FIXED64):
            length = 4 if kind == FIXED32 else 8
        else:
            raise DamageError(f"an event has a field of the unknown kind {kind}")
        if place + length > end:
            raise DamageError("an event is shorter than it says")
        yield number, kind, message[place : place + length]
        place += length


def _read_varint(message: bytes, place: int) -> tuple[int, int]:
    """A number of as many bytes as it needs, and the place after it."""
    value = shift = 0
    while place < len(message) and shift < 70:
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
    raise DamageError("an event has a number without an end")


def _read_value(message: bytes) -> tuple[str, float | None]:
    """The tag and the number of a value; None where it is no single number."""
    tag, value = "", None
    for number, kind, held in read_fields(message):
        if not isinstance(held, bytes):
            continue
        if number == 1:
            tag = held.decode("utf-8", errors="replace")
        elif number == 2 and kind == FIXED32:
            value = float(struct.unpack("<f", held)[0])
        elif number == 8:
            value = _read_tensor(held)
    return tag, value


def _read_tensor(message: bytes) -> float | None:
    """The number of a tensor that holds exactly one."""
    dtype, found = 0, list[float]()
    for number, kind, held in read_fields(message):
        if number == 1 and isinstance(held, int):
            dtype = held
        elif number == 4 and isinstance(held, bytes) and held:
            found += _read_content(dtype, held)
        elif number in TYPED and isinstance(held, bytes):
            found += _read_content(TYPED[number], held)
        elif number in (HALVES, *INTEGERS):
            found += [_read_integer(dtype, number, each) for each in _unpack(held, kind)]
        if len(found) > 1:
            return None
    return found[0] if found else None


def _read_content(dtype: int, held: bytes) -> list[float]:
    if dtype == BFLOAT16 and len(held) % 2 == 0:
        widened = np.frombuffer(held, dtype="<u2").astype("<u4") << 16
        return [float(each) for each in widened.view("<f4")]
    if dtype not in DTYPES or len(held) % np.dtype(DTYPES[dtype]).itemsize:
        return []
    return [float(each) for each in np.frombuffer(held, dtype=DTYPES[dtype])]


def _unpack(held: int | bytes, kind: int) -> list[int]:
    """Integers, whether they are packed together or single."""
    if kind == VARINT and isinstance(held, int):
        return [held]
    numbers, place = list[int](), 0
    while isinstance(held, bytes) and place < len(held):
        number, place = _read_varint(held, place)
        numbers.append(number)
    return numbers


def _read_integer(dtype: int, number: int, held: int) -> float:
    """An integer as a number, or as the bits of a 16-bit float."""
    if number == HALVES:
        return _read_content(dtype, (held & 0xFFFF).to_bytes(2, "little"))[0]
    return float(held - (1 << 64) if held >> 63 else held)
