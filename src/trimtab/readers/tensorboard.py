"""TensorBoard's event files, read without TensorBoard."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from trimtab.errors import InputError
from trimtab.readers import Log, reader
from trimtab.readers.building import build_log
from trimtab.readers.gathering import Entry
from trimtab.readers.sources import MAX_BYTES, list_some
from trimtab.readers.wire import HEADER, DamageError, is_events, read_frames, read_scalars

PATTERNS = ("*tfevents*", "*/*tfevents*", "*/*/*tfevents*")
"""Where event files lie below a folder; no deeper, since below a folder may be all the data of the world."""

STEP_TAG = "global_step"
"""The column that the steps of events are given; it is the likeliest name of one, so no tag is taken for it."""

SPLITS = ("train", "training", "val", "valid", "validation", "eval", "evaluation", "dev", "test")
"""Subfolders that hold parts of one run, as Keras writes them."""

ATTEMPT = re.compile(r"attempt-(\d+)")
"""A subfolder in which a run goes on after a rollback, as `trimtab.integrations.tensorboard` writes it."""


def is_event_log(path: Path) -> bool:
    """True for an event file, and for a folder with event files in it or below."""
    if not path.is_file():
        return bool(_find_files(path))
    with path.open("rb") as file:
        return "tfevents" in path.name or is_events(file.read(HEADER.size))


@reader("tensorboard", recognizes=is_event_log, turn=1)
def read_tensorboard(path: Path, names: Mapping[str, str]) -> Log:
    """TensorBoard event files: scalars as PyTorch and TensorFlow write them, in the order they were written.

    Several files in a folder are one run, begun again. The tags of subfolders have the subfolder's name before them,
    such as Keras's `train` and `validation`, but for the attempts of one run; folders that hold runs of their own are
    refused.
    """
    files = _find_files(path) if path.is_dir() else [path]
    if not files:
        raise InputError(f"log: {str(path)!r} holds no event file")
    folders = sorted({each.parent for each in files})
    root = _find_root(path, folders)
    notes = [f"read from {len(files)} event files"] if len(files) > 1 else []
    entries = _read_files(files, root, notes)
    return build_log(path, "tensorboard", entries, names, notes=notes, info={"tool": "TensorBoard"})


def _find_files(folder: Path) -> list[Path]:
    """The event files below a folder by their names, which begin with the time of their making."""
    found = [each for pattern in PATTERNS for each in folder.glob(pattern) if each.is_file()]
    return sorted(found, key=lambda each: (_number_attempt(each.parent), each.name, str(each)))


def _number_attempt(folder: Path) -> int:
    """The attempt that a folder holds; 1 for one that is none of its own."""
    found = ATTEMPT.fullmatch(folder.name)
    return int(found[1]) if found else 1


def _find_root(path: Path, folders: Sequence[Path]) -> Path:
    """The folder whose own files' tags keep their names; the others are below it.

    `add_scalars` of PyTorch makes a subfolder for each tag, below the run's own file.

    Raises:
        InputError: if there are several runs.
    """
    tops = [each for each in folders if not any(other in each.parents for other in folders)]
    if len(tops) == 1:
        return tops[0]
    runs = [each for each in tops if each.name.lower() not in SPLITS]
    if runs or len({each.parent for each in tops}) > 1:
        shown = list_some(each.relative_to(path) for each in tops)
        raise InputError(f"log: {str(path)!r} holds several runs; name the folder of one of {shown}")
    return tops[0].parent


def _read_files(files: Sequence[Path], root: Path, notes: list[str]) -> Iterator[Entry]:
    number = 0
    for file in files:
        if file.stat().st_size > MAX_BYTES:
            raise InputError(f"log: {str(file)!r} has more than {MAX_BYTES >> 30} GiB; read a smaller one")
        is_run = file.parent == root or (file.parent.parent == root and ATTEMPT.fullmatch(file.parent.name))
        before = "" if is_run else f"{file.parent.relative_to(root).as_posix()}/"
        try:
            for frame in read_frames(file.read_bytes()):
                for scalar in read_scalars(frame):
                    number += 1
                    if before + scalar.tag != STEP_TAG:
                        yield number, {STEP_TAG: float(scalar.step), before + scalar.tag: scalar.value}
        except DamageError as error:
            notes.append(f"{file.name}: {error}; what comes before is read")
