"""The code on the pages: all Python is run, and all commands are such as there are."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from tests.docs.pages import AT_HAND, PAGES, ROOT, Block, is_python, name_page, read_blocks
from trimtab.bench.contestants import contestants
from trimtab.cli import app
from trimtab.detectors import detectors
from trimtab.faults import faults
from trimtab.policy import Policy

BLOCKS = [block for page in PAGES for block in read_blocks(page)]

COMMAND = re.compile(r"^(?:\$ )?(trimtab(?: .*)?)$", re.MULTILINE)
"""A line that calls the command, with a prompt or without."""


@pytest.fixture
def open_sets() -> Iterator[None]:
    """Take out of the open sets what a page has added to them."""
    sets: list[dict[str, Any]] = [detectors, faults, contestants]
    before = [dict(each) for each in sets]
    yield
    for each, was in zip(sets, before, strict=True):
        each.clear()
        each.update(was)


def name_block(block: Block) -> str:
    """A block's place, for ids."""
    return f"{name_page(block.page)}:{block.line}"


def end_what_is_shared() -> None:
    """Undo what a block has begun for the whole process."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    if "accelerate" in sys.modules:
        sys.modules["accelerate"].state.AcceleratorState._reset_state(reset_partial_state=True)


def run_block(block: Block, namespace: dict[str, Any], folder: Path) -> None:
    """Run a block of Python after what its setup says, or only compile it where it says so."""
    code = compile("\n" * (block.line - 1) + block.code, f"<{name_block(block)}>", "exec")
    if block.reason:
        return
    folder.mkdir()
    logging.disable()
    try:
        with contextlib.chdir(folder):
            exec(AT_HAND, namespace)
            exec(compile(block.setup, f"<setup of {name_block(block)}>", "exec"), namespace)
            exec(code, namespace)
    finally:
        logging.disable(logging.NOTSET)
        end_what_is_shared()


def run_session(block: Block, folder: Path) -> None:
    """Run the commands of a block and compare what they print."""
    assert block.code.startswith("$ "), f"{name_block(block)}: a session begins with a command"
    for command, _, expected in (part.partition("\n") for part in re.split(r"^\$ ", block.code, flags=re.M)[1:]):
        words = shlex.split(command)
        program = {"python": [sys.executable], "trimtab": [sys.executable, "-m", "trimtab"]}[words[0]]
        search = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "TRIMTAB": "", "COLUMNS": "80", "PYTHONUNBUFFERED": "1", "PYTHONPATH": search}
        done = subprocess.run(
            [*program, *words[1:]],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        pattern = re.escape(mask(expected)).replace("…\\\n", r"(?:.*\n)*")
        assert re.fullmatch(pattern, mask(done.stdout)), f"{name_block(block)}: {command} prints\n{done.stdout}"


def mask(text: str) -> str:
    """A text as lines without spaces at their ends, in which a number with a fraction is as good as another."""
    lines = [line.rstrip() for line in text.strip().split("\n")]
    return re.sub(r"\d+\.\d+(e[+-]?\d+)?|\d+e[+-]?\d+", "#", "\n".join([*lines, ""]))


@pytest.mark.usefixtures("open_sets")
@pytest.mark.parametrize("page", [page for page in PAGES if any(block.page == page for block in BLOCKS)], ids=name_page)
def test_code_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    """Every block of Python runs, after those before it, and every session prints what the page says it does."""
    namespace: dict[str, Any] = {"__name__": "__page__"}
    for block in (block for block in BLOCKS if block.page == page):
        if block.title:
            (tmp_path / block.title).write_text(block.code)
        elif block.language == "python":
            run_block(block, namespace, tmp_path / f"{block.line}")
        elif block.language == "console":
            run_session(block, tmp_path)
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.title], ids=name_block)
def test_files_are_run(block: Block) -> None:
    """A file of a page is run in a session, or imported by one that is."""
    others = [each.code for each in BLOCKS if each.page == block.page and each != block]
    name = block.title.removesuffix(".py")
    assert any(f"$ python {block.title}" in code or f"from {name} import" in code for code in others)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "toml"], ids=name_block)
def test_tables_are_policies(block: Block) -> None:
    """Every table in TOML is one that a policy takes."""
    assert Policy.from_dict(tomllib.loads(block.code)) is not None


@pytest.mark.parametrize(
    "block", [block for block in BLOCKS if block.language not in ("python", "toml", "console")], ids=name_block
)
def test_python_stands_in_its_own_fence(block: Block) -> None:
    """No Python hides in a block that is not run."""
    assert not is_python(block.code), "put it between ```python and ```, or change what is no Python"


def test_what_is_not_run_has_a_reason() -> None:
    """A mark says in words why a block is not run."""
    assert not [name_block(block) for block in BLOCKS if block.reason and len(block.reason.split()) < 3]


@pytest.mark.parametrize(
    ("block", "line"),
    [
        pytest.param(block, line, id=f"{name_block(block)}:{line}")
        for block in BLOCKS
        for line in COMMAND.findall(block.code)
        if block.language != "python"
    ],
)
def test_commands_are_such_as_there_are(block: Block, line: str) -> None:
    """Each command that a page shows exists, with the options and as many arguments as it is shown with."""
    group: Any = typer.main.get_command(app)
    words = shlex.split(line.replace("[", "").replace("]", ""), comments=True)[1:]
    if words and words[0].startswith("--"):
        assert {option for param in group.params for option in param.opts} | {"--help"} >= set(words)
        return
    assert not words or words[0] in group.commands, name_block(block)
    if len(words) > 1 and "--help" not in words:
        command = group.commands[words[0]]
        command.make_context(f"trimtab {words[0]}", words[1:], resilient_parsing=False)


def test_the_check_of_commands_can_fail() -> None:
    """A command, an option or an argument that there is not is found."""
    block = BLOCKS[0]
    for line in ("trimtab diagnoze x", "trimtab explain --loud x", "trimtab signal x"):
        with pytest.raises(Exception, match=r"(?i)diagnoze|no such option|missing"):
            test_commands_are_such_as_there_are(block, line)
