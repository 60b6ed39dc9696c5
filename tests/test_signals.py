"""Signals of a run: files in its folder, and signals of the system."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType

import pytest
from typer.testing import CliRunner

from trimtab import InputError
from trimtab.cli import app
from trimtab.signals import SIGNALS, Inbox, send_signal

HANDLED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "manifest.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_is_read_once(run: Path, name: str) -> None:
    """What is sent is read by the run, once, and leaves no file."""
    inbox = Inbox(run, every_seconds=0)
    assert inbox.read() == ()
    path = send_signal(run, name)
    assert path.exists()
    assert inbox.read() == (name,)
    assert inbox.read() == ()
    assert not path.exists()


def test_signals_sent_together_are_read_together(run: Path) -> None:
    """Two signals, one of them sent twice, are two signals, in the order in which they are listed."""
    for name in ("publish", "finish", "publish"):
        send_signal(run, name)
    assert Inbox(run).read() == ("finish", "publish")


def test_a_signal_waits_for_its_run(run: Path) -> None:
    """What was sent before a run began is read when it does; only one reader gets it."""
    send_signal(run, "pause")
    inbox, other = Inbox(run), Inbox(run)
    assert (inbox.read(), other.read()) == (("pause",), ())


def test_any_tool_can_send(run: Path) -> None:
    """An empty file by the name of a signal is one; other files are left alone."""
    (run / "signals").mkdir()
    for name in ("abort", "notes.txt"):
        (run / "signals" / name).touch()
    assert Inbox(run).read() == ("abort",)
    assert [path.name for path in (run / "signals").iterdir()] == ["notes.txt"]


def test_the_folder_is_looked_into_now_and_then(run: Path) -> None:
    """Within the interval nothing is read from the disk."""
    inbox = Inbox(run, every_seconds=3600)
    assert inbox.read() == ()
    send_signal(run, "pause")
    assert inbox.read() == ()


@pytest.mark.parametrize("folder", [None, Path("nowhere")], ids=["no-run", "no-such-folder"])
def test_nothing_to_read(folder: Path | None) -> None:
    """Without a folder there are no signals, and that is no error."""
    assert Inbox(folder, every_seconds=0).read() == ()


BAD_CALLS = {
    "unknown-signal": (
        "stop",
        "manifest.json",
        "signal: there is no signal 'stop'; there are abort, pause, finish, no-stop, restart, publish",
    ),
    "no-run-folder": ("abort", "something-else", "is no run folder: it has no manifest.json"),
}


@pytest.mark.parametrize(("name", "file", "message"), BAD_CALLS.values(), ids=BAD_CALLS.keys())
def test_what_cannot_be_sent_is_refused(tmp_path: Path, name: str, file: str, message: str) -> None:
    """A signal that does not exist, or to a folder that is none, is one sentence, and writes nothing."""
    (tmp_path / file).touch()
    with pytest.raises(InputError, match=message):
        send_signal(tmp_path, name)
    result = CliRunner().invoke(app, ["signal", str(tmp_path), name])
    assert (result.exit_code, "Traceback" in result.output) == (2, False)
    assert message.split()[-1] in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == [file]


def test_a_folder_that_cannot_be_written_is_one_sentence(run: Path) -> None:
    """Where the signal cannot be left, the message says why."""
    (run / "signals").touch()
    with pytest.raises(InputError, match="cannot be written"):
        send_signal(run, "pause")


@pytest.mark.parametrize("name", SIGNALS)
def test_the_command_sends(run: Path, name: str) -> None:
    """`trimtab signal RUN NAME` says what the run will do."""
    result = CliRunner().invoke(app, ["signal", str(run), name], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert SIGNALS[name] in result.output
    assert Inbox(run).read() == (name,)


def test_the_command_needs_no_torch(run: Path) -> None:
    """`trimtab signal` does not import torch, so it starts at once."""
    code = (
        "import sys\nfrom trimtab.cli import app\n"
        f"app(['signal', {str(run)!r}, 'pause'], standalone_mode=False)\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("number", HANDLED, ids=lambda number: number.name)
def test_the_systems_signals_pause(number: signal.Signals) -> None:
    """SIGTERM, SIGUSR1 and one Ctrl-C are read as `pause`, at once, whatever the interval."""
    inbox = Inbox(every_seconds=3600)
    before = signal.getsignal(number)
    with inbox.listen():
        assert inbox.read() == ()
        signal.raise_signal(number)
        assert (inbox.read(), inbox.read()) == (("pause",), ())
        assert not inbox.is_interrupted
    assert signal.getsignal(number) is before


def test_ctrl_c_twice_raises() -> None:
    """The second Ctrl-C is what Ctrl-C always is, and the inbox says that it was the second."""
    inbox = Inbox()
    with pytest.raises(KeyboardInterrupt), inbox.listen():  # noqa: PT012  the first raises nothing
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    assert inbox.is_interrupted
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("number", HANDLED, ids=lambda number: number.name)
def test_a_handler_that_was_there_is_called_too(number: signal.Signals) -> None:
    """Whoever listened before hears it as well, after us, and listens again afterwards."""
    heard: list[int] = []

    def listen(number: int, _: FrameType | None) -> None:
        heard.append(number)

    before = signal.signal(number, listen)
    try:
        inbox = Inbox()
        with inbox.listen():
            signal.raise_signal(number)
            assert (inbox.read(), heard) == (("pause",), [number])
        signal.raise_signal(number)
        assert heard == [number, number]
    finally:
        signal.signal(number, before)


def test_what_is_ignored_stays_ignored() -> None:
    """A process started with `nohup` or in the background of a shell goes on ignoring what it was told to."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        inbox = Inbox()
        with inbox.listen():
            signal.raise_signal(signal.SIGINT)
            assert inbox.read() == ()
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_installs_nothing() -> None:
    """Outside of the main thread no handler is installed, and files are read all the same."""
    before = [signal.getsignal(number) for number in HANDLED]
    seen: list[object] = []

    def listen() -> None:
        with Inbox().listen():
            seen.extend(signal.getsignal(number) for number in HANDLED)

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert seen == before


CHILD = """
import os, signal, sys, time
from trimtab.signals import Inbox

inbox = Inbox(every_seconds=0)
with inbox.listen():
    if sys.argv[1] == "forked":
        ours, theirs = os.pipe()
        child = os.fork()
        if not child:
            os.write(theirs, b"ready")
        if child:
            os.read(ours, 5)
            os.kill(child, getattr(signal, sys.argv[2]))
            time.sleep(0.2)
            ended, status = os.waitpid(child, os.WNOHANG)
            if not ended:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            print("ended" if ended and os.WIFSIGNALED(status) else "alive", flush=True)
            sys.exit()
    print("ready", flush=True)
    while True:
        if names := inbox.read():
            print(*names, flush=True)
            if "abort" in names:
                break
        time.sleep(0.01)
"""


@pytest.mark.parametrize("first", HANDLED, ids=lambda number: number.name)
def test_a_process_hears_its_cluster(first: signal.Signals) -> None:
    """A real process is told to pause by a real signal, and stopped by Ctrl-C when that is its second."""
    command = [sys.executable, "-c", CHILD, "plain"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        for number in (first, *([] if first == signal.SIGINT else [signal.SIGINT])):
            child.send_signal(number)
            assert child.stdout.readline() == "pause\n"
        child.send_signal(signal.SIGINT)
        _, complaint = child.communicate(timeout=20)
    assert "KeyboardInterrupt" in complaint


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
@pytest.mark.parametrize(
    ("number", "expected"),
    [
        pytest.param("SIGTERM", "ended", id="SIGTERM"),
        pytest.param("SIGUSR1", "ended", id="SIGUSR1"),
        pytest.param("SIGINT", "alive", id="Ctrl-C-is-left-to-the-parent"),
    ],
)
def test_a_forked_worker_ends_as_it_would_have(number: str, expected: str) -> None:
    """A data-loader worker that inherits the handlers is ended by SIGTERM, and leaves Ctrl-C to its parent."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, "forked", number], capture_output=True, text=True, check=False, timeout=20
    )
    assert done.stdout.strip().endswith(expected), done.stderr  # both processes write, in whatever order
