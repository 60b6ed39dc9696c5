"""Plain text: what a loop prints, line by line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from trimtab.errors import InputError
from trimtab.readers import Log, reader
from trimtab.readers.building import build_log
from trimtab.readers.columns import EPOCH, STEP, match_name, simplify
from trimtab.readers.gathering import Entry
from trimtab.readers.places import Place, Placed, settle
from trimtab.readers.sources import read_head, read_source

NUMBER = r"[+-]?(?:\d[\d,_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[+-]?(?:nan|inf(?:inity)?)\b"

PAIR = re.compile(
    r"""(?<![\w.])
    (?P<name>[A-Za-z_][\w./-]{0,60}?(?:[ ][A-Za-z_][\w./-]{0,30}?){0,5}?)["']?\ ?(?P<unit>\((?:ms|s)\))?
    (?:\s*[:=]\s*\[?|\s+\[?|\s*\[)(?:["']|tensor\(|(?:np|numpy|torch)\.\w+\()?
    (?P<number>"""
    + NUMBER
    + r""")(?P<after>ms\b|\s*/\s*\d+)?(?![\w])""",
    re.VERBOSE | re.IGNORECASE,
)
"""A name and its number, such as `loss=2.31`, `lm loss: 2.1E+00`, `'lr': '5e-05'`, `time 200ms` or `Step [100/600]`."""

STAMP = re.compile(
    r"""\[?\(?\d{4}[-/]\d\d?[-/]\d\d?(?:[T ,_]+\d\d?:\d\d(?::\d\d)?(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?)?[\])]?
    |\[?\b\d\d?:\d\d(?::\d\d)?(?:[.,]\d+)?\b\]?|\x1b\[[\d;]*[A-Za-z]""",
    re.VERBOSE,
)
"""Dates, times of day and colours, in which there are numbers that mean nothing here."""

BESIDE = frozenset(
    """info debug warning train training val valid validation eval evaluation test testing current at after end of the
    finished completed rank worker process main trainer root""".split()
)
"""Words that may stand before `step` or `epoch`; after others, such as `skipped iterations`, it is another number."""

PHASED = 40
"""Characters at the beginning of a line in which it says of which data it is, as in `Validation: [10/50]`."""

MAX_LINE = 4096
"""Characters of a line that are looked at."""

PHASE = re.compile(r"(?<![a-z])(?:(val|valid|validation|eval|evaluation|dev)|(test|testing)|(train|training))(?![a-z])")
"""A word that says of which data the numbers after it are."""


def is_text(path: Path) -> bool:
    """True if some line near the start has a metric that is known by its name."""
    return any(_find_cells(_strip(line)) for line in read_head(path).split("\n"))


@reader("text", recognizes=is_text, turn=2)
def read_text(path: Path, names: Mapping[str, str]) -> Log:
    """Lines that a training loop prints: names and numbers, in whatever arrangement.

    A line counts if it has a metric that is known by its name, or that the mapping names (in small letters, with
    underscores); where a line has no step or epoch, those of the lines before hold. Understood are among others
    nanoGPT, Megatron, Keras, the dictionaries that the Hugging Face Trainer prints, and tables of `name: number`.
    """
    source = read_source(path)
    ours = _simplify_names(names)
    entries, notes, is_in_samples = _walk(source.lines, set(ours))
    if not entries:
        raise InputError(
            f"log: {str(path)!r} has no line with a metric that is known by its name, such as 'step 120 loss 3.21'"
        )
    info = {"step_unit": "sample"} if is_in_samples else {}
    return build_log(path, "text", entries, ours, notes=[*source.notes, *notes], info=info)


def _simplify_names(names: Mapping[str, str]) -> dict[str, str]:
    """The mapping by the names as they are told apart in text."""
    ours: dict[str, str] = {}
    for name, metric in names.items():
        if ours.setdefault(simplify(name), metric) != metric:
            raise InputError(
                f"mapping: in text {name!r} is {simplify(name)!r}, which is to be both {ours[simplify(name)]!r} and "
                f"{metric!r}; a column is one metric"
            )
    return ours


def _walk(lines: Iterator[tuple[int, str]], wanted: set[str]) -> tuple[list[Entry], list[str], bool]:
    """The lines that have a metric, each with the step and the epoch that hold for it.

    Returns:
        The entries, notes on their steps, and whether those are counted in samples.
    """
    place, found = Place(), list[Placed]()
    for number, whole in lines:
        line = _strip(whole)
        place.read(line, whole, is_held_out=_find_phase(line[:PHASED], "") != "")
        cells = _find_cells(line, wanted)
        if cells:
            for name in (STEP, EPOCH):
                if name in cells:
                    place.counts[name] = cells[name]
            found.append(Placed(number, cells, dict(place.counts), place.position, dict(place.bars), place.bar))
    entries, notes = settle(found)
    return entries, notes, place.is_in_samples and bool(notes)


def _strip(line: str) -> str:
    """A line without dates, times and colours, and not longer than is looked at."""
    return STAMP.sub(" ", line[:MAX_LINE])


def _find_cells(line: str, wanted: set[str] | frozenset[str] = frozenset()) -> dict[str, str]:
    """The numbers of a line by their names; none if no metric is among them."""
    cells: dict[str, str] = {}
    phase, end, has_metric = "", 0, False
    for pair in PAIR.finditer(line):
        unit = (pair["unit"] or "").strip("()") or ("ms" if pair["after"] == "ms" else "")
        name, counts = _name_pair(pair["name"], unit)
        is_share = "/" in (pair["after"] or "")
        phase = _find_phase(line[end : pair.start()] + (pair["name"] if counts or is_share else ""), phase)
        end = pair.end()
        number = pair["number"].rstrip(",")
        if counts:
            cells.setdefault(counts, number.replace(",", ""))
            continue
        if phase and not name.startswith(("val", "eval", "test", "train")):
            name = phase + name
        is_metric = name in wanted or match_name(name) is not None
        if not is_share and (is_metric or not number[-1:].isalpha()):
            cells.setdefault(name, number)
            has_metric = has_metric or is_metric
    return cells if has_metric else {}


@lru_cache(maxsize=4096)
def _name_pair(written: str, unit: str) -> tuple[str, str | None]:
    """The name of a pair, and whether it counts steps or epochs; words that say when or where do not matter then."""
    name = simplify(written) + (f"_{unit}" if unit else "")
    *before, last = name.split("_") or [""]
    found = match_name(name) or (match_name(last) if BESIDE.issuperset(before) else None)
    return name, found[0] if found is not None and found[0] in (STEP, EPOCH) else None


@lru_cache(maxsize=4096)
def _find_phase(text: str, phase: str) -> str:
    """What is put before names after a text, which may say of which data they are."""
    found = list(PHASE.finditer(text.lower()))
    if not found:
        return phase
    return "val_" if found[-1][1] else "test_" if found[-1][2] else ""
