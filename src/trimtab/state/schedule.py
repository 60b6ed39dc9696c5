"""When snapshots are taken and given up, and when the probe is measured: alike on every rank.

It is a function of step counts, decisions and what was measured on all ranks together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from trimtab.history import History
from trimtab.ranks import take_part
from trimtab.state.buffers import BufferCopies
from trimtab.state.snapshot import Snapshots
from trimtab.types import Decision, Record

RATIO_EVERY = 4
"""Snapshots from one measurement of the update ratio to the next, which costs half as much as a snapshot."""


LONGEST = 512
"""Steps that the probe is measured after at the latest, whatever it costs."""


class ProbeSchedule:
    """Measures the probe every so many steps while the run is calm, and at once where it is not.

    A probe that has failed, on any rank, is not asked again.

    Args:
        every: steps between two measurements.
        budget: the share of the time of a calm run that the probe may take. Where it would take more, the steps between
            two measurements are doubled until it does not.
        memory: steps after one that was not calm during which it is measured every time.
    """

    def __init__(self, every: int, budget: float, memory: int) -> None:
        self._first = self.every = every
        self._budget = budget
        self._memory = memory
        self._has_failed = False
        self.begin()

    def begin(self) -> None:
        """Begin anew: the run begins, or was set to another state."""
        self._newest: int | None = None
        self._nervous_until = 0

    def is_due(self, step: int) -> bool:
        """True if the probe is to be measured at the check of a step, before its update."""
        if self._has_failed:
            return False
        return step <= self._nervous_until or self._newest is None or step - self._newest >= self.every

    def judge(self, decision: Decision, history: History) -> None:
        """Take a step into account: what was measured, and whether it was calm."""
        values = history.newest.values
        self._has_failed = self._has_failed or "probe_failed" in values
        if not decision.proceed:
            self._nervous_until = decision.step + self._memory
        if "probe_loss" in values:
            self._newest = decision.step
            self._stretch(history)

    def _stretch(self, history: History) -> None:
        """Choose the steps between two measurements by what they and steps take, in the median."""
        if self._budget >= 1 or not history.has("step_seconds"):
            return
        probe, step = (float(np.nanmedian(history.column(metric))) for metric in ("probe_seconds", "step_seconds"))
        self.every = self._first
        while self.every < LONGEST and probe > self._budget * self.every * step:
            self.every *= 2


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
        self._ratio_step: int | None = None

    def begin(self, step: int, parameters: Sequence[Tensor]) -> None:
        """Trust the state as it is from here on: it was loaded, or the run begins with it."""
        self.is_new, self.is_clean, self._newest, self._state_step = True, False, step, step
        self._plan_ratio(step)
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
        snapshot.is_first = True
        self._snapshots.complete()
        snapshot.data = self._first_data
        snapshot.copies.update({("buffer", name): copy.clone() for name, copy in self._buffers.list_copies().items()})
        self._snapshots.trust()

    def take_if_due(self, step: int, *, is_probed: bool = False) -> None:
        """Snapshot the state after the update of a step, if it is time and the step was clean.

        Args:
            step: the step whose update was just made.
            is_probed: True if the probe is about to measure this state; then there is to be a snapshot of it.
        """
        is_measured = is_probed and self._snapshots.candidate is None  # one on probation is not given up for it
        if self.is_clean and (is_measured or step - self._newest >= self._every):
            self._newest = step
            self._num_taken += 1
            self._plan_ratio(step)
            self._buffers.rescan()
            self._snapshots.take(step)

    def judge(self, record: Record) -> None:
        """Take a decision into account: a clean step counts for a candidate, a doubtful one gives it up."""
        decision = record.decision
        if record.accepts_state:
            self._snapshots.accept(self._state_step)
        if decision.doubts_state and not decision.is_state_sound:
            self.doubt(decision.step)
        elif decision.clock == "step":
            self._snapshots.confirm()
        if decision.clock == "step":
            self.is_clean = not decision.doubts_state
        if record.action.restored_step is not None:
            self._state_step = record.action.restored_step
        elif decision.clock == "step" and decision.proceed:
            self._state_step = decision.step

    def doubt(self, step: int) -> None:
        """Give a candidate on probation up; the next clean step takes another, on every rank alike."""
        self._snapshots.doubt()
        if step <= self._newest + self._probation:
            self._newest = step - self._every

    def pass_over(self, step: int) -> None:
        """Take a step into account that could not be judged, and whose update is made."""
        self.is_clean, self._state_step = False, step
        self.doubt(step)

    def give_up(self, step: int) -> None:
        """Give everything up and begin anew with the next clean step, whatever there was: the same on every rank."""
        self.is_clean, self._state_step = False, step
        self._snapshots.forget()
        self._newest, self._num_taken, self._ratio_step = step - self._every, 0, None

    def hold(self) -> None:
        """Take no snapshot of a step that this rank alone could not judge: the next check gives up on all ranks.

        Until then nothing else changes, since how much is measured there follows from it, and is the same on all.
        """
        self.is_clean = False

    def find_state_step(self, step: int) -> int | None:
        """The step whose update is the last one in the state that a step finds; None if it is the step before."""
        return None if self._state_step == step - 1 else self._state_step

    def is_ratio_due(self, step: int) -> bool:
        """True one update after that of a snapshot, for one snapshot in a few; the same on every rank."""
        return step == self._ratio_step

    def find_reference(self, parameters: Sequence[Tensor]) -> list[Tensor] | None:
        """The newest snapshot's copies of parameters, or None where there are none or the step before was not clean."""
        return self._snapshots.find_reference(parameters, self._newest) if self.is_clean else None

    def _plan_ratio(self, step: int) -> None:
        """Choose the step at which the update after a snapshot is measured; no finding changes it."""
        self._ratio_step = step + 2 if self._num_taken % RATIO_EVERY == 0 else None


def _mark(parameters: Sequence[Tensor]) -> list[int]:
    """Marks that change when a parameter is written to in place, or this rank's part of it is."""
    return [each._version for parameter in parameters for each in (parameter, take_part(parameter))]
