"""The pages of the documentation as tests read them: their blocks of code, and the marks that say how these are run.

All Python on a page stands in fences that begin with three backticks and `python`. The blocks of a page are run from
the top down, each in an empty folder, with `AT_HAND` and whatever the blocks before have defined. A comment before a
block says what else it needs:

    <!-- setup: supervisor = trimtab.Supervisor(model, optimizer) -->  code that the page does not show; may be long
    <!-- not run: it needs two GPUs -->                                the block is compiled only, and why

A block with a title, as in `python title="plain.py"`, is a file, and a block of `console` a session in the folder of
the page's files: each line that begins with `$ ` is run, and prints what follows it. Numbers with a fraction may be
others, and a line `…` stands for any lines.

Lines that begin with `trimtab`, in any other block, are commands: there has to be such a command with such options.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
"""Everything that is written for users."""

BLOCK = re.compile(
    r"(?P<marks>(?:^<!-- (?:setup|not run):.*?-->\n+)*)"
    r"(?:^(?P<fence>```+)(?P<language>[\w-]*)(?: title=\"(?P<title>[^\"\n]*)\")?\n(?P<fenced>.*?)^(?P=fence)$"
    r"|(?:(?<=\n\n)|\A)(?P<indented>(?:    [^\n]*\n|\n(?=    ))+))",
    re.MULTILINE | re.DOTALL,
)
"""A fenced or an indented block, with the marks before it."""

AT_HAND = """
import logging

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import trimtab

torch.manual_seed(0)
device, num_steps, path = "cpu", 12, "state.pt"
dataset = TensorDataset(torch.randn(256, 4), torch.randn(256, 1))
train_loader = loader = DataLoader(dataset, batch_size=16, shuffle=True)
val_loader = DataLoader(dataset, batch_size=64)
batch = x, y = next(iter(loader))
held_out_batch = next(iter(val_loader))
model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
loss_fn = nn.functional.mse_loss

def compute_loss(model, batch):
    x, y = batch
    return nn.functional.mse_loss(model(x), y)

@torch.no_grad()
def evaluate(model):
    return float(compute_loss(model, held_out_batch))
"""
"""What the blocks of all pages have at hand, made anew before each."""


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code on a page."""

    page: Path
    """The file."""

    line: int
    """The line its code begins at."""

    language: str
    """What the fence says; `indented` for a block without one."""

    title: str
    """The name of the file that it is; empty if it is none."""

    code: str
    """Its text."""

    setup: str
    """Code to run before it."""

    reason: str
    """Why it is not run; empty where it is."""


def read_blocks(page: Path) -> Iterator[Block]:
    """All blocks of a page, from the top down."""
    text = page.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        marks = re.findall(r"<!-- (setup|not run):\s*(.*?)\s*-->", match["marks"], re.DOTALL)
        code = match["fenced"] if match["indented"] is None else re.sub(r"^    ", "", match["indented"], flags=re.M)
        start = match.start("fenced") if match["indented"] is None else match.start("indented")
        yield Block(
            page,
            text.count("\n", 0, start) + 1,
            match["language"] if match["indented"] is None else "indented",
            match["title"] or "",
            code,
            "\n".join(told for kind, told in marks if kind == "setup"),
            "; ".join(told for kind, told in marks if kind == "not run"),
        )


SPEAKS = re.compile(
    r"^(from \S+ import |import \w|(for|with|while|if|def|class|try)\b.*:( *#.*)?$)|^supervisor\.\w", re.M
)
"""Lines that only Python has, whether the whole text can be read as Python or not."""


def is_python(code: str) -> bool:
    """True if a text is Python, or is meant as Python: an import, an assignment, a call, a statement with a colon."""
    try:
        body = ast.parse(code).body
    except SyntaxError:
        return SPEAKS.search(code) is not None
    calls = [each for each in body if isinstance(each, ast.Expr) and isinstance(each.value, ast.Call)]
    return bool(calls) or any(not isinstance(each, ast.Expr) for each in body)


def name_page(page: Path) -> str:
    """A page's path in the repository, for ids."""
    return str(page.relative_to(ROOT))
