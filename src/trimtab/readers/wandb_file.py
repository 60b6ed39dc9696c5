"""What Weights & Biases keeps of a run on this machine, online or offline: its `.wandb` file.

The file is a header of 7 bytes, then blocks of 32 KiB with chunks: checksum (uint32), length (uint16), kind (1 whole,
2 first, 3 middle, 4 last); the rest of a block too short for a chunk's head is empty. A record of one or more chunks is
a protocol-buffer message, whose field 2 is a row of the history: items (1) with a key (1, or 2 where it has several
parts) and JSON (16).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trimtab.errors import InputError
from trimtab.readers import Log, reader
from trimtab.readers.building import build_log
from trimtab.readers.gathering import Entry
from trimtab.readers.sources import MAX_BYTES, list_some
from trimtab.readers.wire import DamageError, read_fields

MAGIC = b":W&B"
HEADER_BYTES = 7
BLOCK_BYTES = 32_768

CHUNK = struct.Struct("<IHB")
"""The head of a chunk: checksum, length, kind."""

WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4

HISTORY, ITEM, KEY, NESTED_KEY, JSON = 2, 1, 1, 2, 16
"""The fields of messages that are read."""

PATTERNS = ("*.wandb", "*/*.wandb", "wandb/*/*.wandb")
"""Where such files lie below a folder."""

OWN_STEP = "trimtab/step"
"""The metric that is the step, where `trimtab.integrations.wandb` wrote the run."""


def is_run(path: Path) -> bool:
    """True for a `.wandb` file, and for a folder with one in it."""
    if not path.is_file():
        return bool(_find_files(path))
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


@reader("wandb-file", recognizes=is_run)
def read_wandb_file(path: Path, names: Mapping[str, str]) -> Log:
    """A run of Weights & Biases on this machine: its folder, such as `wandb/latest-run`, or the `.wandb` file in it."""
    files = _find_files(path) if path.is_dir() else [path]
    if len(files) != 1:
        shown = list_some(each.parent.relative_to(path) for each in files)
        raise InputError(f"log: {str(path)!r} holds {len(files)} runs; name the folder of one of {shown}")
    if files[0].stat().st_size > MAX_BYTES:
        raise InputError(f"log: {str(files[0])!r} has more than {MAX_BYTES >> 30} GiB; read a smaller one")
    notes: list[str] = []
    entries = list(_read_rows(files[0].read_bytes(), notes))
    if any(OWN_STEP in cells for _, cells in entries):
        entries = [(row, _take_own_step(cells)) for row, cells in entries]
    return build_log(path, "wandb-file", entries, names, notes=notes, info={"tool": "Weights & Biases"})


def _find_files(folder: Path) -> list[Path]:
    """The files below a folder, each of them once: `latest-run` is a link to another."""
    found = [each for pattern in PATTERNS for each in sorted(folder.glob(pattern)) if each.is_file()]
    return list({each.resolve(): each for each in found if each.parent.name != "latest-run"}.values()) or found


def _take_own_step(cells: Mapping[str, Any]) -> dict[str, Any]:
    """A row with the step that Trimtab counted as its only one."""
    kept = {name: cell for name, cell in cells.items() if name not in (OWN_STEP, "_step")}
    return {"global_step": cells[OWN_STEP], **kept} if OWN_STEP in cells else kept


def _read_rows(content: bytes, notes: list[str]) -> Iterator[Entry]:
    number = 0
    try:
        for record in _read_records(content):
            for field, _, held in read_fields(record):
                if field == HISTORY and isinstance(held, bytes):
                    number += 1
                    yield number, dict(_read_items(held))
    except DamageError as error:
        notes.append(f"{error}; what comes before is read")


def _read_records(content: bytes) -> Iterator[bytes]:
    """The whole records.

    Raises:
        DamageError: where the rest is no chunk, or not a whole one.
    """
    place, parts = HEADER_BYTES, b""
    while place < len(content):
        left = BLOCK_BYTES - place % BLOCK_BYTES
        if left < CHUNK.size:
            place += left
            continue
        if place + CHUNK.size > len(content):
            raise DamageError(f"it ends in the middle of a record, at byte {place}")
        _, length, kind = CHUNK.unpack_from(content, place)
        end = place + CHUNK.size + length
        if end > len(content):
            raise DamageError(f"it ends in the middle of a record, at byte {place}")
        if not WHOLE <= kind <= LAST or length > left - CHUNK.size:
            raise DamageError(f"it is damaged at byte {place}")
        parts = content[end - length : end] if kind in (WHOLE, FIRST) else parts + content[end - length : end]
        place = end
        if kind in (WHOLE, LAST):
            yield parts


def _read_items(row: bytes) -> Iterator[tuple[str, Any]]:
    """The names of a row with their numbers; histograms and other objects are passed over."""
    for field, _, item in read_fields(row):
        if field != ITEM or not isinstance(item, bytes):
            continue
        keys, text = list[str](), ""
        for number, _, held in read_fields(item):
            if number in (KEY, NESTED_KEY) and isinstance(held, bytes):
                keys.append(held.decode("utf-8", errors="replace"))
            elif number == JSON and isinstance(held, bytes):
                text = held.decode("utf-8", errors="replace")
        value = _parse(text)
        if keys and isinstance(value, (int, float)) and not isinstance(value, bool):
            yield "/".join(keys), value


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
