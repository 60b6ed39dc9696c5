"""The ranks that write and read the checkpoints of a run together."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from torch import distributed

from trimtab.errors import CheckpointError
from trimtab.ranks import is_first_rank, join_part
from trimtab.state.checkpoint import (
    SHARDS,
    Stamp,
    name_cause,
    name_own,
    seal_file,
    seal_folder,
    start_folder,
    sync_folder,
    write_common,
    write_own,
)
from trimtab.state.encoding import Encoded
from trimtab.state.shards import INDEX, write_shards

Value = TypeVar("Value")


class Crew:
    """All ranks of a run, on a process group of their own: so they can write while the training goes on.

    What one rank could not do, all learn, and then none goes on as if it were done.

    Attributes:
        rank: this rank.
        size: how many there are.
    """

    def __init__(self) -> None:
        self._group = distributed.new_group(backend="gloo")
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()

    def close(self) -> None:
        """Give the process group back, and wait for its threads; each rank by itself, and none uses it afterwards.

        A thread of gloo that gives tensors back while Python ends aborts the process.
        """
        with suppress(ValueError):  # the loop has destroyed all groups before
            distributed.destroy_process_group(self._group)
        del self._group

    def tell(self, value: Value) -> list[Value]:
        """What every rank tells all others, by rank; each of them calls it."""
        told: list[Any] = [None] * self.size
        distributed.all_gather_object(told, value, group=self._group)
        return told

    def do(self, function: Callable[[], Value]) -> list[Value]:
        """What a function returns on every rank, by rank.

        Raises:
            CheckpointError: on every rank, if it raised on one of them.
        """
        value, problem = None, ""
        try:
            value = function()
        except Exception as error:
            problem = name_cause(error)
        told = self.tell((value, problem))
        problems = [f"rank {rank}: {problem}" for rank, (_, problem) in enumerate(told) if problem]
        if problems:
            raise CheckpointError("; ".join(problems))
        return [value for value, _ in told]  # type: ignore[misc]

    def write(self, folder: Path, encoded: Encoded, stamp: Stamp, place: Callable[[Path], None]) -> None:
        """Write a checkpoint of which every rank has its part; it is there whole, or not at all.

        Args:
            folder: where it shall lie, on a file system that all ranks see.
            encoded: what this rank has to write, on the host.
            stamp: what this rank knows of it; it is healthy if it is so on all.
            place: called on the first rank with the folder that was written aside, to put it where it shall lie.

        Raises:
            CheckpointError: on every rank, if one could not do its part.
        """
        stamp = _join_stamps(self.do(lambda: stamp))
        aside = folder.with_name(f".{folder.name}.partial")
        try:
            self.do(lambda: start_folder(aside) if is_first_rank() else None)
            sealed = self.do(lambda: self._write_part(aside, encoded))
            shards = {name: join_part(part, encoded.cuts[name]) for name, part in encoded.shards.items()}
            if any(self.tell(bool(shards))):
                self.do(lambda: write_shards(aside / SHARDS, shards, self._group))
                sealed += self.do(lambda: self._seal_shards(aside))
            files = {name: seal for part in sealed for name, seal in part.items()}
            self.do(lambda: self._place(aside, stamp, files, place))
        except BaseException:
            if is_first_rank():
                shutil.rmtree(aside, ignore_errors=True)
            raise

    def _write_part(self, aside: Path, encoded: Encoded) -> dict[str, Any]:
        common = write_common(aside, encoded) if is_first_rank() else {}
        return common if encoded.own is None else common | write_own(aside, encoded.own, name_own(self.rank))

    def _seal_shards(self, aside: Path) -> dict[str, Any]:
        """The seals of the files that this rank has written, and on the first rank of their index."""
        sync_folder(aside / SHARDS)
        written = sorted((aside / SHARDS).glob(f"__{self.rank}_*"))
        paths = [*written, aside / SHARDS / INDEX] if is_first_rank() else written
        return {f"{SHARDS}/{path.name}": seal_file(path) for path in paths}

    def _place(self, aside: Path, stamp: Stamp, files: dict[str, Any], place: Callable[[Path], None]) -> None:
        if is_first_rank():
            seal_folder(aside, replace(stamp, num_ranks=self.size), files)
            place(aside)


def _join_stamps(stamps: Iterable[Stamp]) -> Stamp:
    """What all ranks know of a checkpoint together."""
    first, *others = stamps
    if any(each.step != first.step for each in others):
        raise CheckpointError(f"the ranks have kept different steps: {[each.step for each in (first, *others)]}")
    sick = [(rank, each) for rank, each in enumerate((first, *others)) if not each.is_healthy]
    if not sick:
        return first
    reasons = {each.reason for _, each in sick}
    where = "" if len(sick) > len(others) and len(reasons) == 1 else f"rank {sick[0][0]}: "
    return replace(first, is_healthy=False, reason=f"{where}{sick[0][1].reason}")
