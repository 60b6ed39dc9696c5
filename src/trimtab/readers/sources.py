"""Files to text: compressed or not, in whatever encoding, cut short or not."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from trimtab.errors import InputError

HEAD_BYTES = 65_536
"""What is looked at to recognize a format: enough for the banner that some tools print first."""

MAX_BYTES = 1 << 30
"""The largest text that is read, unpacked; a log of 10 million steps is smaller."""

CHUNK_BYTES = 1 << 20

NUM_SHOWN = 5
"""Line numbers, steps or names that a note lists before it says how many more there are."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file that was read as text."""

    text: str
    """Its text, with every end of line a newline."""

    notes: tuple[str, ...]
    """What was odd, a sentence each."""

    @property
    def lines(self) -> Iterator[tuple[int, str]]:
        """The lines that are not blank, each with its number from 1."""
        for number, line in enumerate(self.text.split("\n"), 1):
            if line and not line.isspace():
                yield number, line

    @property
    def is_cut_short(self) -> bool:
        """True if the last line has no end."""
        return not self.text.endswith("\n")


def strip_name(path: Path) -> str:
    """A file's name in lower case without the ending that says it is compressed."""
    return path.name.lower().removesuffix(".gz")


def read_head(path: Path) -> str:
    """The first bytes of a file as text; empty for a folder, a binary file, or one that cannot be read."""
    try:
        if not path.is_file():
            return ""
        with _open(path) as file:
            content = file.read(HEAD_BYTES)
    except (OSError, EOFError, zlib.error):
        return ""
    text, _ = _decode(content, is_part=True)
    return "" if "\0" in text else _unify_lines(text)


def read_source(path: Path) -> Source:
    """A whole file as text.

    Raises:
        InputError: if it is a folder, empty, larger than `MAX_BYTES`, or binary.
    """
    if not path.is_file():
        raise InputError(f"log: {str(path)!r} is a folder; name the file in it")
    content, notes = _read_bytes(path)
    if not content.strip():
        raise InputError(f"log: {str(path)!r} is empty")
    text, encoding_note = _decode(content)
    if "\0" in text.rstrip("\0"):
        raise InputError(f"log: {str(path)!r} is a binary file of no known format")
    if text.endswith("\0"):
        notes.append("the file ends in zero bytes, as after a crash of the machine; they are left out")
    return Source(_unify_lines(text.rstrip("\0")), (*notes, *encoding_note))


def list_some(items: Iterable[object]) -> str:
    """The first few of some items, and how many more there are."""
    shown = [str(each) for each in items]
    more = f" and {len(shown) - NUM_SHOWN} more" if len(shown) > NUM_SHOWN else ""
    return ", ".join(shown[:NUM_SHOWN]) + more


def count(num: int, one: str, several: str) -> str:
    """A number with what it counts."""
    return f"{num} {one if num == 1 else several}"


class Notes(list[str]):
    """Notes on a log, a sentence each, and how many of its lines were left out."""

    num_skipped: int = 0

    def leave_out(self, numbers: list[int], what: str) -> None:
        """Count lines that are left out, and note them."""
        self.num_skipped += len(numbers)
        self.extend(note_unreadable(numbers, what))


def note_unreadable(numbers: list[int], what: str) -> list[str]:
    """A note of the lines that were left out; none where there are none."""
    if not numbers:
        return []
    if len(numbers) == 1:
        return [f"line {numbers[0]} is {what}; it is left out"]
    return [f"{len(numbers)} lines are {what}; they are left out: {list_some(numbers)}"]


def _open(path: Path) -> BinaryIO:
    """A file's bytes, unpacked if they are compressed, whatever its name says."""
    with path.open("rb") as file:
        is_packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if is_packed else path.open("rb")  # type: ignore[return-value]


def _read_bytes(path: Path) -> tuple[bytes, list[str]]:
    chunks: list[bytes] = []
    size, notes = 0, list[str]()
    with _open(path) as file:
        try:
            while chunk := file.read(CHUNK_BYTES):
                chunks.append(chunk)
                size += len(chunk)
                if size > MAX_BYTES:
                    raise InputError(f"log: {str(path)!r} has more than {MAX_BYTES >> 30} GiB; cut out a part of it")
        except (EOFError, zlib.error, gzip.BadGzipFile):
            notes.append("the compressed file is damaged or cut short; what comes before is read")
    return b"".join(chunks), notes


def _decode(content: bytes, is_part: bool = False) -> tuple[str, tuple[str, ...]]:
    """Bytes as text: by their mark, as UTF-8, or, as every byte has a meaning there, as Latin-1."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", errors="replace"), ()
    try:
        return content.decode("utf-8-sig", errors="ignore" if is_part else "strict"), ()
    except UnicodeDecodeError:
        return content.decode("latin-1"), ("the text is not UTF-8; it is read as Latin-1",)


def _unify_lines(text: str) -> str:
    """Text whose lines all end in a newline; a carriage return alone, as of progress bars, ends a line too."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text
