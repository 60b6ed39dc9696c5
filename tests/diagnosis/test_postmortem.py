"""The post-mortem: every section, in its order, with the numbers of the run."""

from __future__ import annotations

import re
from pathlib import Path

from tests.scenarios.diagnosis.faulty import HALF, nan_from, spoil
from tests.scenarios.diagnosis.logs import draw, healthy
from tests.scenarios.diagnosis.test_runs import record
from trimtab.diagnosis import diagnose
from trimtab.diagnosis.postmortem import postmortem
from trimtab.readers import Log

SECTIONS = [
    "Summary", "Timeline", "Evidence", "Root cause", "What was ruled out", "Actions and their effect", "Prevention",
    "Reproduce",
]  # fmt: skip


def test_postmortem_tells_what_was_done_and_what_came_of_it(tmp_path: Path) -> None:
    """A skipped NaN: its step, the action with the loss before and after, the fix, and the command."""
    folder = record(tmp_path / "run", draw("run", spoil("loss", HALF, float("nan")), 0))
    text = postmortem(diagnose(folder), folder)
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == SECTIONS
    assert f"| {HALF + 1} | loss-not-finite begins |" in text
    row = next(line for line in text.split("\n") if line.startswith(f"| {HALF + 1} | skip |"))
    before, after = (float(cell) for cell in row.split("|")[4:6])
    assert 0.5 < after < before < 1.2
    assert f"trimtab diagnose {folder}" in text
    assert f"trimtab replay {folder}" in text


def test_postmortem_of_a_halted_run(tmp_path: Path) -> None:
    """A run that was ended says so in its timeline."""
    folder = record(tmp_path / "run", draw("run", nan_from(HALF), 0))
    text = postmortem(diagnose(folder), folder)
    assert "| the end: halted |" in text
    assert "**failed**" in text


def test_postmortem_of_a_healthy_log() -> None:
    """Of a healthy log there is nothing to say but what was not measured."""
    log = Log(source="a log.csv", format="csv", measurements=draw("run", healthy, 0).measurements())
    text = postmortem(diagnose(log), log)
    assert "None was found." in text
    assert "Nothing was done." in text
    assert "trimtab diagnose 'a log.csv'" in text
    assert "trimtab replay" not in text
