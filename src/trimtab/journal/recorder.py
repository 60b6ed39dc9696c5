"""What a supervisor tells: records and events to the journal and to trackers, lines to the log, its failures once."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from trimtab.journal.relay import Relay, Tracker, close_all
from trimtab.journal.writer import Journal
from trimtab.types import Action, Decision, Record

SHOWN = ("loss", "grad_norm", "learning_rate", "loss_scale")
"""The metrics of a log line, in its order."""

logger = logging.getLogger("trimtab")


def tell_story(decision: Decision, action: Action) -> str:
    """One decision and what was done in a sentence: what was found, the answer, what is lost, what is to be known."""
    restored = "" if action.restored_step is None else f", back to step {action.restored_step}"
    lost = f" ({action.num_lost} update{'s' * (action.num_lost != 1)} lost{restored})" if action.num_lost else ""
    return decision.reason + lost + (f"; {action.note}" if action.note else "")


class Recorder:
    """Tells what happens, to a journal and to trackers if they are opened, and to the log.

    Args:
        count_steps: gives the step the run is at.
        speaks: True on the one process of a run that logs.
        log_every: steps between two log lines.
        strict: raise what fails in Trimtab itself, in place of recording it.
    """

    def __init__(
        self, count_steps: Callable[[], int], speaks: Callable[[], bool], *, log_every: int, strict: bool
    ) -> None:
        self._count_steps = count_steps
        self._speaks = speaks
        self._log_every = log_every
        self.is_strict = strict
        self._num_failures = 0
        self.journal: Journal | None = None
        self._relays: tuple[Relay, ...] = ()

    def open(self, folder: str | Path, manifest: Mapping[str, Any], *, resume: bool) -> None:
        """Begin or go on with a run folder.

        Raises:
            RunExistsError: if the folder holds a run and `resume` is not set.
            InputError: if the folder cannot be written.
        """
        self.journal = Journal(folder, manifest, resume=resume)

    def begin_tracking(self, trackers: Iterable[Tracker], manifest: Mapping[str, Any]) -> None:
        """Tell trackers too from here on; one that fails is warned of, once."""
        self._relays = tuple(Relay(each, manifest) for each in trackers)
        self._warn_of_trackers()

    def tell(self, record: Record) -> None:
        """Tell of one step or review: all of it to the journal, findings and now and then the metrics to the log."""
        if self.journal is not None:
            self.journal.write(record)
        for relay in self._relays:
            relay.write(record)
        decision, values = record.decision, record.measurement.values
        step = self._count_steps()
        if decision.findings and self._speaks():
            is_grave = any(finding.severity in ("critical", "high") for finding in decision.findings)
            level = logging.WARNING if decision.responses or is_grave else logging.INFO
            logger.log(level, "step %d: %s", step, tell_story(decision, record.action))
        if decision.clock == "step" and step % self._log_every == 0 and self._speaks():
            shown = ", ".join(f"{name} {values[name]:.4g}" for name in SHOWN if name in values)
            logger.info("step %d: %s", step, shown)
        if self._relays:
            self._warn_of_trackers()

    def tell_event(self, event: str, **fields: Any) -> None:
        """Tell the journal and the trackers of what is no record of a step."""
        if self.journal is not None:
            self.journal.write_event(event, step=self._count_steps(), **fields)
        for relay in self._relays:
            relay.write_event(event, step=self._count_steps(), **fields)

    def tell_resumed(self, folder: Path) -> None:
        """Tell the log what the run goes on from."""
        if self._speaks():
            logger.info("going on from step %d, from %s", self._count_steps(), folder)

    def warn(self, event: str, message: str) -> None:
        """Warn a person of how the loop calls us, in the log and as an event of that name."""
        if self._speaks():
            logger.warning("step %d: %s", self._count_steps(), message)
        self.tell_event(event, message=message)

    def survive(self, error: Exception, *, is_of_another: bool = False) -> None:
        """Record that Trimtab itself failed, once, and let the training go on; in strict mode raise.

        Args:
            error: what was raised.
            is_of_another: True if it was another rank on which it failed; then the one that logs says so, and no other.
        """
        if self.is_strict:
            raise error
        if is_of_another and not self._speaks():
            return
        self._num_failures += 1
        if self._num_failures > 1:
            return
        trace = "".join(traceback.format_exception(error))
        logger.error(
            "trimtab itself failed at step %d and left the step alone; training goes on. This is a bug: please report "
            "it to the project's issue tracker with this trace. It is reported once.\n%s",
            self._count_steps(),
            trace,
        )
        self.tell_event("failure", trace=trace)

    def flush(self) -> None:
        """Write what was told so far."""
        journal = self.journal
        if journal is not None:
            journal.flush()

    def close(self, status: str, conclude: Callable[[Path], None] | None = None) -> None:
        """Tell the end, and write what is still to be written. May be called twice.

        Args:
            status: how the run ended.
            conclude: called with the run folder once all of it is written.
        """
        if self.journal is None and not self._relays:
            return
        self.tell_event("end", status=status, num_failures=self._num_failures)
        close_all(self._relays)
        self._warn_of_trackers()
        self._relays = ()
        journal = self.journal
        if journal is None:
            return
        try:
            if conclude is not None:
                journal.flush()
                conclude(journal.folder)
        except Exception as error:
            self.survive(error)
        finally:
            journal.close()
            self.journal = None

    def _warn_of_trackers(self) -> None:
        for failure in filter(None, [relay.take_failure() for relay in self._relays]):
            self.warn("tracker", failure)
