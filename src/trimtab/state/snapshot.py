"""Snapshots: the newest states of a run in memory, from candidate to proven, and the newest that a probe accepted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from trimtab.state.live import LiveState, Snapshot, SnapshotError


class Snapshots:
    """The newest proven snapshot of a run, a candidate for the next, and the newest one that a probe has accepted.

    A snapshot is a candidate until `probation` steps without an acting finding have passed; only then is it proven
    and can be restored. Where the run has a probe, the newest proven one that the probe has measured is kept besides:
    what the probe rejects may be in the newer ones already. Two or three slots are kept, their memory reused.

    Args:
        live: the run.
        probation: steps without an acting finding that prove a snapshot.
    """

    def __init__(self, live: LiveState, probation: int = 2) -> None:
        self.live = live
        self._probation = probation
        self._spares: list[Snapshot] = []
        self._is_complete = False
        self._stepped: Snapshot | None = None
        self.proven: Snapshot | None = None
        self.accepted: Snapshot | None = None
        self.candidate: Snapshot | None = None

    def take(self, step: int) -> Snapshot:
        """Copy the state as it is after the update of a step; it becomes the candidate.

        Args:
            step: the step whose update has just been made.
        """
        self.doubt()
        snapshot = self._spares.pop() if self._spares else Snapshot()
        snapshot.step, snapshot.num_clean, snapshot.is_accepted, snapshot.is_first = step, 0, False, False
        self.live.copy_into(snapshot)
        self._is_complete = False
        self.candidate = snapshot
        return snapshot

    def complete(self) -> None:
        """Do at a check what the loop was not through with before: capture partners, and set a schedule back.

        A rollback to the first snapshot, from before the loop stepped any scheduler, is stepped once too often.
        """
        if self.candidate is not None and not self._is_complete:
            self.live.complete(self.candidate)
            self._is_complete = True
        if self._stepped is not None:
            self.live.restore_schedule(self._stepped)
            self._stepped = None

    def add_thawed(self) -> None:
        """Add parameters that are to be trained from now on, and were frozen when the snapshots were taken."""
        for each in (self.candidate, self.proven, self.accepted):
            if each is not None:
                self.live.add_thawed(each)

    def find_reference(self, parameters: Sequence[Tensor], step: int) -> list[Tensor] | None:
        """The copies of parameters as they were after the update of a step, or None where there are none.

        Copies on another device, as those of a run on a GPU are, count as none: fetching them would cost more than
        they tell.
        """
        for snapshot in (self.candidate, self.proven):
            if snapshot is not None and snapshot.step == step:
                copies = [snapshot.copies.get(("parameter", parameter)) for parameter in parameters]
                pairs = zip(copies, parameters, strict=True)
                fitting = [kept for kept, live in pairs if kept is not None and kept.device == live.device]
                return fitting if len(fitting) == len(parameters) else None
        return None

    def accept(self, step: int) -> None:
        """Mark the snapshot whose state, that after the update of a step, the probe has just measured, if there is."""
        for each in (self.candidate, self.proven):
            if each is not None and each.step == step:
                each.is_accepted = True
        if self.proven is not None and self.proven.is_accepted:
            before, self.accepted = self.accepted, self.proven
            self._reuse(before)

    def confirm(self) -> None:
        """Count a step without an acting finding; a candidate that has passed enough of them is proven."""
        if self.candidate is not None:
            self.candidate.num_clean += 1
            if self.candidate.num_clean >= self._probation:
                self.trust()

    def trust(self) -> None:
        """Take the candidate for proven at once, as the state a run begins with is."""
        if self.candidate is not None:
            before = [self.proven, self.accepted]
            self.proven, self.candidate = self.candidate, None
            if self.proven.is_accepted:
                self.accepted = self.proven
            self._reuse(*before)

    def doubt(self) -> None:
        """Give the candidate up: there was a finding while it was on probation."""
        if self.candidate is not None:
            doubted, self.candidate = self.candidate, None
            self._reuse(doubted)

    def forget(self) -> None:
        """Give everything up, since the run was set to another state from outside."""
        self.proven = self.accepted = self.candidate = self._stepped = None
        self._spares = []

    def restore(self, report: Callable[[Exception], None], *, is_accepted: bool = False) -> int:
        """Set the run back to the newest proven snapshot, in place and bit for bit.

        Args:
            report: called with what a partner raises when its state is set back; all else is restored all the same.
            is_accepted: restore the newest that the probe has accepted, where there is one. Newer ones, which are
                the result of what was rejected, are given up.

        Returns:
            The step whose update is the last one kept.

        Raises:
            SnapshotError: if there is none, or the run's parameters are not those it was taken of.
        """
        snapshot = self.accepted if is_accepted and self.accepted is not None else self.proven
        if snapshot is None:
            raise SnapshotError("no snapshot is proven yet")
        self.live.restore(snapshot, report)
        self._stepped = snapshot if snapshot.is_first else None
        if snapshot is not self.proven:
            newer, self.proven = self.proven, snapshot
            self._reuse(newer)
        return snapshot.step

    def find_copy(self, parameter: Tensor) -> Tensor | None:
        """The newest proven copy of a parameter, or None."""
        return None if self.proven is None else self.proven.copies.get(("parameter", parameter))

    def _reuse(self, *snapshots: Snapshot | None) -> None:
        """Keep the memory of those that are in no slot any more."""
        for each in snapshots:
            held = (self.proven, self.accepted, self.candidate, *self._spares)
            if each is not None and not any(each is other for other in held):
                self._spares.append(each)
