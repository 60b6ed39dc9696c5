"""A checkpoint that is damaged on the disk."""

from __future__ import annotations

from pathlib import Path

import torch

from trimtab.faults import Scene, fault


@fault("corrupted-checkpoint", "end", strength=0.001, needs="checkpoints")
def corrupt_checkpoint(scene: Scene) -> None:
    """Bytes at random places of the newest checkpoint's largest file are changed; its size stays what it is.

    The newest checkpoint is the file or folder in the injector's folder that was changed last; what begins with a dot
    is none, since it is still being written.

    As it happens:
        A disk that forgets, a copy that was cut short, two jobs that write to the same place.
    Strength:
        The share of the bytes that are drawn to be changed; 0.001 by default, and at least one byte.

    Raises:
        InputError: if the injector was not given the folder, or there is no checkpoint in it.
    """
    if scene.folder is None:
        raise scene.refuse("found no folder of checkpoints", "make the injector with folder=path")
    file = _find_file(scene.folder)
    if file is None:
        raise scene.refuse(f"found no checkpoint in {scene.folder}", "let the loop write one before")
    scene.target = str(file.relative_to(scene.folder))
    content = torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8)
    places = torch.randint(len(content), (max(round(scene.strength * len(content)), 1),), generator=scene.generator)
    content[places] ^= 0xFF  # a byte that is drawn twice is changed once: all are read before any is written
    file.write_bytes(content.numpy().tobytes())


def _find_file(folder: Path) -> Path | None:
    """The largest file of the newest checkpoint; None if there is no checkpoint that holds anything."""
    entries = [each for each in folder.glob("[!.]*") if _measure(each)]
    newest = max(entries, key=lambda each: (each.stat().st_mtime_ns, each.name), default=None)
    if newest is None or newest.is_file():
        return newest
    return max((each for each in newest.rglob("*") if each.is_file()), key=_measure)


def _measure(path: Path) -> int:
    """The bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sum(each.stat().st_size for each in files)
