"""The table of all known causes, written into the page that documents them.

python -m trimtab.diagnosis.manual docs/howto/diagnosis.md
"""

from __future__ import annotations

import sys
from pathlib import Path

from trimtab.diagnosis import QUESTIONS, known_causes

BEGIN, END = "<!-- causes: begin -->", "<!-- causes: end -->"
"""Between what the table stands on the page."""


def make_table() -> str:
    """All known causes by the question they answer, each with the first sentence of its manual page."""
    lines: list[str] = []
    for question, text in QUESTIONS.items():
        kinds = [each for _, each in sorted(known_causes.items()) if each.question == question]
        lines += ["", f"### {text}", "", "| cause | what it is |", "| --- | --- |"]
        lines += [f"| `{each.name}` | {each.manual.partition(chr(10))[0]} |" for each in kinds]
    return "\n".join([*lines[1:], ""])


def fill_page(page: str) -> str:
    """A page with the table as it has to be between its marks."""
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n{make_table()}{END}{after}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(fill_page(path.read_text(encoding="utf-8")), encoding="utf-8")
