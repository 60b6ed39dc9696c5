"""The training data: fetched batch by batch, at a position that is saved and found again bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch

from trimtab.control.rows import IndexedRows
from trimtab.control.workers import Workers
from trimtab.errors import InputError
from trimtab.state.rng import capture_rng, restore_rng


class Several(tuple[Any, ...]):
    """The batches of one step, where it has several."""

    __slots__ = ()


class Indexed(tuple[Any, ...]):
    """A batch behind the numbers of its rows."""

    __slots__ = ()

    @classmethod
    def tag(cls, given: Any) -> Indexed:
        """A pair of row numbers and batch, as `IndexedRows` gives them.

        Raises:
            InputError: if it is none.
        """
        if not isinstance(given, (list, tuple)) or len(given) != 2:
            raise InputError(
                f"fit: rows= needs batches that are a pair (row numbers, batch), and this one is a "
                f"{type(given).__name__!r}; pass a loader over trimtab.control.rows.IndexedRows(dataset)"
            )
        return cls(given)


class TrainingData:
    """The batches of a run, one epoch after the other.

    A loader that can be saved itself (`state_dict`, `load_state_dict`) is; one without a length begins anew, or gives
    nothing once, where it was saved after its last batch. For any other the random numbers at the
    beginning of the epoch are kept: from them its order and augmentations come again, and the batches that were
    trained on already are passed over.

    Args:
        loaders: each gives the batches of a partition, anew each time it is iterated over.
        num_batches: how many batches make a step.
        workers: told of the loader's workers.
        has_rows: True if each batch comes with its row numbers.

    Attributes:
        epoch: epochs completed.
        partition: the number of the partition at hand.
        num_passed: batches of the current epoch that steps were made of.
        rng: the random numbers before the newest batches were fetched.
    """

    def __init__(
        self, loaders: Sequence[Iterable[Any]], num_batches: int, workers: Workers, *, has_rows: bool = False
    ) -> None:
        self._loaders = loaders
        self._has_rows = has_rows
        self._num_batches = num_batches
        self._workers = workers
        self._batches: Iterator[Any] | None = None
        self._start: dict[str, Any] = {}
        self._num_fetched = 0
        self._is_loaded = self._is_at_end = False
        self.epoch = self._first_epoch = 0
        self.partition = 0
        self.num_passed = 0
        self.rng: dict[str, Any] = {}

    @property
    def _loader(self) -> Iterable[Any]:
        return self._loaders[self.partition]

    @property
    def can_save(self) -> bool:
        """True if the loader at hand knows its place itself."""
        return hasattr(self._loader, "state_dict") and hasattr(self._loader, "load_state_dict")

    @property
    def num_steps(self) -> int | None:
        """The steps of an epoch; None where the loader has no length."""
        num_batches = count_batches(self._loader)
        return None if num_batches is None else -(-num_batches // self._num_batches)

    @property
    def num_steps_done(self) -> int:
        """The steps of the epoch that are done."""
        return -(-self.num_passed // self._num_batches)

    def fetch(self) -> Any:
        """The batch of the next step, or its batches as `Several`; None at the end of the epoch.

        Raises:
            InputError: if the loader gives nothing, or less than was passed over before.
        """
        if self._is_at_end:
            return None
        self.rng = capture_rng()
        fetched = self._take()
        if not fetched and self._is_loaded and not self.num_passed:  # its position was the end of the epoch before
            self.close()
            fetched = self._take()
        self._num_fetched, self._is_loaded = len(fetched), False
        if not fetched:
            if not self.num_passed:
                raise InputError(
                    f"fit: train_loader gave no batch in epoch {self.epoch + 1}; it has to give some each time it is "
                    "iterated over, as a DataLoader or a list does"
                )
            return None
        return fetched[0] if self._num_batches == 1 else Several(fetched)

    def confirm(self) -> None:
        """Count what was fetched last as done."""
        self.num_passed += self._num_fetched

    def end_epoch(self) -> None:
        """Go to the beginning of the next epoch."""
        self.close()
        self.epoch, self.num_passed, self._start, self._is_at_end = self.epoch + 1, 0, {}, False

    def rotate(self, partition: int) -> None:
        """Go to another partition, at the beginning of an epoch."""
        if getattr(self._loader, "_iterator", None) is not None:
            self._loader._iterator = None  # type: ignore[attr-defined]  # workers that are kept end with it
        self.partition, self._first_epoch = partition, self.epoch

    def close(self) -> None:
        """Let go of the loader's workers."""
        if self._batches is not None:
            self._workers.release(self._batches)
        self._batches = None

    def state_dict(self) -> dict[str, Any]:
        """The position."""
        start = self._start or self._capture_start()
        partition = {"partition": self.partition, "first_epoch": self._first_epoch}
        state = {"epoch": self.epoch, "num_passed": self.num_passed, "start": start} | partition
        return state | ({"loader": self._loader.state_dict()} if self.can_save else {})  # type: ignore[attr-defined]

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a position; the batches before it are passed over when the next one is fetched."""
        self.epoch, self.num_passed, self._start = state["epoch"], state["num_passed"], dict(state["start"])
        self.partition, self._first_epoch = state["partition"], state["first_epoch"]
        if self.can_save and "loader" in state:
            self._loader.load_state_dict(state["loader"])  # type: ignore[attr-defined]
            self._is_loaded, self._is_at_end = True, 0 < self.num_passed == count_batches(self._loader)

    def _take(self) -> list[Any]:
        """The batches of the next step, fewer at the end of the epoch."""
        if self._batches is None:
            self._batches = self._open()
        taken = list(islice(self._batches, self._num_batches))
        return [Indexed.tag(each) for each in taken] if self._has_rows else taken

    def _capture_start(self) -> dict[str, Any]:
        """The random numbers that the order of an epoch is drawn from."""
        return {"rng": capture_rng(), "generators": [each.get_state() for each in find_generators(self._loader)]}

    def _open(self) -> Iterator[Any]:
        """Begin an epoch, or go on with one that was loaded."""
        now = capture_rng()
        if not self._start:
            self._start = self._capture_start()
        elif not self.can_save:
            if self.epoch > self._first_epoch and getattr(self._loader, "persistent_workers", False):
                iter(self._loader)  # its workers were seeded in its first epoch, which drew a random number
            restore_rng(self._start["rng"])
            for generator, state in zip(find_generators(self._loader), self._start["generators"], strict=False):
                generator.set_state(state)
        for set_epoch in _list_set_epoch(self._loader):
            set_epoch(self.epoch)
        batches = iter(self._loader)
        self._workers.track(batches)
        if self.num_passed:
            self._pass_over(batches)
            restore_rng(now)
        return batches

    def _pass_over(self, batches: Iterator[Any]) -> None:
        if self.can_save:
            return
        num_there = sum(1 for _ in islice(batches, self.num_passed))
        if num_there < self.num_passed:
            raise InputError(
                f"fit: the checkpoint is {self.num_passed} batches into epoch {self.epoch + 1}, but train_loader gives "
                f"only {num_there}; pass the loader of the run, or begin a new run"
            )


def count_batches(loader: Any) -> int | None:
    """The batches a loader gives in one pass; None where it does not say."""
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return None


def gives_rows(loader: Any) -> bool:
    """True if a loader's data set, or what it is part of, numbers its rows."""
    dataset = getattr(loader, "dataset", None)
    while dataset is not None and not isinstance(dataset, IndexedRows):
        dataset = getattr(dataset, "dataset", None)
    return dataset is not None


def find_generators(loader: Any) -> list[torch.Generator]:
    """The random number generators of a loader's own, each once."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    holders = [loader, getattr(loader, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None)]
    found = [getattr(each, "generator", None) for each in holders]
    return list({id(each): each for each in found if isinstance(each, torch.Generator)}.values())


def describe_data(loader: Any, num_partitions: int = 1) -> str:
    """A loader and its data in one sentence."""
    dataset, size = getattr(loader, "dataset", None), getattr(loader, "batch_size", None)
    num_batches, num_samples = count_batches(loader), None if dataset is None else count_batches(dataset)
    parts = [
        f"A `{type(loader).__name__}`" + ("" if dataset is None else f" over a `{type(dataset).__name__}`"),
        f"{num_samples:,} samples" if num_samples is not None else "",
        f"batches of {size}" if size is not None else "",
        f"{num_batches:,} batches an epoch" if num_batches is not None else "",
        f"{num_partitions} partitions" if num_partitions > 1 else "",
    ]
    return ", ".join(filter(None, parts)) + "."


def _list_set_epoch(loader: Any) -> list[Callable[[int], Any]]:
    """What has to be told of the epoch, so that it is shuffled anew: a distributed sampler, for one."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    holders = [loader, getattr(loader, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None)]
    found = {id(each): each for each in holders if callable(getattr(each, "set_epoch", None))}
    return [each.set_epoch for each in found.values()]
