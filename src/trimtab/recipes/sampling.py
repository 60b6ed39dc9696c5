"""Batches that each hold a share of every class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler

from trimtab.errors import InputError

MANY = 0.5
"""Of labels, the share that may be distinct for them to be classes."""


class StratifiedBatches(Sampler[list[int]]):
    """The row numbers of each batch, for `DataLoader(dataset, batch_sampler=...)`; made by `stratified_batches`.

    Its order comes from its own generator, which loaders, `fit` and checkpoints know as they know a loader's. With
    `state_dict` and `load_state_dict` a loop of your own goes on in the middle of an epoch; where a loader has workers,
    which ask for batches ahead, it goes on after what they have asked for.

    Attributes:
        generator: what the order of each epoch is drawn from.
        classes: the labels, sorted.
        num_drawn: how many rows of each class an epoch has.
    """

    def __init__(
        self, rows: Sequence[NDArray[np.int64]], classes: Sequence[Any], num_drawn: Sequence[int], batch_size: int,
        *, drop_last: bool, seed: int,
    ) -> None:  # fmt: skip
        self._rows, self.batch_size, self.drop_last = rows, batch_size, drop_last
        self.classes, self.num_drawn = list(classes), list(num_drawn)
        self.generator = torch.Generator().manual_seed(seed)
        self._begin, self._position, self._num_passed = self.generator.get_state(), 0, 0

    def __len__(self) -> int:
        total = sum(self.num_drawn)
        return total // self.batch_size if self.drop_last else -(-total // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        passed, self._num_passed = self._num_passed, 0
        self._begin, self._position = self.generator.get_state(), passed
        order = self._draw()
        batches = [order[begin : begin + self.batch_size] for begin in range(0, len(order), self.batch_size)]
        for batch in islice(batches, passed, len(self)):
            self._position += 1
            yield batch.tolist()
        self._begin, self._position = self.generator.get_state(), 0

    def _draw(self) -> NDArray[np.int64]:
        """The rows of an epoch: those of each class in a random order, at equal distances from a random start."""
        chosen, places = [], []
        for rows, num in zip(self._rows, self.num_drawn, strict=True):
            rounds = [torch.randperm(len(rows), generator=self.generator) for _ in range(-(-num // len(rows)))]
            chosen.append(rows[torch.cat(rounds)[:num].numpy()])
            places.append((np.arange(num) + float(torch.rand((), generator=self.generator))) / num)
        order: NDArray[np.int64] = np.concatenate(chosen)[np.argsort(np.concatenate(places), kind="stable")]
        return order

    def state_dict(self) -> dict[str, Any]:
        """Where it is: the generator at the beginning of the epoch, and the batches given since."""
        return {"generator": self._begin.clone(), "position": self._position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there the next time it is iterated over."""
        self.generator.set_state(state["generator"])
        self._begin, self._position = state["generator"].clone(), int(state["position"])
        self._num_passed = self._position


def stratified_batches(
    labels: Sequence[Any] | NDArray[Any] | Tensor,
    batch_size: int,
    *,
    balance: float = 0.0,
    drop_last: bool = False,
    seed: int = 0,
) -> StratifiedBatches:
    """Make batches in which every class has its share, so that rare ones do not come by the handful.

    Rows of a class come at equal distances through the epoch: a batch has at most one more or one less of a class than
    another. With `balance` 0 every row comes once an epoch. Above, classes are drawn in proportion to their number to
    the power of 1 − `balance`: with 0.5 by its square root (Mahajan et al. 2018), with 1 all equally often; rows of
    rare classes come again, and some of frequent ones do not come in every epoch.

    Args:
        labels: the class of each row; shape (rows,): numbers or names.
        batch_size: rows of a batch.
        balance: from 0, as in the data, to 1, all classes alike.
        drop_last: leave out a last batch that is smaller.
        seed: of the order.

    Raises:
        InputError: if labels are not one class a row, or an option cannot be.
    """
    values = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if values.ndim != 1 or not len(values):
        raise InputError(f"stratified_batches: labels have the shape {values.shape}; they have to be one class a row")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InputError(f"stratified_batches: batch_size is {batch_size!r}; it has to be a whole number from 1 up")
    if not 0 <= balance <= 1:
        raise InputError(f"stratified_batches: balance is {balance!r}; it has to be from 0 to 1")
    classes, codes, counts = np.unique(values, return_inverse=True, return_counts=True)
    if values.dtype.kind == "f" and len(classes) > max(2, MANY * len(values)):
        raise InputError(
            f"stratified_batches: labels have {len(classes):,} different values in {len(values):,} rows; they have to "
            "be classes: cut numbers into bins first"
        )
    rows = np.split(np.argsort(codes, kind="stable"), np.cumsum(counts)[:-1])
    num_drawn = _share_out(len(values), counts.astype(np.float64) ** (1 - balance)) if balance else counts.tolist()
    return StratifiedBatches(rows, classes.tolist(), num_drawn, batch_size, drop_last=drop_last, seed=seed)


def _share_out(total: int, weights: NDArray[np.float64]) -> list[int]:
    """A number in whole parts in proportion to some weights, each at least 1, by the largest remainder."""
    exact = total * weights / weights.sum()
    parts = np.maximum(np.floor(exact), 1).astype(int)
    left = total - int(parts.sum())
    if left > 0:
        parts[np.argsort(-(exact - np.floor(exact)), kind="stable")[:left]] += 1
    return [int(each) for each in parts]
