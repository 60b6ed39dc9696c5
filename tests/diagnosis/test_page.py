"""The page that documents the causes has each of them, as the code has it."""

from __future__ import annotations

import re
from pathlib import Path

from trimtab.diagnosis import known_causes
from trimtab.diagnosis.manual import BEGIN, END, fill_page, make_table

PAGE = (Path(__file__).parent.parent.parent / "docs" / "howto" / "diagnosis.md").read_text(encoding="utf-8")


def test_page_is_up_to_date() -> None:
    """The table on the page is that of the code; `python -m trimtab.diagnosis.manual docs/howto/diagnosis.md` writes it."""
    assert fill_page(PAGE) == PAGE


def test_table_has_every_cause_once() -> None:
    """Each known cause is in the table once, and no other."""
    names = re.findall(r"^\| `([a-z0-9-]+)` \|", make_table(), re.MULTILINE)
    assert sorted(names) == sorted(known_causes)


def test_filling_changes_nothing_else() -> None:
    """What stands before and after the marks stays as it is."""
    filled = fill_page(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert filled.startswith(f"before\n{BEGIN}\n")
    assert filled.endswith(f"{END}\nafter\n")
    assert "\nold\n" not in filled
