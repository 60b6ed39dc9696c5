"""Checkpoints: the state of a run on disk, complete or absent, checked byte for byte when it is read.

    step-000200/
      model.safetensors    the model's tensors under their own names: any tool that reads safetensors loads them
      state.safetensors    all other tensors and arrays
      state.json           the structure they belong to; nothing in it can run code
      stamp.json           what is known of it without reading it, versions, and the size and SHA-256 of each file

and where several ranks have trained together, written by all of them

      shards/              tensors of which each rank has a part, as `torch.distributed.checkpoint` writes them
      rank-00000/          what each rank alone has: random numbers, data position, buffers

A checkpoint is written aside, forced to the disk and renamed, so a kill at any instant leaves the one before. SHA-256
is what `sha256sum` prints, and it takes 0.2 s for 300 MB, in C and without Python's global lock.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trimtab.errors import CheckpointError
from trimtab.journal import to_json
from trimtab.state.encoding import Encoded, decode_state, encode_state, list_shards
from trimtab.state.tensors import CHUNK, read_tensors, write_tensors

FORMAT_VERSION = 2
"""The version of a checkpoint's format; a reader refuses a newer one. Since 2 there are those of several ranks."""

MODEL, TENSORS, STATE, STAMP = "model.safetensors", "state.safetensors", "state.json", "stamp.json"

SHARDS = "shards"
"""The folder of sharded tensors."""

MakeTargets = Callable[[Mapping[str, tuple[tuple[int, ...], torch.dtype]]], Mapping[str, Tensor]]
"""What sharded tensors are read into: from names, with shape and dtype of the whole, to tensors of that dtype."""

BUFFER = 2**18
"""Bytes of small tensors that are gathered before the disk is asked; larger ones go to it directly."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What is known of a checkpoint without reading its tensors."""

    step: int
    """Optimizer steps done."""

    is_healthy: bool
    """The run was healthy when it was taken."""

    reason: str = ""
    """Why it is not healthy."""

    score: float | None = None
    """A validation metric, the lower the better; None where there is none."""

    num_ranks: int = 1
    """How many ranks have trained together."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A checkpoint that was read and verified."""

    folder: Path
    """Where it lies."""

    stamp: Stamp
    """What is known of it."""

    state: dict[str, Any]
    """The state that was saved, its tensors in CPU memory; sharded ones are as their targets."""

    own: dict[str, Any] | None = None
    """What this rank alone had; None where there was one rank, or another number of them than now."""


def write_checkpoint(folder: Path, state: Mapping[str, Any], stamp: Stamp) -> None:
    """Write a checkpoint such that it is there whole or not at all; one that is there already is replaced.

    Args:
        folder: where it shall lie; the folder above is made if it is not there.
        state: mappings, lists and tuples of tensors, arrays, numbers, text and bytes; `state["model"]` is the model's.
        stamp: what is known of it.

    Raises:
        InputError: if the state holds what a checkpoint cannot; the message says where.
        CheckpointError: if the disk takes none; whatever lay there before is still there.
    """
    encoded = encode_state(state)
    try:
        put_in_place(write_folder(folder, encoded, stamp), folder)
    except OSError as error:
        raise CheckpointError(
            f"checkpoint: {str(folder)!r} cannot be written ({name_cause(error)}); make room, or choose another place"
        ) from error


def read_stamp(folder: Path) -> Stamp:
    """What is known of a checkpoint whose files are all there in full length; their contents are not verified.

    Raises:
        CheckpointError: if it is not whole, or of a newer format.
    """
    return _read_index(folder)[0]


def read_checkpoint(
    folder: Path, make_targets: MakeTargets | None = None, *, rank: int = 0, num_ranks: int = 1
) -> Loaded:
    """Read a checkpoint and verify every byte of it; of what several ranks read together, each verifies its share.

    Args:
        folder: where it lies.
        make_targets: makes what sharded tensors are read into; None for whole tensors on the host.
        rank: this rank.
        num_ranks: how many ranks read it together.

    Raises:
        CheckpointError: if it is not whole, damaged, or of a newer format.
    """
    stamp, files = _read_index(folder)
    large = sorted(name for name in files if name.startswith(f"{SHARDS}/"))
    for name in large[rank::num_ranks]:
        _read_file(folder / name, files[name], lambda *_: True)
    tree = _read_file(folder / STATE, files[STATE], lambda file, _: json.loads(file.read_rest()))
    model = _read_file(folder / MODEL, files[MODEL], read_tensors)
    rest = _read_file(folder / TENSORS, files[TENSORS], read_tensors)
    try:
        found = list_shards(tree)
        shards = (make_targets or _make_whole)(found)
        if found:
            _read_shards(folder, shards)
        own = _read_own(folder, files, name_own(rank)) if stamp.num_ranks == num_ranks > 1 else None
        return Loaded(folder, stamp, decode_state(tree, model, rest, shards), own)
    except CheckpointError:
        raise
    except Exception as error:  # bytes that are intact and yet no state, written by something else
        raise _call_damaged(folder, f"its state cannot be put together ({type(error).__name__}: {error})") from error


class _HashedFile:
    """A file whose size and checksum are taken as it is written or read."""

    def __init__(self, path: Path, mode: str) -> None:
        self._file: Any = path.open(mode, buffering=BUFFER)
        self._hash = hashlib.sha256()
        self._size = 0

    def __enter__(self) -> _HashedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, data: Any) -> None:
        self._take(data)
        self._file.write(data)

    def sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def read(self, size: int) -> bytes:
        return bytes(self._take(self._file.read(size)))

    def readinto(self, buffer: memoryview) -> None:
        self._take(buffer[: self._file.readinto(buffer)])

    def read_rest(self) -> bytes:
        return self.read(-1)

    def drain(self) -> None:
        while self.read(CHUNK):
            pass

    @property
    def seal(self) -> dict[str, Any]:
        return {"bytes": self._size, "sha256": self._hash.hexdigest()}

    def _take(self, data: Any) -> Any:
        self._hash.update(data)
        self._size += len(data)
        return data


def write_folder(folder: Path, encoded: Encoded, stamp: Stamp) -> Path:
    """Write a checkpoint beside where it shall lie and force it to the disk; nothing is left of one that fails."""
    aside = folder.with_name(f".{folder.name}.partial")
    try:
        start_folder(aside)
        seal_folder(aside, stamp, write_common(aside, encoded))
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return aside


def start_folder(aside: Path) -> None:
    """Make the folder that a checkpoint is written into, anew."""
    if aside.exists():
        shutil.rmtree(aside)
    aside.mkdir(parents=True)


def write_common(aside: Path, encoded: Encoded) -> dict[str, Any]:
    """Write what one rank writes for all; returns the seal of each file."""
    return {MODEL: _write_file(aside / MODEL, lambda file: write_tensors(file, encoded.model, encoded.aliases))} | {
        name: _write_file(aside / name, write) for name, write in _list_contents(encoded).items()
    }


def write_own(aside: Path, encoded: Encoded, name: str) -> dict[str, Any]:
    """Write what one rank alone has into a folder of its own; returns the seal of each file."""
    (aside / name).mkdir()
    contents = _list_contents(encoded)
    files = {f"{name}/{file}": _write_file(aside / name / file, write) for file, write in contents.items()}
    sync_folder(aside / name)
    return files


def seal_folder(aside: Path, stamp: Stamp, files: Mapping[str, Any]) -> None:
    """Write the stamp of a checkpoint whose files are all there, and force the folder to the disk."""
    text = _format_index(_describe(stamp, files))
    _write_file(aside / STAMP, lambda file: file.write(text.encode()))
    sync_folder(aside)


def name_own(rank: int) -> str:
    """The folder of what a rank alone has."""
    return f"rank-{rank:05d}"


def _list_contents(encoded: Encoded) -> dict[str, Callable[[_HashedFile], None]]:
    return {
        TENSORS: lambda file: write_tensors(file, encoded.rest, {}),
        STATE: lambda file: file.write(json.dumps(encoded.tree, allow_nan=False).encode()),
    }


def seal_file(path: Path) -> dict[str, Any]:
    """The size and checksum of a file."""
    with _HashedFile(path, "rb") as file:
        file.drain()
        return file.seal


def _make_whole(shards: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> dict[str, Tensor]:
    return {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in shards.items()}


def _read_shards(folder: Path, targets: Mapping[str, Tensor]) -> None:
    from trimtab.state.shards import read_shards  # it takes long to import, and is seldom needed

    try:
        read_shards(folder / SHARDS, targets)
    except Exception as error:
        raise _call_damaged(folder, f"{SHARDS} cannot be read ({type(error).__name__}: {error})") from error


def _read_own(folder: Path, files: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What a rank alone had."""
    names = f"{name}/{STATE}", f"{name}/{TENSORS}"
    tree = _read_file(folder / names[0], files[names[0]], lambda file, _: json.loads(file.read_rest()))
    rest = _read_file(folder / names[1], files[names[1]], read_tensors)
    own: dict[str, Any] = decode_state(tree, {}, rest)
    return own


def _write_file(path: Path, write: Callable[[_HashedFile], None]) -> dict[str, Any]:
    with _HashedFile(path, "xb") as file:
        write(file)
        file.sync()
        return file.seal


def _describe(stamp: Stamp, files: Mapping[str, Any]) -> dict[str, Any]:
    score = None if stamp.score is None else to_json(float(stamp.score))
    versions = {"python": platform.python_version(), **{name: version(name) for name in ("trimtab", "torch")}}
    return {"format": FORMAT_VERSION, **asdict(stamp), "score": score, "versions": versions, "files": dict(files)}


def _format_index(body: Mapping[str, Any]) -> str:
    """The text of `stamp.json`, which ends with a checksum of itself."""
    checksum = hashlib.sha256(json.dumps(body).encode()).hexdigest()
    return json.dumps({**body, "sha256": checksum}, indent=1) + "\n"


def _read_index(folder: Path) -> tuple[Stamp, dict[str, dict[str, Any]]]:
    """The stamp of a checkpoint and what each of its files should be; each is there in this size."""
    try:
        text = (folder / STAMP).read_bytes().decode()
        held = json.loads(text)
        newest = held["format"]
        if isinstance(newest, int) and newest > FORMAT_VERSION:
            raise CheckpointError(
                f"checkpoint: {str(folder)!r} has format {newest}, and this version reads up to {FORMAT_VERSION}; "
                "update trimtab"
            )
        del held["sha256"]
        if _format_index(held) != text:
            raise _call_damaged(folder, f"{STAMP} is not what was written")
        files = held["files"]
        for name in {MODEL: None, TENSORS: None, STATE: None, **files}:
            if ".." in Path(name).parts or Path(name).is_absolute():
                raise _call_damaged(folder, f"{STAMP} names a file outside of it")
            size, expected = (folder / name).stat().st_size, files[name]["bytes"]
            if size != expected:
                raise _call_damaged(folder, f"{name} has {size} bytes, and {expected} were written")
        score = None if held["score"] is None else float(held["score"])
        return Stamp(held["step"], held["is_healthy"], held["reason"], score, held.get("num_ranks", 1)), files
    except FileNotFoundError as error:
        raise CheckpointError(
            f"checkpoint: {str(folder)!r} is not whole: it has no {Path(error.filename).name}"
        ) from error
    except OSError as error:
        path = str(error.filename or folder)
        raise CheckpointError(f"checkpoint: {path!r} cannot be read ({name_cause(error)})") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _call_damaged(folder, f"{STAMP} is no stamp") from error


def _read_file(path: Path, seal: Mapping[str, Any], read: Callable[[_HashedFile, int], Any]) -> Any:
    """What a file holds, once its checksum is right; damaged bytes may make `read` raise anything."""
    try:
        with _HashedFile(path, "rb") as file:
            held = read(file, seal["bytes"])
            file.drain()
            if file.seal == seal:
                return held
    except OSError as error:
        raise CheckpointError(f"checkpoint: {str(path)!r} cannot be read ({name_cause(error)})") from error
    except Exception as error:
        raise _call_damaged(path.parent, f"{path.name} is not what was written") from error
    raise _call_damaged(path.parent, f"{path.name} is not what was written")


def put_in_place(aside: Path, folder: Path) -> None:
    """Rename a written checkpoint to where it shall lie; what lies there already is exchanged for it, and removed."""
    former = folder.with_name(f"{folder.name}.old")
    try:
        if not folder.exists():
            aside.rename(folder)
        elif not _exchange(aside, folder):
            if former.exists():
                remove_folder(former)
            folder.rename(former)
            aside.rename(folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    if former.exists():
        remove_folder(former)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one stroke, or return False where the system or its disk cannot: Linux mostly can."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE in Linux's headers
    return bool(rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


def remove_folder(folder: Path) -> None:
    """Remove a checkpoint such that it is there whole or not at all."""
    aside = folder.with_name(f".{folder.name}.partial")
    if aside.exists():
        shutil.rmtree(aside)
    folder.rename(aside)
    shutil.rmtree(aside)


def sync_folder(folder: Path) -> None:
    """Force a folder's entries to the disk, where the system has a way to."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems have none
            raise
    finally:
        os.close(descriptor)


def _call_damaged(folder: Path, what: str) -> CheckpointError:
    return CheckpointError(f"checkpoint: {str(folder)!r} is damaged: {what}")


def name_cause(error: Exception) -> str:
    """What kept a file from being read or written, for a message."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {error}"
