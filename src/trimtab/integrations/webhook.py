"""Messages to a webhook, from a thread of their own: a few together, tried again, and given up in the end."""

from __future__ import annotations

import json
import re
import threading
import time
import urllib.error
import urllib.request
from collections import Counter, deque
from dataclasses import dataclass
from email.message import Message
from typing import IO, TypeAlias
from urllib.parse import urlsplit

from trimtab.errors import InputError
from trimtab.integrations.tracking import SEVERITIES
from trimtab.types import Severity

ANSWER_SECONDS = 10.0
"""How long an answer is waited for."""

DELAYS = (1.0, 4.0)
"""Seconds from a message that was not taken to the next try; after the last it is given up."""

MAX_DELAY = 60.0
"""The longest wait that a server can ask for."""

MAX_WAITING = 200
"""Alerts kept until they can be sent; beyond, the oldest are counted only."""

NUM_SHOWN = 8
"""Alerts that one message tells in full."""

MAX_TEXT = 1900
"""Characters of a message; Discord takes 2000."""

DISCORD = re.compile(r"/api/(v\d+/)?webhooks/(?!.*/slack/?$)")
"""The path of a webhook that takes Discord's JSON; all others get Slack's, which most chats understand."""

SLACK_SIGNS = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
"""Characters that mean something to Slack, such as to call everybody."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert that waits."""

    title: str
    """What happened, in a few words."""

    text: str
    """The story."""

    level: Severity
    """How much is at stake."""


class Outbox:
    """Alerts that wait, and the thread that sends them; it ends when it has none to send.

    Args:
        url: the webhook.
        every_seconds: the least time from one message to the next.
    """

    def __init__(self, url: str, every_seconds: float) -> None:
        self._url, self._every_seconds = url, every_seconds
        self._waiting: deque[Alert] = deque(maxlen=MAX_WAITING)
        self._num_left_out = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_closing = False
        self._not_before = 0.0
        self._failure: str | None = None
        self._has_failed = False

    def put(self, alert: Alert) -> None:
        """Take an alert, and see that there is a thread to send it."""
        with self._changed:
            self._num_left_out += len(self._waiting) == MAX_WAITING
            self._waiting.append(alert)
            self._is_closing = False
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="trimtab-alerts", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def take_failure(self) -> str | None:
        """Why alerts were not sent, in a sentence, once; None if all were."""
        failure, self._failure = self._failure, None
        return failure

    def close(self, seconds: float) -> bool:
        """Send what waits without a pause; returns False if that is not done after some seconds, which it says once."""
        with self._changed:
            was_closing, self._is_closing, thread = self._is_closing, True, self._thread
            self._changed.notify_all()
        if thread is None or was_closing:
            return True
        thread.join(seconds)
        return not thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closing, max(self._not_before - time.monotonic(), 0.0))
                told, self._num_left_out, num = list(self._waiting), 0, self._num_left_out
                self._waiting.clear()
                if not told:
                    self._thread = None
                    return
            self._send(write_message(told, num))
            self._not_before = time.monotonic() + self._every_seconds

    def _send(self, text: str) -> None:
        """Send a message, and again if it was not taken."""
        body = make_body(self._url, text)
        for delay in (*DELAYS, None):
            failure, asked = post(self._url, body)
            if not failure:
                return
            if delay is None or asked is None:
                break
            with self._changed:
                self._changed.wait_for(lambda: self._is_closing, min(max(delay, asked), MAX_DELAY))
        if not self._has_failed:
            self._has_failed, self._failure = True, f"alerts cannot be sent: {failure}"


def validate_alerts(url: object, min_level: object, every_seconds: object) -> None:
    """See that alerts can be sent; what is said does not tell the address.

    Raises:
        InputError: if they cannot.
    """
    if not is_address(url):
        raise InputError(
            "Alerts: url is no address of a webhook; it begins with https:// or http:// and has no user name in it"
        )
    if min_level not in SEVERITIES:
        raise InputError(f"Alerts: min_level is {min_level!r}; it has to be one of {', '.join(SEVERITIES)}")
    if not isinstance(every_seconds, (int, float)) or not every_seconds >= 0:
        raise InputError(f"Alerts: every_seconds is {every_seconds!r}; it has to be 0 or above")


def is_address(url: object) -> bool:
    """True for an address that a message can be sent to."""
    if not isinstance(url, str) or not url.isascii() or any(sign.isspace() for sign in url):
        return False
    try:
        parts = urlsplit(url)
        return (
            parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc and parts.port != 0
        )
    except ValueError:
        return False


def write_message(alerts: list[Alert], num_left_out: int = 0) -> str:
    """Alerts as one message: the first of each title in full, the gravest first, and how many more there were."""
    counts = Counter(each.title.partition(" at step ")[0] for each in alerts)
    firsts = {each.title.partition(" at step ")[0]: each for each in reversed(alerts)}
    told = sorted(firsts.items(), key=lambda pair: -SEVERITIES.index(pair[1].level))
    lines = []
    for what, each in told[:NUM_SHOWN]:
        times = f" (and {counts[what] - 1} more)" if counts[what] > 1 else ""
        text = shorten(each.text, MAX_TEXT // min(len(told), NUM_SHOWN) - len(each.title) - 40)
        lines.append(f"[{each.level}] {each.title}{times}" + (f"\n{text}" if text else ""))
    num_more = num_left_out + sum(counts[what] for what, _ in told[NUM_SHOWN:])
    return "\n".join([*lines, *([f"and {num_more} more alerts"] if num_more else [])])


def shorten(text: str, num: int) -> str:
    """A text of no more characters than so many."""
    return text if len(text) <= num else text[: max(num - 1, 0)] + "…"


def make_body(url: str, text: str) -> bytes:
    """The JSON that a webhook takes; nobody is called by what a text says."""
    if DISCORD.match(urlsplit(url).path):
        return json.dumps({"content": shorten(text, MAX_TEXT), "allowed_mentions": {"parse": []}}).encode()
    return json.dumps({"text": text.translate(SLACK_SIGNS)}).encode()


Answer: TypeAlias = "tuple[str, float | None]"
"""What went wrong, empty if nothing did, and after how many seconds to try again at the earliest; None for never."""


class _Refusal(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the message is for this address alone."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        return None


def post(url: str, body: bytes) -> Answer:
    """Send a message to an address; nothing is raised, and what went wrong does not tell the address."""
    headers = {"Content-Type": "application/json", "User-Agent": "trimtab"}
    request = urllib.request.Request(url, body, headers, method="POST")
    try:
        with urllib.request.build_opener(_Refusal).open(request, timeout=ANSWER_SECONDS):
            return "", None
    except urllib.error.HTTPError as error:
        with error:
            is_passing = error.code == 429 or error.code >= 500
            return f"the server answered {error.code}", read_wait(error.headers) if is_passing else None
    except Exception as error:
        reason = getattr(error, "reason", error)
        named = reason.strerror if isinstance(reason, OSError) and reason.strerror else type(reason).__name__
        return f"the server cannot be reached ({named})", 0.0


def read_wait(headers: Message) -> float:
    """The seconds that a server asks to wait for; 0 where it says nothing that can be read."""
    try:
        return max(float(headers.get("Retry-After", "0")), 0.0)
    except ValueError:
        return 0.0
