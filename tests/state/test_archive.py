"""The archive of a run: copied at once, written when it has been judged, stamped with what was found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from trimtab.errors import CheckpointError, RunLockedError
from trimtab.state.archive import Archive
from trimtab.state.run import RunState
from trimtab.types import Decision, Response

EVERY, PROBATION = 10, 2

CLEAN = Decision(1)

SICK = Decision(1, "rollback", (Response("rollback"),), reason="a toy finding")


class Toy:
    """A model of one number with its archive."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.model = nn.Linear(1, 1, bias=False)
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.reports: list[str] = []
        self.num_flushed = 0
        self.archive = Archive(
            folder,
            RunState(self.model, optimizer),
            **{"every": EVERY, "probation": PROBATION, "report": self.reports.append, "writes": True, **options},
            flush=self.flush,
        )

    def flush(self) -> None:
        self.num_flushed += 1

    def take(self, step: int, **options: Any) -> bool:
        """The weight becomes the step's number, and is kept."""
        self.archive.checkpoints.wait()
        with torch.no_grad():
            self.model.weight.fill_(step)
        self.archive.note_update(step)
        return self.archive.take(step, {"step": step}, {"note": "kept"}, **options)

    def list(self) -> dict[int, tuple[bool, str]]:
        self.archive.checkpoints.wait()
        return {stamp.step: (stamp.is_healthy, stamp.reason) for _, stamp in self.archive.checkpoints.list()}


@pytest.mark.parametrize(
    ("step", "newest", "is_due"),
    [(9, 0, False), (10, 0, True), (19, 10, False), (20, 10, True), (23, 10, True), (23, 20, False), (7, 3, False)],
)
def test_due_at_each_multiple_that_was_passed(step: int, newest: int, is_due: bool, tmp_path: Path) -> None:
    """One that was missed, since the disk was slow, is taken at the next chance."""
    toy = Toy(tmp_path)
    toy.archive.begin(newest)
    assert toy.archive.is_due(step) == is_due


def test_written_when_it_is_proven(tmp_path: Path) -> None:
    """A copy is written after `probation` clean steps, and holds what the state was when it was taken."""
    toy = Toy(tmp_path)
    assert toy.take(10)
    toy.archive.judge(CLEAN)
    assert toy.list() == {}
    with torch.no_grad():
        toy.model.weight.fill_(-1)
    toy.archive.judge(CLEAN)
    assert toy.list() == {10: (True, "")}
    assert toy.num_flushed >= 1
    loaded = toy.archive.load(lambda _: None)
    assert loaded is not None
    assert loaded.state["model"]["weight"].tolist() == [[10.0]]
    assert (loaded.state["supervisor"], loaded.state["extra"]) == ({"step": 10}, {"note": "kept"})


def test_stamped_with_the_first_finding(tmp_path: Path) -> None:
    """A finding on probation is written with it at once, and it is never loaded."""
    toy = Toy(tmp_path)
    toy.take(10)
    toy.archive.judge(CLEAN)
    toy.archive.judge(SICK)
    toy.archive.judge(CLEAN)
    assert toy.list() == {10: (False, "a toy finding")}
    assert toy.archive.load(lambda _: None) is None
    assert "a toy finding" in toy.reports[0]


def test_findings_without_a_copy_are_nothing(tmp_path: Path) -> None:
    """What is found while none is held is no matter of a checkpoint's."""
    toy = Toy(tmp_path)
    toy.archive.judge(SICK)
    assert toy.list() == {}


def test_newer_copy_replaces_one_that_is_held(tmp_path: Path) -> None:
    """One that is taken while another is on probation is judged from then on."""
    toy = Toy(tmp_path)
    toy.take(10)
    toy.archive.judge(CLEAN)
    toy.take(11, wait=True)
    toy.archive.judge(CLEAN)
    toy.archive.judge(CLEAN)
    assert toy.list() == {11: (True, "")}


@pytest.mark.parametrize(("before", "step"), [(None, 30), (30, 20), (21, 20), (10, None)])
def test_only_those_from_before_a_step(before: int | None, step: int | None, tmp_path: Path) -> None:
    """A reload may ask for the newest of an earlier step."""
    toy = Toy(tmp_path, probation=1)
    for each in (10, 20, 30):
        toy.take(each)
        toy.archive.judge(CLEAN)
    toy.archive.checkpoints.wait()
    loaded = toy.archive.load(lambda _: None, before=before)
    assert (None if loaded is None else loaded.stamp.step) == step


def test_what_is_not_accepted_is_passed_over(tmp_path: Path) -> None:
    """The caller has its own say; the next older one is tried."""
    toy = Toy(tmp_path, probation=1)
    for each in (10, 20):
        toy.take(each)
        toy.archive.judge(CLEAN)

    def accept(state: Any) -> None:
        if state["supervisor"]["step"] == 20:
            raise CheckpointError("a toy reason")

    loaded = toy.archive.load(accept)
    assert loaded is not None
    assert loaded.stamp.step == 10
    assert "a toy reason; it is passed over" in toy.reports[0]


def test_resume_puts_later_ones_aside(tmp_path: Path) -> None:
    """The run goes on from what was loaded, and counts from there."""
    toy = Toy(tmp_path, probation=1)
    for each in (10, 20, 30):
        toy.take(each)
        toy.archive.judge(CLEAN)
    toy.archive.checkpoints.wait()
    loaded = toy.archive.load(lambda _: None, before=30)
    assert loaded is not None
    toy.archive.resume(loaded)
    assert toy.model.weight.tolist() == [[20.0]]
    assert sorted(toy.list()) == [10, 20]
    assert not toy.archive.is_due(29)
    assert toy.archive.is_due(30)


def test_process_that_does_not_write_takes_no_lock(tmp_path: Path) -> None:
    """Of several ranks one writes; the others neither lock nor move anything."""
    first, second = Toy(tmp_path), Toy(tmp_path, writes=False)
    with first.archive.holding(), second.archive.holding(), pytest.raises(RunLockedError):
        Toy(tmp_path).archive.hold()


def test_end_writes_what_is_held_and_frees_the_folder(tmp_path: Path) -> None:
    """What is still on probation at the end is written, with what speaks against it."""
    toy = Toy(tmp_path)
    toy.take(10)
    with toy.archive.closing(lambda: "a toy reason"):
        pass
    assert toy.list() == {10: (False, "a toy reason")}
    with Toy(tmp_path).archive.holding():
        pass
