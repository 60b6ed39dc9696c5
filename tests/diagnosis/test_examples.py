"""The scripts that make a run fail on purpose: each does, and is diagnosed with what it did."""

from __future__ import annotations

import logging
import runpy
from pathlib import Path

import pytest

from trimtab import diagnose

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
PAGE = (EXAMPLES.parent / "docs" / "howto" / "failures.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("script", "path", "cause", "step"),
    [
        pytest.param("fail_float16.py", "runs/fail-float16", "float16-overflow", 150, id="float16"),
        pytest.param("fail_bad_batch.py", "runs/fail-bad-batch", "batch-not-finite", 120, id="bad-batch"),
        pytest.param("fail_learning_rate.py", "runs/fail-learning-rate.csv", "explosion", 260, id="learning-rate"),
    ],
)
def test_failure_is_diagnosed(
    script: str,
    path: str,
    cause: str,
    step: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The script runs as it stands, prints the diagnosis that the page shows, and the cause is the one it provoked."""
    monkeypatch.chdir(tmp_path)
    logging.disable()
    try:
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    finally:
        logging.disable(logging.NOTSET)
    (first, *_) = diagnose(path).causes
    assert first.name == cause
    assert abs(first.step - step) <= 3
    assert f"1. {cause}: confidence" in capsys.readouterr().out
    assert f"1. {cause}: confidence" in PAGE
    assert f"examples/{script}" in PAGE
