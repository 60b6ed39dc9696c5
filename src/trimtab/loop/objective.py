"""The loss of a step: the user's function, on the model's device, in micro-batches that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.control.batches import count_samples, move_batch, split_batch
from trimtab.control.memory import MicroBatchSize
from trimtab.errors import InputError
from trimtab.loop.data import Indexed, Several
from trimtab.probes.rerun import ComputeLoss
from trimtab.state.rng import restore_rng


@dataclass(slots=True)
class Loss:
    """A loss, and the losses by name whose sum it is."""

    total: Tensor
    """The loss, 0-d."""

    parts: dict[str, Tensor] = field(default_factory=dict)
    """Its parts, detached; none where `compute_loss` gives one loss."""

    rows: tuple[tuple[Any, Tensor], ...] = ()
    """Of each micro-batch, the numbers of its rows and their losses, detached; none where rows are not tracked."""

    @classmethod
    def sum(cls, losses: Sequence[Loss]) -> Loss:
        """The sum of some losses, and of their parts by name."""
        names = dict.fromkeys(name for each in losses for name in each.parts)
        parts = {name: sum_of([each.parts[name] for each in losses if name in each.parts]) for name in names}
        return cls(sum_of([each.total for each in losses]), parts, tuple(row for each in losses for row in each.rows))

    def detach(self) -> Loss:
        """The same without a graph."""
        return Loss(self.total.detach(), self.parts, self.rows)


class Objective:
    """The loss of one batch or several, each micro-batch weighted by its share of the samples.

    A call computes the loss of a batch as a step does, for the supervisor: of the step at hand from the random numbers
    it began with.

    Args:
        compute_loss: the user's function.
        device: where the model is.
        micro_batch: how many samples a micro-batch has at most, which gets smaller when memory runs out.
        by_row: True if a loss may be one for each row, whose mean it then is.
        unwraps: True if batches come with their row numbers, though they are not tracked.

    Attributes:
        micro_batch: the same.
        at_hand: the batch of the step that is being made, and its random numbers after it was fetched.
    """

    def __init__(
        self,
        compute_loss: ComputeLoss,
        device: torch.device,
        micro_batch: MicroBatchSize,
        *,
        by_row: bool = False,
        unwraps: bool = False,
    ) -> None:
        self._compute_loss = compute_loss
        self._device = device
        self._by_row, self._unwraps = by_row, unwraps
        self.micro_batch = micro_batch
        self.at_hand: tuple[Any, dict[str, Any]] | None = None

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        """The loss of the batch of a step."""
        if self.at_hand is not None and batch is self.at_hand[0]:
            restore_rng(self.at_hand[1])
        return sum_of([self.compute(model, *each).total for each in self.cut(batch, self.micro_batch.size)])

    def cut(self, batch: Any, size: int | None) -> Iterator[tuple[Any, float]]:
        """The micro-batches of a step, on the device, each with its share of the samples.

        Raises:
            InputError: if a batch cannot be split.
        """
        batches = list_batches(batch)
        if len(batches) == 1 and size is None:
            yield move_batch(batches[0], self._device), 1.0
            return
        counts = [count_samples(each) for each in batches]
        known = [each for each in counts if each is not None]
        total = sum(known) if len(known) == len(counts) else None
        for each, num_samples in zip(batches, counts, strict=True):
            for part in split_batch(each, size):
                num_here = count_samples(part) if num_samples is not None else None
                share = 1 / len(batches) if num_here is None or not total else num_here / total
                yield move_batch(part, self._device), share

    def compute(self, model: nn.Module, micro_batch: Any, share: float = 1.0) -> Loss:
        """The loss of a micro-batch, times its share.

        Raises:
            InputError: if `compute_loss` does not return what it has to.
        """
        rows = None
        if isinstance(micro_batch, Indexed) or self._unwraps:
            rows, micro_batch = micro_batch
        given = self._compute_loss(model, micro_batch)
        parts = dict(given) if isinstance(given, Mapping) else {}
        losses: list[Any] = list(parts.values()) or [given]
        for each in losses:
            self._require_loss(each)
        total = sum_of([_average(each) for each in losses])
        scaled = total if share == 1.0 else total * share
        told = {name: _average(each.detach()) * share for name, each in parts.items()}
        return Loss(scaled, told, self._list_rows(rows, losses))

    def _require_loss(self, given: Any) -> None:
        is_rowed = self._by_row and isinstance(given, Tensor) and given.ndim == 1 and given.numel() > 0
        if is_rowed or (isinstance(given, Tensor) and given.numel() == 1):
            return
        shown = f"a tensor of shape {tuple(given.shape)}" if isinstance(given, Tensor) else f"{given!r:.60}"
        raise InputError(
            f"fit: compute_loss returned {shown}; it has to return a 0-d tensor, or a dict of such tensors whose sum "
            "is the loss" + (", or with rows= a loss for each row" if self._by_row else "")
        )

    def _list_rows(self, rows: Any, losses: Sequence[Tensor]) -> tuple[tuple[Any, Tensor], ...]:
        """The row numbers and losses of a micro-batch whose rows are tracked.

        Raises:
            InputError: if there is no loss for each row.
        """
        if rows is None or not self._by_row:
            return ()
        by_row = [each.detach() for each in losses if each.ndim == 1 and len(each) == len(rows)]
        if not by_row:
            raise InputError(
                f"fit: rows= needs a loss for each row, and compute_loss gave none of {len(rows)} numbers; return it "
                'before it is averaged, as functional.cross_entropy(…, reduction="none") gives it'
            )
        return ((rows, sum_of(by_row)),)


def _average(loss: Tensor) -> Tensor:
    """A loss as one number, 0-d."""
    return loss.reshape(()) if loss.numel() == 1 else loss.mean()


def list_batches(batch: Any) -> tuple[Any, ...]:
    """The batches of a step."""
    return batch if isinstance(batch, Several) else (batch,)


def count_largest(batch: Any) -> int | None:
    """The samples of the largest batch of a step; None if one of them cannot be split."""
    counts = [count_samples(each) for each in list_batches(batch)]
    return None if None in counts else max(each for each in counts if each is not None)


def sum_of(tensors: Sequence[Tensor]) -> Tensor:
    """The sum of some tensors, the only one as it is."""
    first, *others = tensors
    for each in others:
        first = first + each
    return first
