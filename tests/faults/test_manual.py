"""What is written of faults: manual pages, signs, the page of the documentation."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest

from trimtab.detectors import detectors
from trimtab.faults import FOREVER, Beginning, Need, faults

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "howto" / "faults.md").read_text()
NEEDLESS = "any loop"


def describe_needs(name: str) -> str:
    """What a fault needs, as the page says it."""
    return faults[name].needs or NEEDLESS


@pytest.mark.parametrize("name", sorted(faults))
def test_every_fault_has_a_manual_page(name: str) -> None:
    """A fault's docstring tells what it does, how such a thing happens, and what its strength means."""
    manual = faults[name].manual
    assert manual.split("\n")[0].endswith(".")
    assert re.search(r"\nAs it happens:\n    \S.*\nStrength:\n    \S", manual, re.DOTALL)


def test_every_fault_has_a_file() -> None:
    """No two faults share a file, and a file is called like its fault."""
    modules = {name: each.act.__module__.rpartition(".")[2] for name, each in faults.items()}
    assert modules == {name: name.replace("-", "_") for name in faults}


def read_phrases() -> str:
    """The source of all that tells a cause."""
    rooms = [ROOT / "src" / "trimtab" / room for room in ("diagnosis", "supervisor")]
    return "".join(path.read_text() for room in rooms for path in room.glob("*.py"))


@pytest.mark.parametrize("name", sorted(name for name, each in faults.items() if each.signs))
def test_signs_are_what_trimtab_says(name: str) -> None:
    """Each sign is a detector, a phrase of a cause that a record tells, or how nonfinite names a metric."""
    for sign in faults[name].signs:
        metric, says_nonfinite, _ = sign.partition(" is not finite")
        if says_nonfinite:
            assert metric in ("loss", "grad_norm", "weight_norm", "buffer_norm")
        else:
            assert sign in detectors or (sign.startswith("cause: ") and sign in read_phrases())


@pytest.mark.parametrize("name", sorted(faults))
def test_fields_are_what_they_may_be(name: str) -> None:
    """What a fault needs and when it begins are among the words there are; what begins with the run does not end."""
    found = faults[name]
    assert found.needs in get_args(Need)
    assert found.begins in get_args(Beginning)
    assert found.begins == "anywhere" or found.duration == FOREVER


def read_rows() -> dict[str, list[str]]:
    """The rows of the tables of faults by the fault they are of."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line[:3] == "| `"]
    counts = Counter(row[0] for row in rows)
    assert set(counts.values()) == {1}
    return {row[0].strip("`"): row[1:] for row in rows if row[0].strip("`") in faults}


def test_page_has_every_fault_and_no_other() -> None:
    """The page lists each fault once."""
    assert read_rows().keys() == faults.keys()


@pytest.mark.parametrize("name", sorted(faults))
def test_page_says_what_is_so(name: str) -> None:
    """Of each fault the page has the place, the defaults and the needs that the code has."""
    found = faults[name]
    _, place, strength, duration, needs = read_rows()[name]
    assert place == found.place
    assert strength == f"{found.strength:g}"
    assert duration == ("for good" if found.duration == FOREVER else f"{found.duration}")
    assert needs == describe_needs(name)
