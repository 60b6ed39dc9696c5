"""Alerts, to a real server: told in time and in few messages, never in the way, and the address in no file."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

import trimtab.integrations.alerts
import trimtab.integrations.webhook
from tests.integrations.runs import HEALTHY, make_parts
from tests.integrations.runs_trackers import POLICY, TROUBLE, train
from trimtab import Halted, InputError, Supervisor
from trimtab.integrations.alerts import Alerts
from trimtab.integrations.webhook import MAX_TEXT, NUM_SHOWN, Alert, make_body, write_message
from trimtab.journal import read_run, redact

SECRET = "T0P-53CR3T"

SLACK, DISCORD = f"/services/{SECRET}", f"/api/webhooks/1/{SECRET}"


class Server(ThreadingHTTPServer):
    """A webhook.

    Attributes:
        answers: the codes it answers, one after the other, and 200 then; 0 to hang.
        headers: what goes with an answer.
        told: the path and the JSON of each message.
        times: when each came.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Webhook)
        self.answers: list[int] = []
        self.headers: dict[str, str] = {}
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.times: list[float] = []
        self.is_over = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"

    @property
    def texts(self) -> list[str]:
        """The messages as Slack shows them."""
        return [told["text"] for _, told in self.told]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is gone is no concern."""


class Webhook(BaseHTTPRequestHandler):
    """One message to it."""

    server: Server

    def do_POST(self) -> None:
        self.server.times.append(time.monotonic())
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = self.server.answers.pop(0) if self.server.answers else 200
        if answer == 0:
            self.server.is_over.wait()
            return
        if answer == 200:
            self.server.told.append((self.path, body))
        self.send_response(answer)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()

    do_GET = do_POST  # noqa: N815

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that takes what it is sent."""
    made = Server()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield made
    made.is_over.set()
    made.shutdown()
    made.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once, and wait little."""
    monkeypatch.setattr(trimtab.integrations.webhook, "DELAYS", (0.05, 0.05))
    monkeypatch.setattr(trimtab.integrations.alerts, "CLOSE_SECONDS", 2.0)


def test_a_run_alerts_of_what_was_done(server: Server) -> None:
    """A skip and a rollback are told with their story, without a word of the loop's; a quiet run says nothing."""
    train([Alerts(server.url + SLACK, every_seconds=0.0, name="mine")])
    told = "\n".join(server.texts)
    assert "mine: skip: nonfinite at step 20" in told
    assert "mine: rollback: nonfinite at step 31" in told
    assert "back to step" in told
    assert all(path == SLACK for path, _ in server.told)
    server.told.clear()
    train([Alerts(server.url + SLACK)], HEALTHY, num_steps=5)
    assert not server.told


@pytest.mark.parametrize(
    ("min_level", "expected"),
    [
        pytest.param("low", ["low", "medium", "high", "critical"], id="low"),
        pytest.param("high", ["high", "critical"], id="high"),
        pytest.param("critical", ["critical"], id="critical"),
    ],
)
def test_nothing_below_the_least_level_is_sent(server: Server, min_level: Any, expected: list[str]) -> None:
    """What is below the least level is not sent; everything else is."""
    alerts = Alerts(server.url + SLACK, min_level=min_level)
    levels: list[Any] = ["low", "medium", "high", "critical"]
    for level in levels:
        alerts.alert(f"a {level} one", "why", level)
    alerts.close()
    told = "\n".join(server.texts)
    assert [level for level in levels if f"[{level}] trimtab: a {level} one\nwhy" in told] == expected
    assert all((f"a {level} one" in told) == (level in expected) for level in levels)


def test_halts_failures_and_ends_are_told(server: Server) -> None:
    """A halt and a failed run are critical, and sent before the run is over; a finished run is told if asked for."""
    policy = POLICY.change({"detectors": {"nonfinite": {"ladder": ["halt"]}}})
    with pytest.raises(Halted):
        train_halting(server, policy)
    assert "[critical] trimtab: halt: nonfinite at step 2" in "\n".join(server.texts)
    server.told.clear()
    alerts = Alerts(server.url + SLACK)
    alerts.write_event("end", step=7, status="failed: RuntimeError")
    assert server.texts == ["[critical] trimtab: failed: RuntimeError at step 7"]
    server.told.clear()
    train([Alerts(server.url + SLACK, min_level="low")], HEALTHY, num_steps=3)
    assert server.texts[-1].endswith("[low] trimtab: finished at step 3")


def train_halting(server: Server, policy: Any) -> None:
    """A training that is halted at its second step."""
    model, optimizer, _ = make_parts()
    supervisor = Supervisor(model, optimizer, policy=policy, trackers=[Alerts(server.url + SLACK)])
    supervisor.check(1.0)
    supervisor.check(float("nan"))


def test_a_burst_is_one_message(server: Server) -> None:
    """The first alert is sent at once; what follows within the time is one message, which counts what is alike."""
    alerts = Alerts(server.url + SLACK, every_seconds=0.5)
    began = time.monotonic()
    alerts.alert("first", level="high")
    while not server.told:
        time.sleep(0.005)
    assert time.monotonic() - began < 0.4
    for step in range(500):
        alerts.alert(f"spike at step {step}", "why", "high")
    deadline = time.monotonic() + 5
    while len(server.told) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    alerts.close()
    assert len(server.told) == 2
    assert server.times[1] - server.times[0] >= 0.45
    assert server.texts[1] == "[high] trimtab: spike at step 300 (and 199 more)\nwhy\nand 300 more alerts"


@pytest.mark.parametrize(
    ("answers", "headers", "num_sent", "failure"),
    [
        pytest.param([500], {}, 1, "", id="fails-once"),
        pytest.param([503, 500], {}, 1, "", id="fails-twice"),
        pytest.param([429], {"Retry-After": "0.3"}, 1, "", id="too-many"),
        pytest.param([429], {"Retry-After": "soon"}, 1, "", id="too-many-without-a-number"),
        pytest.param([500] * 3, {}, 0, "the server answered 500", id="always-fails"),
        pytest.param([404], {}, 0, "the server answered 404", id="is-gone"),
        pytest.param([302], {"Location": "/elsewhere"}, 0, "the server answered 302", id="sends-elsewhere"),
    ],
)
def test_what_is_refused_is_tried_again_and_given_up(
    server: Server,
    answers: list[int],
    headers: dict[str, str],
    num_sent: int,
    failure: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A failure that may pass is tried again, no sooner than asked for; what stays is logged once."""
    server.answers, server.headers = list(answers), headers
    alerts = Alerts(server.url + SLACK)
    alerts.alert("one", level="critical")
    deadline = time.monotonic() + 5
    while len(server.times) < len(answers) + num_sent and time.monotonic() < deadline:
        time.sleep(0.005)
    alerts.close()
    assert len(server.told) == num_sent
    assert len(server.times) == len(answers) + num_sent
    if headers.get("Retry-After") == "0.3":
        assert server.times[1] - server.times[0] >= 0.29
    warned = [each.message for each in caplog.records if each.name == "trimtab"]
    assert warned == ([f"alerts cannot be sent: {failure}"] if failure else [])


@pytest.mark.parametrize("kind", ["hangs", "refuses", "answers-500"])
def test_a_server_that_is_no_use_does_no_harm(
    kind: str, server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training is the same to the bit and in time, the address is nowhere, and what failed is on record once."""
    monkeypatch.setattr(trimtab.integrations.alerts, "CLOSE_SECONDS", 0.3)
    url = server.url + SLACK
    if kind == "refuses":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{free.getsockname()[1]}{SLACK}"
    server.answers = [0] * 99 if kind == "hangs" else [500] * 99
    alerts = Alerts(url)
    expected = train(fault=TROUBLE)
    caplog.clear()
    began = time.monotonic()
    with caplog.at_level(logging.DEBUG):
        found = train([alerts], TROUBLE, run=tmp_path / "run")
    assert time.monotonic() - began < 5
    assert all(torch.equal(each, twin) for each, twin in zip(found, expected, strict=True))
    files = [each for each in tmp_path.rglob("*") if each.is_file()]
    assert len(files) > 3
    assert not any(SECRET.encode() in each.read_bytes() for each in files)
    assert SECRET not in caplog.text
    assert SECRET not in repr(alerts)
    told = [each["message"] for each in read_run(tmp_path / "run").events if each["event"] == "tracker"]
    if kind == "hangs":
        assert caplog.text.count("alerts were not all sent after 0.3 seconds, and are not waited for") == 1
    else:
        reason = (
            "the server answered 500" if kind == "answers-500" else "the server cannot be reached (Connection refused)"
        )
        assert told == [f"Alerts failed: OSError: alerts cannot be sent: {reason}; the training goes on"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param(SLACK, {"text": "&lt;!channel&gt; a &amp; b"}, id="slack"),
        pytest.param("/hooks/x", {"text": "&lt;!channel&gt; a &amp; b"}, id="others"),
        pytest.param(DISCORD, {"content": "<!channel> a & b", "allowed_mentions": {"parse": []}}, id="discord"),
        pytest.param(
            "/api/v10/webhooks/1/x", {"content": "<!channel> a & b", "allowed_mentions": {"parse": []}}, id="v10"
        ),
        pytest.param(DISCORD + "/slack", {"text": "&lt;!channel&gt; a &amp; b"}, id="discord-as-slack"),
    ],
)
def test_a_message_is_in_the_webhooks_json(path: str, expected: dict[str, Any]) -> None:
    """Discord has its own JSON, all others get Slack's; no text of a run calls anybody."""
    assert json.loads(make_body("https://example.org" + path, "<!channel> a & b")) == expected


def test_a_message_is_short_and_begins_with_the_gravest() -> None:
    """Many and long alerts are one message of a size that is taken, the gravest first, with how many are left out."""
    alerts = [Alert(f"kind {kind} at step 1", "why " * 2000, "low") for kind in range(20)]
    text = write_message([*alerts, Alert("halt at step 2", "gone", "critical")])
    assert text.startswith("[critical] halt at step 2\ngone\n")
    assert text.endswith(f"and {21 - NUM_SHOWN} more alerts")
    assert len(text) <= MAX_TEXT


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        pytest.param(f"ftp://{SECRET}", {}, "url is no address of a webhook", id="ftp"),
        pytest.param(f"https://a b/{SECRET}", {}, "url is no address of a webhook", id="blank"),
        pytest.param(f"http://host:port/{SECRET}", {}, "url is no address of a webhook", id="port"),
        pytest.param(f"https://user:{SECRET}@host/x", {}, "has no user name in it", id="login"),
        pytest.param(None, {}, "url is no address of a webhook", id="none"),
        pytest.param(
            "https://x", {"min_level": "warn"}, "min_level is 'warn'; it has to be one of low, medium", id="level"
        ),
        pytest.param(
            "https://x", {"every_seconds": -1.0}, "every_seconds is -1.0; it has to be 0 or above", id="seconds"
        ),
    ],
)
def test_what_cannot_be_used_is_refused(url: Any, options: dict[str, Any], message: str) -> None:
    """An address or option that cannot be used is refused, without the address in the message."""
    with pytest.raises(InputError, match=message) as caught:
        Alerts(url, **options)
    assert SECRET not in str(caught.value)


def test_an_address_on_the_command_line_is_redacted() -> None:
    """The manifest of a run has no webhook that the script was given, by option or bare."""
    url = f"https://hooks.slack.com{SLACK}"
    given = ["train.py", "--webhook", url, f"--alerts={url}", f"https://discord.com{DISCORD}", "--lr", "0.1"]
    assert redact(given) == ["train.py", "--webhook", "***", "--alerts=***", "***", "--lr", "0.1"]
