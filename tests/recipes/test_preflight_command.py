"""`trimtab preflight`: the command on a sound and on a broken script, and what it refuses."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from trimtab.cli import app

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "preflight_me.py"


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["preflight", *map(str, arguments)], env={"COLUMNS": "200"})


@pytest.fixture(autouse=True)
def modules() -> Iterator[None]:
    """Forget the files that were loaded, and where they were found."""
    path = list(sys.path)
    yield
    for name in ("preflight_me", "mine"):
        sys.modules.pop(name, None)
    sys.path[:] = path


def write(folder: Path, code: str) -> Path:
    path = folder / "mine.py"
    path.write_text(code)
    return path


def test_sound_script_passes() -> None:
    """The sound example has no line that fails or warns, and ends with 0."""
    result = call(EXAMPLE)
    assert result.exit_code == 0, result.output
    assert " 0 warn, 0 fail, 0 skipped" in result.output
    assert "@@" in result.output, "the batch is pictured"


def test_broken_script_fails() -> None:
    """The broken example ends with 1, and what is wrong with it is named with a fix each."""
    result = call(f"{EXAMPLE}:make_broken")
    assert result.exit_code == 1
    for words in (
        "missing-from-optimizer",
        "double-softmax",
        "as pixels are that were not divided by 255",
        "the second epoch begins with the same batches as the first",
        "100.0% of 256 validation samples are among 1,024 training samples",
        "one batch only gets from",
        "→ shuffle, unless the order matters",
    ):
        assert words in result.output, result.output


def test_json_has_every_line() -> None:
    """With --json every line is there with step, status, number, reason and fix."""
    result = call(f"{EXAMPLE}:make_broken", "--json")
    told = json.loads(result.stdout)
    assert told["status"] == "fail"
    assert {"step", "name", "status", "number", "reason", "fix"} == set(told["lines"][0])
    assert {each["status"] for each in told["lines"]} == {"pass", "warn", "fail", "skipped"}


def test_loop_of_the_file_is_read(tmp_path: Path) -> None:
    """Lint reads the loop that stands in the file; and whether it keeps a checkpoint anywhere."""
    code = EXAMPLE.read_text().partition('if __name__ == "__main__":')[0]
    loop = (
        "\n\ndef train(model, loader, optimizer, scaler):\n    for batch in loader:\n"
        "        scaler.scale(compute_loss(model, batch)).backward()\n"
        "        nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n        scaler.step(optimizer)\n"
    )
    result = call(write(tmp_path, code + loop))
    assert "clip-before-unscale" in result.output
    assert "nothing in the script keeps one" in result.output


def test_pair_by_order_will_do(tmp_path: Path) -> None:
    """A factory may return model, optimizer, compute_loss and train_loader in this order."""
    code = EXAMPLE.read_text() + "\n\ndef short():\n    return tuple(make().values())[:4]\n"
    result = call(f"{write(tmp_path, code)}:short", "--budget", "30")
    assert result.exit_code == 0, result.output
    assert "there are no validation data" in result.output


@pytest.mark.parametrize(
    ("code", "factory", "message"),
    [
        pytest.param(None, "", "there is no file", id="no-file"),
        pytest.param("x = 1", "", "has no function 'make'", id="no-factory"),
        pytest.param("def make(): return 1", "", "gave int; it has to give a mapping", id="gives-a-number"),
        pytest.param("def other(): return {'model': 1}", ":other", "gave model; it has to give", id="gives-too-little"),
        pytest.param(
            "def make(): return dict(model=1, optimizer=1, compute_loss=1, train_loader=1, rate=1)",
            "",
            "gave rate, which is not known",
            id="gives-too-much",
        ),
    ],
)
def test_what_cannot_be_tried_is_one_sentence(tmp_path: Path, code: str | None, factory: str, message: str) -> None:
    """A file without what it takes ends with 2 and a sentence."""
    path = tmp_path / "mine.py" if code is None else write(tmp_path, code)
    result = call(f"{path}{factory}")
    assert result.exit_code == 2
    assert message in result.output
