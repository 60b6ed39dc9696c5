"""When snapshots are taken and when given up: a function of step counts and decisions, alike on every rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from trimtab.state.buffers import BufferCopies
from trimtab.state.snapshot import Snapshots
from trimtab.types import Decision

RATIO_EVERY = 4
"""Snapshots from one measurement of the update ratio to the next, which costs half as much as a snapshot."""


class SnapshotSchedule:
    """Takes a snapshot every so many clean steps, and the first of the state a run begins with.

    Args:
        snapshots: what is taken.
        buffers: the model's buffers.
        every: steps between snapshots.
        probation: clean steps that prove one.
    """

    def __init__(self, snapshots: Snapshots, buffers: BufferCopies, every: int, probation: int) -> None:
        self._snapshots = snapshots
        self._buffers = buffers
        self._every = every
        self._probation = probation
        self._num_taken = 0

    def begin(self, step: int, parameters: Sequence[Tensor]) -> None:
        """Trust the state as it is from here on: it was loaded, or the run begins with it."""
        self.is_new, self.is_clean, self._newest = True, False, step
        self._snapshots.forget()
        self._buffers.begin()
        self._first_data: Any = self._snapshots.live.capture_data()
        self._marks = _mark(parameters)

    def take_first(self, step: int, parameters: Sequence[Tensor]) -> None:
        """Snapshot the state before the first update, once; it needs no probation, for there is nothing older.

        The forward pass has already been through the buffers, so theirs are the copies made at the beginning, unless
        the weights were written to since: then they were loaded, and the copies are not what was loaded.
        """
        if not self.is_new:
            return
        self.is_new = False
        if _mark(parameters) != self._marks:
            self._buffers.begin()
        snapshot = self._snapshots.take(step - 1)
        self._snapshots.complete()
        snapshot.data = self._first_data
        snapshot.copies.update({("buffer", name): copy.clone() for name, copy in self._buffers.list_copies().items()})
        self._snapshots.trust()

    def take_if_due(self, step: int) -> None:
        """Snapshot the state after the update of a step, if it is time and the step was clean."""
        if self.is_clean and step - self._newest >= self._every:
            self._newest = step
            self._num_taken += 1
            self._buffers.rescan()
            self._snapshots.take(step)

    def judge(self, decision: Decision) -> None:
        """Take a decision into account: a clean step counts for a candidate, a doubtful one gives it up."""
        if decision.doubts_state:
            self.doubt(decision.step)
        elif decision.clock == "step":
            self._snapshots.confirm()
        if decision.clock == "step":
            self.is_clean = not decision.doubts_state

    def doubt(self, step: int) -> None:
        """Give a candidate on probation up; the next clean step takes another, on every rank alike."""
        self._snapshots.doubt()
        if step <= self._newest + self._probation:
            self._newest = step - self._every

    def give_up(self, step: int) -> None:
        """Give everything up and begin anew with the next clean step, whatever there was: the same on every rank."""
        self.is_clean = False
        self._snapshots.forget()
        self._newest = step - self._every

    def is_ratio_due(self, step: int) -> bool:
        """True one update after that of a snapshot, for one snapshot in a few; the same on every rank."""
        return step == self._newest + 2 and self._num_taken % RATIO_EVERY == 0

    def find_reference(self, parameters: Sequence[Tensor]) -> list[Tensor] | None:
        """The newest snapshot's copies of parameters, or None where there are none or the step before was not clean."""
        return self._snapshots.find_reference(parameters, self._newest) if self.is_clean else None


def _mark(parameters: Sequence[Tensor]) -> list[int]:
    """Marks that change when a parameter is written to in place."""
    return [parameter._version for parameter in parameters]
