"""`trimtab watch`: a run in the terminal, at work, hung, ended or not begun, whatever the terminal."""

from __future__ import annotations

import fcntl
import json
import math
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st
from rich.console import Console
from rich.text import Text
from typer.testing import CliRunner, Result

from tests.report.live import LiveRun
from trimtab.cli import app
from trimtab.journal import JOURNAL
from trimtab.report.sparklines import draw_sparkline
from trimtab.report.standing import HOLDER, Holder, State, judge_state, tell_seconds
from trimtab.report.terminal import draw_run, to_plain
from trimtab.report.trail import MOST_POINTS, Trail, thin_out
from trimtab.report.watch import tell_line, watch_run
from trimtab.report.watcher import Watcher

COMMAND = [sys.executable, "-c", "from trimtab.cli import app; app()", "watch"]

GONE, ELSEWHERE, ALIVE = Holder(7, True, False), Holder(7, False, True), Holder(7, True, True)


def call(*arguments: str | Path) -> Result:
    """`trimtab watch` with its output in a pipe."""
    return CliRunner().invoke(app, ["watch", *map(str, arguments)], env={"COLUMNS": "80"})


@pytest.fixture
def run(tmp_path: Path) -> Iterator[LiveRun]:
    made = LiveRun(tmp_path / "run")
    yield made
    made.journal.close()


def watch(run: LiveRun) -> Watcher:
    """A watcher who has seen all there is."""
    run.flush()
    watcher = Watcher(run.folder)
    watcher.catch_up()
    return watcher


@pytest.mark.parametrize(
    ("status", "num_seen", "silent", "level", "is_between", "holder", "state", "said"),
    [
        pytest.param(None, 9, 1, 0.1, False, ALIVE, "running", "", id="at-work"),
        pytest.param(None, 9, 29, 0.1, False, ALIVE, "running", "", id="slow-is-not-hung"),
        pytest.param(None, 9, 31, 0.1, False, ALIVE, "hung", "py-spy dump --pid 7", id="hung"),
        pytest.param(None, 9, 31, 0.1, False, ELSEWHERE, "hung", "where 0.1 s is usual", id="hung-elsewhere"),
        pytest.param(None, 9, 31, 2.0, False, ALIVE, "running", "", id="long-steps"),
        pytest.param(None, 9, 31, 0.1, True, ALIVE, "running", "", id="between-epochs"),
        pytest.param(None, 9, 601, 0.1, True, ALIVE, "hung", "nothing was written", id="hung-between-epochs"),
        pytest.param(None, 0, 31, math.nan, False, ALIVE, "starting", "no step yet", id="reads-its-data"),
        pytest.param(None, 0, 601, math.nan, False, None, "hung", "nothing was written", id="never-begins"),
        pytest.param(None, 9, 1, 0.1, False, GONE, "gone", "process (7) is gone", id="killed"),
        pytest.param("finished", 9, 9e9, 0.1, False, GONE, "finished", "", id="finished"),
        pytest.param("paused", 9, 9e9, 0.1, False, None, "paused", "", id="paused"),
        pytest.param("failed: ValueError", 9, 0, 0.1, False, None, "failed", "it failed: ValueError", id="failed"),
        pytest.param("as it liked", 9, 0, 0.1, False, None, "finished", "'as it liked'", id="ended-by-hand"),
    ],
)
def test_state_says_whether_somebody_is_needed(
    status: str | None,
    num_seen: int,
    silent: float,
    level: float,
    is_between: bool,
    holder: Holder | None,
    state: State,
    said: str,
) -> None:
    """Hung is told from slow, from validation and from data that are read; a killed run from one that ended."""
    judged, reason = judge_state(
        status=status, num_seen=num_seen, silent_seconds=silent, level=level, is_between=is_between, holder=holder
    )
    assert judged == state
    assert said in reason


def test_run_is_followed_from_before_its_beginning_to_its_end(tmp_path: Path) -> None:
    """Not begun, starting, running, paused, running again from an earlier step, finished: each look says which."""
    watcher = Watcher(tmp_path / "run")
    assert watcher.look().state == "not-begun"
    run = LiveRun(tmp_path / "run")
    assert watcher.look().state == "starting"
    run.tell("plan", first_epoch=1, phase=["warm-up", "training", "training"], num_steps=60, settings={})
    run.make_steps(20)
    run.flush()
    standing = watcher.look()
    assert (standing.state, standing.step, standing.num_steps, standing.phase) == ("running", 20, 60, "warm-up")
    assert standing.left_seconds == pytest.approx(4.0)
    run.tell("epoch", epoch=1, phase="warm-up")
    run.flush()
    assert watcher.look().phase == "validation"
    run.review(1.25)
    run.make_steps(10)
    run.flush()
    standing = watcher.look()
    assert (standing.epoch, standing.num_epochs, standing.phase) == (2, 3, "training")
    assert standing.values["val_loss"] == 1.25
    run.end("paused")
    assert watcher.look().state == "paused"
    run = LiveRun(tmp_path / "run", resume=True)
    run.step = 20
    run.tell("resumed")
    run.make_steps(5, loss=7.0)
    run.flush()
    standing = watcher.look()
    assert (standing.state, standing.step, standing.epoch) == ("running", 25, 2)
    assert watcher.trails["loss"].steps.tolist() == list(range(1, 26))
    assert watcher.trails["loss"].values[-5:].tolist() == [7.0] * 5
    run.end()
    assert watcher.look().state == "finished"
    assert math.isnan(watcher.look().left_seconds)


def test_what_was_found_and_done_is_told(run: LiveRun) -> None:
    """The newest comes last, the same several times in a row is one line, and each verdict is counted and marked."""
    run.make_steps(5)
    run.skip_step()
    run.skip_step()
    run.tell("checkpoint", message="the disk is full")
    watcher = watch(run)
    standing = watcher.assess()
    assert [(each.kind, each.since, each.step, each.num) for each in standing.told] == [
        ("skip", 6, 7, 2),
        ("checkpoint", 7, 7, 1),
    ]
    assert (standing.counts, standing.num_lost) == ({"skip": 2}, 2)
    assert list(watcher.happenings.marks) == [(6, "skip"), (7, "skip")]
    shown = "\n".join(line.plain for line in draw_run(watcher, standing, 80))
    assert "2 times since step 6: loss-spike: loss is 30.0" in shown
    assert "the disk is full" in shown
    assert "× skip 2, 2 updates lost" in shown


def test_worst_groups_come_first(run: LiveRun) -> None:
    """The groups are in the order of their need, and those that do not fit are counted by their bands."""
    run.make_steps(60)
    run.make_steps(1, group_grad_norm=(0.1, 8 * 0.2, 0.3), grad_norm=1.7)
    watcher = watch(run)
    lines = [line.plain for line in draw_run(watcher, watcher.assess(), 80)]
    first = next(number for number, line in enumerate(lines) if line.startswith("all together"))
    assert [line.split()[0] for line in lines[first + 1 : first + 4]] == ["body", "embedding", "head"]
    assert lines[first + 1].split()[-1] == "high"
    few = [line.plain for line in draw_run(watcher, watcher.assess(), 80, 14)]
    assert any(line.startswith("and 3 more: 1 high, 2 healthy") for line in few)


@pytest.mark.parametrize("num_groups", [1, 3, 40, 400])
def test_every_screen_is_kept_to(num_groups: int, tmp_path: Path) -> None:
    """No line is longer than the terminal and there are not more of them, however long or wide names are."""
    groups = tuple(f"层{number}." + "very_long_name." * (number % 5) for number in range(num_groups))
    run = LiveRun(tmp_path / ("名" * 30), groups)
    run.tell("plan", first_epoch=1, phase=["warm-up"] * 10, num_steps=12_345_678, settings={})
    run.make_steps(60, learning_rate=1e-3, probe_loss=-1234567.0, loss_scale=65536.0)
    run.skip_step("层 " * 60)
    run.make_steps(1, group_grad_norm=(math.nan,) * num_groups, loss=math.inf)
    run.review(1e-30)
    watcher = watch(run)
    standing = watcher.assess()
    for width, height in ((80, 24), (60, 20), (40, 10), (20, 5), (140, 40), (300, 100), (80, 3)):
        lines = draw_run(watcher, standing, width, height)
        assert len(lines) <= height
        for line in (*lines, *draw_run(watcher, standing, width)):
            assert line.cell_len <= max(width, 40), line.plain
    run.end()


@pytest.mark.parametrize("size", [(80, 24), (60, 20)], ids=str)
def test_usual_screens_show_all_that_matters(size: tuple[int, int], run: LiveRun) -> None:
    """At 80×24, and at 60×20 too, there are state, place, time left, loss, gradients by group and what happened."""
    run.tell("plan", first_epoch=1, phase=["training"] * 3, num_steps=300, settings={})
    run.make_steps(60, learning_rate=1e-3)
    run.review(1.5)
    run.skip_step()
    watcher = watch(run)
    shown = "\n".join(line.plain for line in draw_run(watcher, watcher.assess(), *size))
    for each in ("running", "step 61 of 300", "epoch 1/3", "24 s left", "10 steps/s", "loss  ", "validation", "×"):
        assert each in shown
    assert "all together" in shown
    assert "loss-spike" in shown


def test_nothing_of_a_run_is_obeyed_by_the_terminal(tmp_path: Path) -> None:
    """Escape codes and line breaks in names and messages are shown as one sign each, as Rich's markup is as text."""
    run = LiveRun(tmp_path / "a\x1b[31mb", ("\x1b]0;title\x07", "[red]group[/red]"))
    run.make_steps(30)
    run.skip_step("\x1b[2J\nfirst\rsecond [bold]x[/bold] \u202e\u200b")
    run.end("failed: \x1b[5m")
    done = call(run.folder, "--once")
    assert done.exit_code == 1
    assert all(each == "\n" or each.isprintable() for each in done.stdout)
    assert "[red]group[/red]" in done.stdout
    assert "[bold]x[/bold]" in done.stdout


@pytest.mark.parametrize(
    ("make", "state", "status"),
    [
        pytest.param(lambda run: run.end(), "finished", 0, id="finished"),
        pytest.param(lambda run: run.end("halted"), "halted", 1, id="halted"),
        pytest.param(lambda run: run.end("failed: KeyError"), "failed", 1, id="failed"),
        pytest.param(lambda run: run.flush(), "running", 0, id="running"),
    ],
)
def test_once_tells_scripts(make: Callable[[LiveRun], None], state: str, status: int, run: LiveRun) -> None:
    """`--once` prints how the run stands and says by its exit status whether it needs somebody; `--json` is JSON."""
    run.make_steps(30)
    make(run)
    shown, told = call(run.folder, "--once"), call(run.folder, "--once", "--json")
    assert shown.exit_code == told.exit_code == status
    assert state in shown.stdout.split("\n")[0]
    assert max(map(len, shown.stdout.split("\n"))) <= 80
    assert "\x1b" not in shown.stdout
    standing = json.loads(told.stdout)
    assert (standing["state"], standing["step"], standing["name"]) == (state, 30, "run")
    assert [each["group"] for each in standing["groups"]] == ["(total)", *run.groups]


def test_once_of_no_run_says_so(tmp_path: Path) -> None:
    """A run that is not there is a state with an exit status of its own, and no error; a wrong call is one."""
    done = call(tmp_path / "nothing", "--once")
    assert (done.exit_code, done.stdout.split("\n")[0].split()) == (3, ["nothing", "not", "begun"])
    wrong = call(tmp_path / "nothing", "--json")
    assert wrong.exit_code == 2
    assert "give --once with it" in wrong.stderr


def test_damaged_run_is_told_in_a_sentence(run: LiveRun) -> None:
    """A run that cannot be read says why, and is not read again and again."""
    run.make_steps(5)
    run.end()
    with (run.folder / JOURNAL).open("a") as file:
        file.write("nothing\n")
    done = call(run.folder, "--once")
    assert done.exit_code == 1
    assert "is damaged: a line of it is no JSON" in " ".join(done.stdout.split())


def test_killed_run_is_gone(tmp_path: Path) -> None:
    """A run whose process was killed is told from one that is slow: within one look, by the process that is named."""
    folder = tmp_path / "run"
    code = (
        "import os, time, torch, trimtab\n"
        "model = torch.nn.Linear(2, 1); optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        f"supervisor = trimtab.Supervisor(model, optimizer, run={str(folder)!r})\n"
        "for _ in range(30):\n"
        "    loss = model(torch.ones(4, 2)).square().mean(); optimizer.zero_grad(); loss.backward()\n"
        "    supervisor.check(loss); optimizer.step()\n"
        "time.sleep(0.8); print('there', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        watcher = Watcher(folder)
        standing = watcher.catch_up()
        assert (standing.state, standing.step) == ("running", 30)
        assert standing.memory["process"] > 1e7
        process.kill()
        process.wait()
        assert watcher.look().state == "gone"
        assert (folder / HOLDER).exists()


class Screen:
    """A terminal with `trimtab watch` in it."""

    def __init__(self, *arguments: str | Path, lines: int = 24, columns: int = 80) -> None:
        self.process, self._terminal = pty.fork()
        if not self.process:
            os.environ["TERM"] = "xterm-256color"
            os.environ.pop("COLUMNS", None)
            os.execv(COMMAND[0], [*COMMAND, *map(str, arguments)])
        self.text = ""
        self.resize(lines, columns)

    def resize(self, lines: int, columns: int) -> None:
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        os.kill(self.process, signal.SIGWINCH)

    def wait_for(self, text: str, seconds: float = 15) -> str:
        """What was written since the last call until a text came."""
        end, shown = time.monotonic() + seconds, ""
        while text not in shown and time.monotonic() < end:
            if select.select([self._terminal], [], [], 0.1)[0]:
                try:
                    shown += os.read(self._terminal, 1 << 16).decode(errors="replace")
                except OSError:  # it has ended
                    break
        assert text in shown, f"{text!r} did not come; there was {shown[-2000:]!r}"
        return shown

    def press(self, key: bytes) -> None:
        os.write(self._terminal, key)

    def end(self) -> int:
        """The exit status."""
        _, status = os.waitpid(self.process, 0)
        os.close(self._terminal)
        return os.waitstatus_to_exitcode(status)


def test_live_view_survives_all(tmp_path: Path) -> None:
    """It waits for a run, follows it, is resized, sees the end, and gives the screen back when Ctrl-C ends it."""
    screen = Screen(tmp_path / "run")
    screen.wait_for("not begun")
    run = LiveRun(tmp_path / "run")
    run.make_steps(30)
    screen.wait_for("step 30")
    run.make_steps(3)
    began = time.monotonic()
    screen.wait_for("step 33")
    assert time.monotonic() - began < 2
    screen.resize(20, 60)
    shown = "".join(screen.wait_for("Ctrl-C") for _ in range(4))
    frame = shown.split("\x1b[H")[-2]  # the last whole one; the first may have been drawn before
    assert "step 33" in frame
    assert max(len(Text.from_ansi(line).plain) for line in frame.splitlines()) <= 60
    run.end()
    screen.wait_for("finished")
    screen.press(b"\x03")
    shown = screen.wait_for("\x1b[?1049l")
    assert "Traceback" not in shown
    assert screen.end() == 0


def test_no_color_is_heard(run: LiveRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """With NO_COLOR there is no colour, in a terminal too."""
    run.make_steps(30)
    run.flush()
    monkeypatch.setenv("NO_COLOR", "1")
    screen = Screen(run.folder, "--once")
    shown = screen.wait_for("what happened")
    assert screen.end() == 0
    codes = {code for part in shown.split("\x1b[")[1:] for code in part.split("m")[0].split(";")}
    assert not {code for code in codes if code.isdigit() and 30 <= int(code) < 50}


def test_without_a_terminal_lines_are_printed(run: LiveRun) -> None:
    """In a pipe a line is printed now and then, and the view ends with the run."""
    run.make_steps(30)
    run.end()
    done = call(run.folder)
    assert done.exit_code == 0
    assert done.stdout == "run: finished, step 30, loss 1.033\n"


def test_terminal_without_braille_gets_letters(run: LiveRun) -> None:
    """A terminal that knows ASCII alone gets it."""
    run.make_steps(30)
    run.skip_step()
    watcher = watch(run)
    lines = [to_plain(line).plain for line in draw_run(watcher, watcher.assess(), 80)]
    assert all(line.isascii() for line in lines)
    assert any(line.startswith("loss") and "*" in line for line in lines)
    assert any("x skip 1" in line for line in lines)
    assert "?" not in "".join(lines)


@given(st.lists(st.floats(allow_nan=True), min_size=1, max_size=300), st.integers(2, 9))
def test_thinning_loses_no_extreme(numbers: list[float], block: int) -> None:
    """The lowest and the highest stay, the steps rise, and what is not finite counts as highest."""
    values = np.array(numbers)
    kept = thin_out(values, block)
    assert (np.diff(kept) > 0).all()
    finite = values[np.isfinite(values)]
    if len(finite) == len(values):
        assert values[kept].min() == values.min()
        assert values[kept].max() == values.max()
    else:
        assert not np.isfinite(values[kept]).all()


def test_one_spike_among_a_million_is_seen() -> None:
    """However long the run, one step far above all others is at the upper edge of the curve, in its place."""
    trail = Trail()
    for step in range(200_000):
        trail.append(step, 50.0 if step == 123_456 else 1 + 1e-6 * (step % 7))
    assert len(trail) <= MOST_POINTS
    drawn = draw_sparkline(trail.steps, trail.values, 50, 3, (0, 200_000))
    edge = [place for place, sign in enumerate(drawn.rows[0]) if sign != "\u2800"]
    assert edge == [round(123_456 / 200_000 * 99) // 2]


@pytest.mark.parametrize(
    ("values", "rows"),
    [
        pytest.param([0, 1, 2, 3, 4, 5, 6, 7], ("⠀⠀⡠⠊", "⡠⠊⠀⠀"), id="rises"),
        pytest.param([1.0] * 8, ("⠀⠀⠀⠀", "⠉⠉⠉⠉"), id="flat"),
        pytest.param([math.nan] * 8, ("⠀⠀⠀⠀", "⠀⠀⠀⠀"), id="nothing"),
    ],
)
def test_curve_is_drawn(values: list[float], rows: tuple[str, ...]) -> None:
    """A curve looks as it should, dot by dot."""
    drawn = draw_sparkline(np.arange(8.0), np.array(values), 4, 2, (0, 7))
    assert drawn.rows == rows


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.012, "0.012 s"), (9.96, "10 s"), (99, "99 s"), (150, "2 min"), (7300, "2 h 2 min"), (200_000, "2 days 7 h")],
)
def test_times_are_said_as_people_do(seconds: float, said: str) -> None:
    """A time has no more digits than anyone reads."""
    assert tell_seconds(seconds) == said


def test_line_tells_the_most(run: LiveRun) -> None:
    """The line of a run has its place, its loss and its pace."""
    run.tell("plan", first_epoch=1, phase=["training"], num_steps=60, settings={})
    run.make_steps(30)
    line = tell_line(watch(run).assess())
    assert line == "run: running, step 30 of 60, loss 1.033, 10 steps/s, 3 s left"


def test_watching_does_not_import_torch(run: LiveRun) -> None:
    """A look at a run starts fast: without torch, Plotly or a server."""
    run.make_steps(3)
    run.end()
    code = (
        "import sys\nfrom trimtab.cli import app\n"
        f"app(['watch', {str(run.folder)!r}, '--once'], standalone_mode=False)\n"
        "assert not {'torch', 'plotly', 'starlette', 'pandas'} & sys.modules.keys(), 'more was imported than is needed'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_console_of_a_pipe_ends_with_the_run(run: LiveRun, tmp_path: Path) -> None:
    """From Python too a run is watched on any console."""
    run.make_steps(3)
    run.end()
    with (tmp_path / "out").open("w") as file:
        watch_run(run.folder, Console(file=file))
    assert (tmp_path / "out").read_text().startswith("run: finished, step 3")
