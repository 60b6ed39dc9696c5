"""The commands, as a user calls them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner, Result

from trimtab import Supervisor
from trimtab.cli import app
from trimtab.detectors import detectors
from trimtab.diagnosis import QUESTIONS, known_causes


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments], env={"COLUMNS": "200"})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    with Supervisor(model, optimizer, run=tmp_path / "run") as supervisor:
        for step in range(1, 31):
            loss = model(torch.randn(8, 3)).square().mean() * (float("nan") if step == 20 else 1.0)
            optimizer.zero_grad()
            loss.backward()
            supervisor.check(loss)
            optimizer.step()
    return tmp_path / "run"


def test_explain_lists_every_detector() -> None:
    """`trimtab explain` names every registered detector with its summary."""
    result = call("explain")
    assert result.exit_code == 0
    for name, each in detectors.items():
        assert name in result.output
        assert each.manual.split("\n")[0][:40] in result.output


def test_explain_lists_every_cause() -> None:
    """`trimtab explain` names every cause too, under the question that it answers."""
    result = call("explain")
    lines = result.output.split("\n")
    assert known_causes.keys() <= set(lines)
    assert set(QUESTIONS.values()) <= set(lines)


@pytest.mark.parametrize("name", sorted(known_causes))
def test_explain_prints_the_page_of_a_cause(name: str) -> None:
    """`trimtab explain CAUSE` shows what the cause is, what it is seen by, and the question it answers."""
    result = call("explain", name)
    assert result.exit_code == 0
    assert known_causes[name].manual.split("\n")[0][:40] in result.output
    for heading in ("a cause that `trimtab diagnose` names", "What it sees", "Question"):
        assert heading in result.output


@pytest.mark.parametrize("name", sorted(detectors))
def test_explain_prints_the_manual_page(name: str) -> None:
    """`trimtab explain DETECTOR` shows every heading of the manual page and every setting with its default."""
    result = call("explain", name)
    assert result.exit_code == 0
    for heading in ("What it sees", "Why it matters", "Stays silent", "Settings", "Default response", "Defaults"):
        assert heading in result.output
    for setting, default in detectors[name].settings.items():
        assert f"{setting} = {default}" in result.output


def test_replay_prints_what_was_decided(run: Path) -> None:
    """`trimtab replay RUN` shows each step with findings, and that the replay agrees."""
    result = call("replay", run)
    assert result.exit_code == 0
    assert "30 steps and reviews replayed, 1 with findings, 0 decided otherwise" in result.output


def test_replay_by_another_policy(run: Path, tmp_path: Path) -> None:
    """`trimtab replay RUN --policy P.toml --json` says what another ladder would have done."""
    policy = tmp_path / "strict.toml"
    policy.write_text('[detectors.nonfinite]\nladder = ["halt"]\n')
    result = call("replay", run, "--policy", policy, "--json")
    (row,) = json.loads(result.stdout)["compared"]
    assert (row["step"], row["recorded"]["verdict"], row["replayed"]["verdict"]) == (20, "skip", "halt")
    assert row["is_same"] is False


BAD_CALLS = {
    "no such detector": (
        ("explain", "loss-spikes"),
        "explain: there is no detector or cause 'loss-spikes'; did you mean loss-spike",
    ),
    "no run folder": (("replay", "nowhere"), "run: 'nowhere' is no run folder: it has no readable manifest.json"),
    "no such fault": (("demo", "--fault", "gremlin", "--out", "x"), "there is no fault 'gremlin'; there are "),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_CALLS.values(), ids=BAD_CALLS.keys())
def test_bad_calls_get_one_sentence(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that cannot be served ends with status 2, one sentence on standard error, and leaves nothing behind."""
    monkeypatch.chdir(tmp_path)
    result = call(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["explain", "replay"])
def test_the_judging_commands_do_not_import_torch(command: str, run: Path) -> None:
    """`trimtab explain` and `trimtab replay` run without torch, so that they start at once on any machine."""
    code = (
        "import sys\nfrom trimtab.cli import app\n"
        f"app({[command, *([str(run)] if command == 'replay' else [])]!r}, standalone_mode=False)\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_version() -> None:
    """`trimtab --version` prints the version alone."""
    assert call("--version").output.strip().count(".") == 2


def test_module_is_the_command() -> None:
    """`python -m trimtab` is `trimtab`, and calls itself so."""
    result = subprocess.run([sys.executable, "-m", "trimtab", "--help"], capture_output=True, text=True, check=False)
    assert result.returncode == 0
    assert "Usage: trimtab [OPTIONS]" in result.stdout
