"""When checkpoints of a run are taken, when they are proven, and how one is taken over."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trimtab.errors import TrimtabError
from trimtab.ranks import is_distributed
from trimtab.state.checkpoint import Loaded, Stamp
from trimtab.state.checkpoints import Checkpoints
from trimtab.state.encoding import encode_state
from trimtab.state.lock import RunLock
from trimtab.state.run import RunState
from trimtab.types import RESTORING, Decision


class Archive:
    """The checkpoints of a run on disk.

    A checkpoint is copied at once, and written when `probation` steps without an acting finding have passed, stamped
    healthy; or when its state is found bad meanwhile, stamped with that. So none is healthy whose last update was yet
    to be judged.

    Several ranks begin to write one check later, when each knows that no other has failed to judge the step: none ever
    waits for a rank that has nothing to write. What one rank could not copy, none writes.

    Args:
        folder: the run folder.
        run: what is kept of the run.
        every: steps between two checkpoints.
        probation: steps without an acting finding that prove one.
        report: told in a sentence what went wrong.
        flush: writes the journal, so that it is never behind a checkpoint.
        writes: True on the one process that writes them.

    Attributes:
        folder: the run folder.
        writes: the same.
        is_encodable: True once it is known that a checkpoint can hold the state of the run.
        mismatch: why the newest checkpoint looked at does not fit this run; empty if none was whole and of another.
    """

    def __init__(
        self,
        folder: Path,
        run: RunState,
        *,
        every: int,
        probation: int,
        report: Callable[[str], None],
        flush: Callable[[], None],
        writes: bool,
    ) -> None:
        self.folder = folder
        self.mismatch = ""
        self._report = report
        self.writes = writes
        self._lock = RunLock(folder)
        self.checkpoints = Checkpoints(folder / "checkpoints", report=report, prepare=flush)
        self._run = run
        self._every = every
        self._probation = probation
        self._newest = 0
        self._schedule: tuple[int, dict[str, Any]] = (-1, {})
        self._held: Stamp | None = None
        self._found: str | None = None
        self._num_clean = 0
        self._is_closed = False
        self.is_encodable = False

    def gather(self) -> None:
        """See that all ranks of a distributed run write and read together from here on; each of them calls it."""
        if self.checkpoints.crew is None and is_distributed():
            from trimtab.state.crew import Crew  # it takes long to import, and is seldom needed

            self.checkpoints.crew = Crew()

    def hold(self) -> None:
        """Take the lock of the run folder, if it is not taken yet and this process writes.

        Raises:
            RunLockedError: if another process writes the run.
            InputError: if the folder cannot be written.
        """
        if self.writes and not self._lock.is_held:
            self._lock.acquire()

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Take the lock, and give it back if the `with` block fails."""
        self.hold()
        try:
            yield
        except BaseException:
            self._lock.release()
            raise

    def begin(self, step: int) -> None:
        """Count from here on: the run begins, or was set to another state."""
        self._newest = step
        self.give_up()

    def give_up(self) -> None:
        """Forget the copy that is held, if there is one; all ranks do, or none."""
        self._held = self._found = None

    def is_due(self, step: int) -> bool:
        """True if a multiple of `every` steps was passed since the last checkpoint, and none is on probation."""
        return self._held is None and step // self._every > self._newest // self._every

    def note_update(self, step: int) -> None:
        """Keep, right after the update of a step, what the loop is about to step too, where a checkpoint falls due."""
        if self.writes and step % self._every == 0:
            self._schedule = step, self._run.capture_schedule()

    def require_encodable(self, extra: Mapping[str, Any]) -> None:
        """See once that the state of the run is one a checkpoint can hold; no tensor is copied.

        Raises:
            InputError: if it holds what a checkpoint cannot.
        """
        if not self.is_encodable:
            encode_state(self._run.capture() | {"extra": extra})
            self.is_encodable = True

    def take(
        self,
        step: int,
        memory: Mapping[str, Any],
        extra: Mapping[str, Any],
        score: float | None = None,
        *,
        wait: bool = False,
    ) -> bool:
        """Copy the run as it is at the end of a step; it is written when it has been judged.

        Returns:
            False if it was not taken, since one before is still being written; with `wait`, that is waited for.
        """
        if self._is_closed:
            return False
        self.gather()
        crew = self.checkpoints.crew
        if crew is not None:
            self.checkpoints.wait()
            if None not in crew.tell(self._found):
                self.settle(wait=True)
        self._newest = step
        self._num_clean = 0
        self.give_up()

        def copy() -> bool:
            self.hold()
            schedule = self._schedule[1] if self._schedule[0] == step else None
            state = self._run.capture() | {"supervisor": memory, "extra": extra, "schedule": schedule}
            own = None if crew is None else self._run.capture_own()
            return self.checkpoints.copy(state, step, own=own, wait=wait)

        if copy() if crew is None else all(crew.do(copy)):
            self._held = Stamp(step, is_healthy=True, score=score)
            self.is_encodable = True
        return self._held is not None

    def judge(self, decision: Decision) -> None:
        """Take a decision into account; the copy that is held is written if that is proven by it, or found sick.

        A skip says nothing of the state: its batch may be to blame.
        """
        if self._held is None or self._found is not None:
            return
        if decision.verdict in RESTORING or any(each.in_state for each in decision.findings):
            self._found = decision.reason
        elif decision.clock == "step" and not decision.doubts_state:
            self._num_clean += 1
            if self._num_clean >= self._probation:
                self._found = ""
        if self.checkpoints.crew is None:
            self.settle()

    def settle(self, *, wait: bool = False) -> None:
        """Write the copy that was proven or found sick, if there is one; several ranks call it when all have judged."""
        if self._found is not None:
            self.write(self._found, wait=wait)

    def write(self, finding: str = "", *, wait: bool = False) -> bool:
        """Write the copy that is held, if there is one, now."""
        held = self._held
        self.give_up()
        if held is None:
            return False
        stamp = Stamp(held.step, is_healthy=not finding, reason=finding, score=held.score)
        return self.checkpoints.write(stamp, wait=wait)

    def load(self, accept: Callable[[Mapping[str, Any]], None], *, before: int | None = None) -> Loaded | None:
        """The newest healthy checkpoint that is whole and fits this run; None if there is none.

        Args:
            accept: raises a `TrimtabError` if the state does not fit otherwise.
            before: only those of an earlier step.
        """
        self.gather()

        def require_fit(loaded: Loaded) -> None:
            try:
                self._run.require_fit(loaded.state)
                accept(loaded.state)
            except TrimtabError as error:
                self.mismatch = str(error)
                raise

        loaded = self.checkpoints.load_newest(require_fit, before=before, make_targets=self._run.make_targets)
        crew = self.checkpoints.crew
        self.mismatch = next(filter(None, [self.mismatch] if crew is None else crew.tell(self.mismatch)), "")
        return loaded

    def abandon(self, after_step: int) -> None:
        """Put the checkpoints of later steps aside, since the run goes on from an earlier one."""
        if self.writes:
            self.checkpoints.abandon(after_step)

    def resume(self, loaded: Loaded) -> None:
        """Set the run to a checkpoint, which it goes on from; the process that writes puts later ones aside.

        Of one that other ranks have saved than take it over, or another number of them, neither random numbers nor the
        data position are taken over: each of those belongs to one rank.
        """
        state = loaded.state
        if is_distributed() or loaded.stamp.num_ranks > 1:
            state = self._run.join_own(state, loaded.own)
            if loaded.own is None:
                self._report(
                    f"checkpoint: another number of ranks goes on from it than the {loaded.stamp.num_ranks} that saved "
                    "it: random numbers and the data position begin anew"
                )
        self._run.restore(state, self._report)
        self.abandon(loaded.stamp.step)
        self.begin(loaded.stamp.step)

    def reload(self, loaded: Loaded, step: int) -> None:
        """Set the run to a checkpoint in the middle of a step; data, random numbers and the step count go on."""
        self._run.restore(loaded.state, self._report, keeps_place=True)
        self.abandon(loaded.stamp.step)
        self.begin(step)

    def tell_cost(self, step: int) -> str:
        """What is lost of a run that ends at a step as it is, in a sentence."""
        healthy = [stamp.step for _, stamp in self.checkpoints.list() if stamp.is_healthy]
        if not healthy:
            return (
                f"the run ends at step {step}, and its folder holds no healthy checkpoint to go on from; call "
                "supervisor.checkpoint() at the end of each step"
            )
        return f"the run ends at step {step}; {step - healthy[0]} steps were made since its newest healthy checkpoint"

    @contextmanager
    def closing(self, find_sickness: Callable[[], str], *, is_alone: bool = False) -> Iterator[None]:
        """Write what is held, wait until it is on disk, and give the lock back after the `with` block.

        Args:
            find_sickness: says why the run as it is now is not healthy; empty if nothing speaks against it.
            is_alone: True if the run ends on this rank, and maybe on no other: then what is held is given up, since
                all ranks write it together.
        """
        if self._held is not None and not (is_alone and self.checkpoints.crew is not None):
            self.write(find_sickness() if self._found is None else self._found)
        self.checkpoints.close()
        self._is_closed = True
        try:
            yield
        finally:
            self._lock.release()
