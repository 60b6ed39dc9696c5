"""Alerts: a message to a webhook, such as Slack's or Discord's, where something happens in a run."""

from __future__ import annotations

import atexit
import logging
import weakref
from typing import Any

from trimtab.errors import InputError
from trimtab.integrations.tracking import SEVERITIES, find_severity, is_good_end, tell_record
from trimtab.integrations.webhook import Alert, Outbox, validate_alerts
from trimtab.journal import Tracker
from trimtab.types import Record, Severity

CLOSE_SECONDS = 5.0
"""How long the end of a run waits for the last message."""

logger = logging.getLogger("trimtab")


class Alerts(Tracker):
    """Sends alerts to a webhook, from a thread of its own; as a tracker, what a run finds and does, by itself.

        Supervisor(model, optimizer, trackers=[Alerts(os.environ["WEBHOOK"], min_level="high")])

    The first alert is sent at once, and what comes within `every_seconds` after it in one message then. What the server
    refuses is tried again twice; what it does not take at all is on record once, and the training goes on. A run's end
    waits for the last message for 5 seconds at most. The address is a secret: it is in no file, log line or error.

    Args:
        url: the webhook; Discord's gets Discord's JSON, any other one Slack's.
        min_level: the least severity that is sent: a rollback is at least high, a halt and a failed run are critical, a
            finished run is low, and what the supervisor warns of is medium.
        every_seconds: the least time from one message to the next.
        name: what messages begin with, to tell runs apart.

    Raises:
        InputError: if the address is none of http or https, or an option is out of range.
    """

    def __init__(
        self, url: str, *, min_level: Severity = "high", every_seconds: float = 60.0, name: str = "trimtab"
    ) -> None:
        validate_alerts(url, min_level, every_seconds)
        self._name = name
        self._min_level: Severity = min_level
        self._outbox = Outbox(url, every_seconds)
        atexit.register(_close_at_exit, weakref.ref(self))

    def alert(self, title: str, text: str = "", level: Severity = "medium") -> None:
        """Send an alert of one's own; from any thread, and without waiting.

        Args:
            title: what happened, in a few words.
            text: the story.
            level: how much is at stake; below `min_level` it is not sent.

        Raises:
            InputError: if there is no such level.
        """
        if level not in SEVERITIES:
            raise InputError(f"alert: level is {level!r}; it has to be one of {', '.join(SEVERITIES)}")
        if SEVERITIES.index(level) >= SEVERITIES.index(self._min_level):
            self._outbox.put(Alert(f"{self._name}: {title}", text, level))

    def write(self, record: Record) -> None:
        """Alert of what was found and done."""
        severity = find_severity(record)
        if severity is not None:
            self.alert(*tell_record(record), severity)

    def write_event(self, event: str, **fields: Any) -> None:
        """Alert of how a run ends, and of what the supervisor warns of; a halt was told when it was decided."""
        step, status = fields.get("step"), str(fields.get("status", ""))
        if event == "end" and status != "halted":
            self.alert(f"{status} at step {step}", level="low" if is_good_end(status) else "critical")
        if event == "end":
            self._wait()  # so that the `flush` after it knows what became of it
        elif "message" in fields:
            self.alert(f"{event} at step {step}", str(fields["message"]), "medium")

    def flush(self) -> None:
        """Raise what keeps alerts from being sent, once.

        Raises:
            OSError: if a message was not taken.
        """
        failure = self._outbox.take_failure()
        if failure is not None:
            raise OSError(failure)

    def close(self) -> None:
        """Send what waits, and wait for it for 5 seconds at most; may be called twice, and alerts sent afterwards."""
        self._wait()
        failure = self._outbox.take_failure()
        if failure is not None:
            logger.warning("%s", failure)

    def _wait(self) -> None:
        if not self._outbox.close(CLOSE_SECONDS):
            logger.warning("alerts were not all sent after %g seconds, and are not waited for", CLOSE_SECONDS)


def _close_at_exit(alerts: weakref.ref[Alerts]) -> None:
    alive = alerts()
    if alive is not None:
        alive.close()
