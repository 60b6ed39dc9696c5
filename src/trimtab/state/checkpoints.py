"""The checkpoints of a run: copied at once, written in the background, and rotated such that a healthy one stays."""

from __future__ import annotations

import logging
import math
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from trimtab.errors import CheckpointError, TrimtabError
from trimtab.ranks import is_first_rank
from trimtab.state.checkpoint import (
    Loaded,
    MakeTargets,
    Stamp,
    name_cause,
    put_in_place,
    read_checkpoint,
    read_stamp,
    remove_folder,
    write_folder,
)
from trimtab.state.encoding import Encoded, encode_state
from trimtab.state.tensors import Leaf, find_dtype

if TYPE_CHECKING:
    from trimtab.state.crew import Crew

NAME = re.compile(r"step-(\d+)(\.old)?")
"""A checkpoint's folder; an old one is in its last moment, while a new one of the same step takes its place."""

LEFTOVER = re.compile(r"\.step-\d+(\.old)?\.partial")
"""What a killed write or removal leaves behind."""

ABANDONED = "abandoned"
"""What the folders of checkpoints are called that a run did not go on from, but from an older one."""

logger = logging.getLogger("trimtab")


def _log(sentence: str) -> None:
    logger.warning("%s", sentence)


class Checkpoints:
    """The checkpoints of a run, written from a thread of their own off the hot path.

    Kept are the newest ones, the newest healthy one, and the healthy one with the best score. Only the process that
    holds the run's lock may save; any may read.

    Args:
        folder: where they lie; made when the first is written.
        keep_last: how many of the newest ones are kept, healthy or not.
        report: told in one sentence what went wrong, once per streak; it may be called from the writing thread.
        prepare: called in the writing thread before each checkpoint is put in place, to write what has to be on disk by
            then.

    Attributes:
        crew: the ranks that write and read them together, each of which calls every method; None for this process
            alone.
    """

    def __init__(
        self,
        folder: Path,
        *,
        keep_last: int = 3,
        report: Callable[[str], None] = _log,
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder = Path(folder)
        self._keep_last = keep_last
        self._report = report
        self._prepare = prepare
        self.crew: Crew | None = None
        self._reported: set[str] = set()
        self._places: dict[tuple[str, str], Tensor] = {}
        self._held: Encoded | None = None
        self._writer: threading.Thread | None = None
        self._moving = threading.Lock()
        self._is_tidy = False

    def save(self, state: Mapping[str, Any], stamp: Stamp, *, wait: bool = False) -> bool:
        """Copy a state and write the copy at once: `copy` and `write` in one.

        Returns:
            False if it was not taken, since the one before is still being written; with `wait`, if it is not on disk.

        Raises:
            InputError: if the state holds what a checkpoint cannot.
        """
        return self.copy(state, stamp.step, wait=wait) and self.write(stamp, wait=wait)

    def copy(
        self, state: Mapping[str, Any], step: int, *, own: Mapping[str, Any] | None = None, wait: bool = False
    ) -> bool:
        """Copy a state into memory that is kept for it; its tensors may be changed as soon as this returns.

        Args:
            state: as for `write_checkpoint`.
            step: optimizer steps done.
            own: of several ranks, what this one alone has.
            wait: wait until what is being written is on disk; several ranks always do.

        Returns:
            False if it was not taken, since the one before is still being written.

        Raises:
            InputError: if the state holds what a checkpoint cannot.
        """
        if not wait and self.crew is None and self._writer is not None and self._writer.is_alive():
            self._report_once(
                "slow",
                f"checkpoint: step {step} is not saved, since the one before is still being written; "
                "save less often, or to a faster disk",
            )
            return False
        self.wait()
        self._reported.discard("slow")
        encoded = encode_state(state)
        if not is_first_rank():  # which writes what all have alike
            encoded = replace(encoded, model={}, rest={}, aliases={})
        self._held = self._copy(replace(encoded, own=None if own is None else encode_state(own)))
        return True

    def write(self, stamp: Stamp, *, wait: bool = False) -> bool:
        """Write the copy in the background. A disk that takes none is reported, and never raises.

        Args:
            stamp: what is known of it.
            wait: return only when it is on disk.

        Returns:
            False if there is no copy; with `wait`, if it is not on disk.
        """
        encoded, self._held = self._held, None
        if encoded is None:
            return False
        if wait:
            self._write(encoded, stamp)
            return "disk" not in self._reported
        self._writer = threading.Thread(target=self._write, args=(encoded, stamp), name="trimtab-checkpoint")
        self._writer.start()  # no daemon: the interpreter waits for it at its end
        return True

    def wait(self) -> None:
        """Return when nothing is being written any more."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None

    def list(self) -> list[tuple[Path, Stamp]]:
        """The whole ones, the newest step first; their contents are not verified."""
        with self._moving:
            return [(path, stamp) for path, stamp in self._scan() if isinstance(stamp, Stamp)]

    def load_newest(
        self,
        accept: Callable[[Loaded], None],
        *,
        before: int | None = None,
        healthy_only: bool = True,
        make_targets: MakeTargets | None = None,
    ) -> Loaded | None:
        """Read the newest checkpoint that can be used; each that is passed over is reported with its reason.

        Args:
            accept: takes the checkpoint over, or raises a `TrimtabError` if it does not fit.
            before: only those of an earlier step.
            healthy_only: only those taken while the run was healthy.
            make_targets: makes what sharded tensors are read into.

        Returns:
            The checkpoint that was accepted, by all ranks, or None if there is none.
        """
        self.wait()
        for path in self._list_paths():
            loaded, problem = None, ""
            try:
                stamp = read_stamp(path)
                if before is not None and stamp.step >= before:
                    continue
                if healthy_only and not stamp.is_healthy:
                    raise CheckpointError(
                        f"checkpoint: {str(path)!r} is not healthy: {stamp.reason or 'no reason given'}"
                    )
                loaded = self._read(path, make_targets)
                accept(loaded)
            except TrimtabError as error:
                where = "" if str(path) in str(error) else f"checkpoint: {str(path)!r} does not fit: "
                problem = f"{where}{error}; it is passed over"
            problem = next(filter(None, [problem] if self.crew is None else self.crew.tell(problem)), "")
            if not problem:
                return loaded
            self._report(problem)
        return None

    def _list_paths(self) -> Sequence[Path]:
        """All there are, whole or not, the newest step first, as the first rank sees them."""
        paths = [path for path, _ in self._scan()]
        return paths if self.crew is None else self.crew.tell(paths)[0]

    def _read(self, path: Path, make_targets: MakeTargets | None) -> Loaded:
        if self.crew is None:
            return read_checkpoint(path, make_targets)
        return read_checkpoint(path, make_targets, rank=self.crew.rank, num_ranks=self.crew.size)

    def abandon(self, after_step: int) -> None:
        """Put those of later steps aside, since the run goes on from an earlier one.

        They keep their names in folders of their own, where nothing loads or counts them; the newest two such folders
        are kept.
        """
        self.wait()
        newer = [path for path, _ in self._scan() if int(path.name.split("-")[1].split(".")[0]) > after_step]
        if not newer:
            return
        try:
            before = sorted(self.folder.glob(f"{ABANDONED}-*"), key=lambda path: int(path.name.split("-")[1]))
            number = 1 + (int(before[-1].name.split("-")[1]) if before else 0)
            aside = self.folder / f"{ABANDONED}-{number}"
            aside.mkdir()
            for path in newer:
                path.rename(aside / path.name)
            for path in before[:-1]:
                shutil.rmtree(path)
        except OSError as error:
            self._report(f"checkpoint: those after step {after_step} cannot be put aside ({name_cause(error)})")

    def close(self) -> None:
        """Wait for what is being written, and give the memory of the copies and the ranks' group back."""
        self.wait()
        self._places = {}
        crew, self.crew = self.crew, None
        if crew is not None:
            crew.close()

    def _copy(self, encoded: Encoded) -> Encoded:
        """The same state with its tensors copied into the kept places, which are changed where they do not fit."""
        leaves = {("model", name): leaf for name, leaf in encoded.model.items()}
        leaves |= {("rest", name): leaf for name, leaf in encoded.rest.items()}
        leaves |= {("shards", name): leaf for name, leaf in encoded.shards.items()}
        leaves |= {("own", name): leaf for name, leaf in (encoded.own.rest.items() if encoded.own else ())}
        self._places = {key: place for key, place in self._places.items() if _fits(place, leaves.get(key))}
        self._places = {key: self._places.get(key, _NOWHERE) for key in leaves}
        for key, leaf in leaves.items():
            if self._places[key] is _NOWHERE:
                self._places[key] = _allocate_for(leaf)
        _copy_all(leaves, self._places)

        def list_places(wanted: str) -> dict[str, Any]:
            return {name: place for (kind, name), place in self._places.items() if kind == wanted}

        return replace(
            encoded,
            model=list_places("model"),
            rest=list_places("rest"),
            shards=list_places("shards"),
            own=None if encoded.own is None else replace(encoded.own, rest=list_places("own")),
        )

    def _write(self, encoded: Encoded, stamp: Stamp) -> None:
        """Write a copy and remove what is not kept; whatever fails is reported, for the training goes on."""
        folder = self.folder / f"step-{stamp.step:06d}"
        try:
            if self.crew is None:
                self._tidy()
                self._place(write_folder(folder, encoded, stamp), folder)
            else:
                self.crew.do(lambda: self._tidy() if is_first_rank() else None)
                self.crew.write(folder, encoded, stamp, lambda aside: self._place(aside, folder))
        except Exception as error:
            self._report_once(
                "disk",
                f"checkpoint: {str(folder)!r} cannot be written ({name_cause(error)}); "
                "the training goes on, and the next save tries again",
            )
            return
        self._reported.discard("disk")
        if not is_first_rank():
            return
        try:
            self._rotate(folder)
        except Exception as error:
            self._report_once(
                "rotation",
                f"checkpoint: older ones in {str(self.folder)!r} cannot be removed ({name_cause(error)}); "
                "the training goes on, and the next save tries again",
            )
        else:
            self._reported.discard("rotation")

    def _place(self, aside: Path, folder: Path) -> None:
        self._prepare()
        with self._moving:
            put_in_place(aside, folder)

    def _tidy(self) -> None:
        """Remove what killed writes left behind, once, when this process begins to write."""
        if not self._is_tidy and self.folder.exists():
            for path in self.folder.iterdir():
                if LEFTOVER.fullmatch(path.name):
                    shutil.rmtree(path)
        self._is_tidy = True

    def _rotate(self, newest: Path) -> None:
        found = self.list()
        healthy = [(path, stamp) for path, stamp in found if stamp.is_healthy]
        scored = [
            (stamp.score, path) for path, stamp in healthy if stamp.score is not None and not math.isnan(stamp.score)
        ]
        kept = {newest, *(path for path, _ in found[: self._keep_last]), *(path for path, _ in healthy[:1])}
        kept |= {min(scored, key=lambda pair: pair[0])[1]} if scored else set()
        for path, _ in found:
            if path not in kept:
                with self._moving:
                    remove_folder(path)

    def _scan(self) -> Iterator[tuple[Path, Stamp | CheckpointError]]:
        """Every checkpoint, the newest step first, with its stamp or what is wrong with it."""
        found = [(NAME.fullmatch(path.name), path) for path in self.folder.glob("step-*")]
        named = [(int(match[1]), match[2] is None, path) for match, path in found if match is not None]
        for _, _, path in sorted(named, reverse=True):
            try:
                yield path, read_stamp(path)
            except CheckpointError as error:
                yield path, error

    def _report_once(self, kind: str, sentence: str) -> None:
        if kind not in self._reported:
            self._reported.add(kind)
            self._report(sentence)


_NOWHERE = torch.empty(0)


def _fits(place: Tensor, leaf: Leaf | None) -> bool:
    if leaf is None or place.shape != tuple(leaf.shape):
        return False
    if isinstance(leaf, Tensor):
        return place.dtype == leaf.dtype and place.is_pinned() == leaf.is_cuda
    return place.dtype == find_dtype(leaf)


def _allocate_for(leaf: Leaf) -> Tensor:
    """An uninitialized contiguous place, in pinned memory where the tensor is on a GPU."""
    if isinstance(leaf, Tensor):
        return torch.empty(leaf.shape, dtype=leaf.dtype, pin_memory=leaf.is_cuda)
    return torch.empty(leaf.shape, dtype=find_dtype(leaf))


@torch.no_grad()
def _copy_all(leaves: Mapping[Any, Leaf], places: Mapping[Any, Tensor]) -> None:
    """Copy every leaf into its place, and return when all have arrived."""
    pairs = [(places[key], leaf) for key, leaf in leaves.items() if isinstance(leaf, Tensor)]
    gpus = {leaf.device for _, leaf in pairs if leaf.is_cuda}
    if pairs:
        torch._foreach_copy_([place for place, _ in pairs], [leaf for _, leaf in pairs], non_blocking=bool(gpus))
    for gpu in gpus:
        torch.cuda.current_stream(gpu).synchronize()
    for key, leaf in leaves.items():
        if not isinstance(leaf, Tensor):
            np.copyto(places[key].numpy(), leaf)
