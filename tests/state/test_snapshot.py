"""The slots of snapshots: candidate, proven, accepted; their memory used again, and never more than four of them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from trimtab.state.buffers import BufferCopies
from trimtab.state.live import LiveState, Snapshot, SnapshotError
from trimtab.state.snapshot import Snapshots

MOST = 4


class Toy:
    """One parameter that holds the number of the newest update."""

    def __init__(self, probation: int = 2) -> None:
        self.weight = nn.Parameter(torch.zeros(3))
        self.optimizer = torch.optim.SGD([self.weight], lr=0.1)
        self.snapshots = Snapshots(LiveState(self.optimizer, BufferCopies(nn.Module())), probation)
        self.step = 0
        self.seen: set[int] = set()
        self.kept: list[Snapshot] = []

    def update(self, *, takes: bool = True) -> None:
        """One update, and a snapshot of its result."""
        self.step += 1
        with torch.no_grad():
            self.weight.fill_(self.step)
        if takes:
            self.note(self.snapshots.take(self.step))

    def note(self, snapshot: Snapshot) -> None:
        if id(snapshot) not in self.seen:
            self.seen.add(id(snapshot))
            self.kept.append(snapshot)

    def restore(self, *, is_accepted: bool = False) -> int:
        step = self.snapshots.restore(lambda error: pytest.fail(str(error)), is_accepted=is_accepted)
        assert self.weight.tolist() == [float(step)] * 3
        return step

    def list_slots(self) -> tuple[int | None, ...]:
        """The steps of proven, accepted and candidate."""
        held = (self.snapshots.proven, self.snapshots.accepted, self.snapshots.candidate)
        return tuple(None if each is None else each.step for each in held)


def test_candidate_is_proven_by_clean_steps() -> None:
    """A candidate becomes proven after as many clean steps as the probation has, and not before."""
    toy = Toy()
    toy.update()
    assert toy.list_slots() == (None, None, 1)
    toy.snapshots.confirm()
    assert toy.list_slots() == (None, None, 1)
    with pytest.raises(SnapshotError, match="no snapshot is proven yet"):
        toy.restore()
    toy.snapshots.confirm()
    assert toy.list_slots() == (1, None, None)
    assert toy.restore() == 1


def test_doubted_candidate_is_given_up() -> None:
    """A finding on probation leaves the older proven one."""
    toy = Toy(probation=1)
    toy.update()
    toy.snapshots.confirm()
    toy.update()
    toy.snapshots.doubt()
    toy.snapshots.confirm()
    assert toy.list_slots() == (1, None, None)
    assert toy.restore() == 1


def test_newer_candidate_replaces_one_on_probation() -> None:
    """Only the newest candidate is on probation."""
    toy = Toy()
    toy.update()
    toy.snapshots.confirm()
    toy.update()
    assert toy.list_slots() == (None, None, 2)
    toy.snapshots.confirm()
    assert toy.list_slots() == (None, None, 2)


def test_accepted_is_kept_beside_a_newer_proven_one() -> None:
    """The newest state that the probe has measured is kept until a newer one is measured and proven."""
    toy = Toy(probation=1)
    toy.update()
    toy.snapshots.accept(1)
    toy.snapshots.confirm()
    assert toy.list_slots() == (1, 1, None)
    toy.update()
    toy.snapshots.confirm()
    assert toy.list_slots() == (2, 1, None)
    toy.update()
    toy.snapshots.accept(3)
    assert toy.list_slots() == (2, 1, 3)
    toy.snapshots.confirm()
    assert toy.list_slots() == (3, 3, None)


def test_state_that_is_accepted_later_counts() -> None:
    """A proven snapshot whose state the probe measures only then is accepted."""
    toy = Toy(probation=1)
    toy.update()
    toy.snapshots.confirm()
    toy.snapshots.accept(1)
    assert toy.list_slots() == (1, 1, None)
    toy.snapshots.accept(7)
    assert toy.list_slots() == (1, 1, None)


@pytest.mark.parametrize(("is_accepted", "restored"), [(True, 1), (False, 2)])
def test_what_the_probe_rejects_goes_back_further(is_accepted: bool, restored: int) -> None:
    """A rejection restores the accepted one and gives the newer up; any other finding restores the newest proven."""
    toy = Toy(probation=1)
    toy.update()
    toy.snapshots.accept(1)
    toy.snapshots.confirm()
    toy.update()
    toy.snapshots.confirm()
    toy.update(takes=False)
    assert toy.restore(is_accepted=is_accepted) == restored
    assert toy.list_slots() == (restored, 1, None)
    assert toy.restore() == restored


def test_without_an_accepted_one_the_proven_is_restored() -> None:
    """Before the probe has measured anything that is kept, a rejection restores the newest proven one."""
    toy = Toy(probation=1)
    toy.update()
    toy.snapshots.confirm()
    assert toy.restore(is_accepted=True) == 1


def test_forgotten_snapshots_cannot_be_restored() -> None:
    """After the run was set to another state from outside there is nothing to go back to."""
    toy = Toy(probation=1)
    toy.update()
    toy.snapshots.confirm()
    toy.snapshots.forget()
    assert toy.list_slots() == (None, None, None)
    with pytest.raises(SnapshotError):
        toy.restore()


events = st.lists(st.sampled_from(["update", "confirm", "accept", "doubt", "restore", "go-back", "trust"]), max_size=60)


@settings(max_examples=60)
@given(events, st.integers(1, 3))
def test_memory_is_used_again(happening: Sequence[str], probation: int) -> None:
    """Whatever happens in whatever order, no more than four snapshots are ever made, and none is in use twice."""
    toy = Toy(probation)
    for event in happening:
        if event == "update":
            toy.update()
        elif event == "confirm":
            toy.snapshots.confirm()
        elif event == "accept":
            toy.snapshots.accept(toy.step)
        elif event == "doubt":
            toy.snapshots.doubt()
        elif event == "trust":
            toy.snapshots.trust()
        elif toy.snapshots.proven is not None:
            toy.step = toy.restore(is_accepted=event == "go-back")
        proven, accepted, candidate = toy.snapshots.proven, toy.snapshots.accepted, toy.snapshots.candidate
        assert candidate is None or (candidate is not proven and candidate is not accepted)
        for each in (proven, accepted, candidate):
            if each is not None:
                assert each.copies["parameter", toy.weight].tolist() == [float(each.step)] * 3
        assert accepted is None or (proven is not None and accepted.step <= proven.step)
    assert len(toy.kept) <= MOST


def test_copies_are_not_allocated_anew() -> None:
    """From the third snapshot on, the copies are written into the memory of earlier ones."""
    toy = Toy(probation=1)
    places = []
    for _ in range(12):
        toy.update()
        candidate = toy.snapshots.candidate
        assert candidate is not None
        places.append(candidate.copies["parameter", toy.weight].data_ptr())
        toy.snapshots.accept(toy.step)
        toy.snapshots.confirm()
    assert len(set(places)) == 2
