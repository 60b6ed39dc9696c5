"""The page that a run leaves when it ends, and the command that writes it."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from tests.report.runs import write_run
from trimtab import Supervisor
from trimtab.cli import app
from trimtab.journal import read_run
from trimtab.report import dashboard
from trimtab.report.dashboard import DASHBOARD, SWITCH


def train(folder: Path, *, strict: bool = True) -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Supervisor(model, optimizer, run=folder, strict=strict) as supervisor:
        for _ in range(5):
            loss = model(torch.ones(4, 2)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            supervisor.check(loss)
            optimizer.step()


@pytest.mark.parametrize("switch", ["", "off"])
def test_a_run_leaves_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switch: str) -> None:
    """A run that ends has its page in its folder, with its end on it, unless the environment says not to."""
    monkeypatch.setenv(SWITCH, switch)
    train(tmp_path / "run")
    page = tmp_path / "run" / DASHBOARD
    assert page.exists() == (switch == "")
    if page.exists():
        assert '"status":"finished"' in page.read_text(encoding="utf-8")


def test_a_page_that_fails_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever fails in drawing a page, the run ends as it would have, and the failure is recorded once."""
    monkeypatch.setenv(SWITCH, "")
    monkeypatch.setattr(dashboard, "describe_run", lambda _: 1 / 0)
    with caplog.at_level(logging.ERROR, "trimtab"):
        train(tmp_path / "run", strict=False)
    events = [event["event"] for event in read_run(tmp_path / "run").events]
    assert events == ["end", "failure"]
    assert caplog.text.count("training goes on") == 1


def test_a_page_that_cannot_be_written_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is in the place of the page is left alone, and said."""
    monkeypatch.setenv(SWITCH, "")
    (tmp_path / "run" / DASHBOARD).mkdir(parents=True)
    (tmp_path / "run" / DASHBOARD / "mine").touch()
    train(tmp_path / "run")
    assert "is not written" in caplog.text
    assert [event["event"] for event in read_run(tmp_path / "run").events] == ["end"]


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        pytest.param(["one"], "one/dashboard.html", id="into-the-run"),
        pytest.param(["one", "-o", "page.html"], "page.html", id="where-it-is-told"),
        pytest.param(["one", "two"], "comparison.html", id="of-two"),
    ],
)
def test_the_command_writes_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], written: str
) -> None:
    """It says what it wrote."""
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        write_run(Path(name))
    result = CliRunner().invoke(app, ["report", *arguments])
    assert result.exit_code == 0
    assert written in result.output
    assert Path(written).read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["nothing"], "there is no 'nothing'", id="no-run"),
        pytest.param(["one", "-o", "page.pdf"], "has to end in .html", id="no-page"),
        pytest.param(["one", "-o", "gone/page.html"], "there is no folder 'gone'", id="no-folder"),
    ],
)
def test_a_wrong_call_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    """What is wrong and what to do, on one line, and an exit status of 2."""
    monkeypatch.chdir(tmp_path)
    write_run(Path("one"))
    result = CliRunner().invoke(app, ["report", *arguments])
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_page_is_written_without_plotly_or_torch_imported(tmp_path: Path) -> None:
    """The command takes no longer to start than it has to."""
    folder = write_run(tmp_path / "run")
    code = (
        "import sys; from trimtab.report.dashboard import write_dashboard; from pathlib import Path;"
        f"write_dashboard(Path({str(folder)!r})); print(sorted({{'plotly', 'torch', 'pyarrow'}} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": ":".join(sys.path)}
    )
    assert result.stdout == "[]\n"
    assert (folder / DASHBOARD).exists()
