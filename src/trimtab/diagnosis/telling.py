"""A diagnosis as text for a terminal of 80 columns: the verdict, the causes with what speaks for them, the fixes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from textwrap import wrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trimtab.diagnosis.result import Diagnosis
    from trimtab.diagnosis.tree import Cause

WIDTH = 80
"""Columns of a line; code is never broken, so that it can be copied."""

OWN_LINE = 28
"""Characters of code from which it stands on a line of its own."""

MOST_MEASURED = 12
"""Metrics that are named as measured."""

CODE = re.compile(r"`([^`]+)`")

SPAN = re.compile(r"`[^`]+`")

NO_BREAK = "\N{NO-BREAK SPACE}"


def tell(diagnosis: Diagnosis) -> str:
    """A diagnosis as text: the verdict first, then causes, then what could not be judged."""
    return "\n".join(_tell(diagnosis))


def _tell(diagnosis: Diagnosis) -> Iterator[str]:
    shape = f"; the loss {diagnosis.pattern}" if diagnosis.pattern else ""
    shape = "; too short to judge" if diagnosis.is_short else shape
    records = "record" if diagnosis.num_steps == 1 else "records"
    rests_on = f"{diagnosis.num_steps} {records} up to step {diagnosis.last_step}"
    yield from _fill(f"{diagnosis.verdict}: {rests_on}{shape}", "", "  ")
    for note in diagnosis.notes:
        yield from _fill(f"log: {note}", "  ", "    ")
    if diagnosis.rest:
        yield from _fill(diagnosis.rest, "  ", "    ")
    if not diagnosis.causes:
        yield ""
        yield from _fill(f"nothing was found in what was measured: {name_measured(diagnosis)}", "", "  ")
    for number, cause in enumerate(diagnosis.causes, 1):
        yield ""
        yield from _tell_cause(number, cause)
    if diagnosis.adaptations:
        yield "\nchanged by the run itself:"
        for line in diagnosis.adaptations:
            yield from _list_item(line, "  ")
    if diagnosis.not_measured:
        yield "\nnot measured, and so not judged:"
        for line in diagnosis.not_measured:
            yield from _list_item(line, "  ")
    if diagnosis.unasked:
        asked = ", ".join(diagnosis.unasked)
        yield ""
        yield from _fill(f"not asked, since the run was over before it could matter: {asked}", "", "  ")


def name_measured(diagnosis: Diagnosis) -> str:
    """The metrics that a diagnosis rests on, in a list that can be read."""
    names = diagnosis.measured
    more = f" and {len(names) - MOST_MEASURED} more" if len(names) > MOST_MEASURED else ""
    return (", ".join(names[:MOST_MEASURED]) or "no metric") + more


def _tell_cause(number: int, cause: Cause) -> Iterator[str]:
    told = f"{number}. {cause.name}: confidence {cause.confidence:.2f}, from step {cause.step}, {cause.outcome}"
    yield from _fill(told, "", "   ")
    yield "   evidence:"
    for line in cause.evidence:
        yield from _list_item(line, "     ")
    if cause.ruled_out:
        yield "   ruled out:"
        for line in cause.ruled_out:
            yield from _list_item(line, "     ")
    if cause.alternative:
        yield from _fill(f"or else: {cause.alternative}", "   ", "     ")
    yield "   fix:"
    yield from _set_code(cause.fix, "     ")


def _list_item(text: str, indent: str) -> Iterator[str]:
    yield from _fill(text, f"{indent}- ", f"{indent}  ")


def _set_code(text: str, indent: str) -> Iterator[str]:
    """Text with its longer pieces of code on lines of their own."""
    said = ""
    for place, part in enumerate(CODE.split(text)):
        if not place % 2:
            said += part
        elif len(part) < OWN_LINE:
            said += f"`{part}`"
        else:
            yield from _set_words(said, indent)
            yield f"{indent}  {part}"
            said = ""
    yield from _set_words(said, indent)


def _set_words(text: str, indent: str) -> Iterator[str]:
    """What stands between pieces of code, without the marks that join it to them."""
    if said := text.strip(" ;,"):
        yield from _fill(said, indent, indent)


def _fill(text: str, first: str, rest: str) -> list[str]:
    """Text in lines, none of which is broken within code."""
    whole = SPAN.sub(lambda span: span[0].replace(" ", NO_BREAK), text)
    lines = wrap(
        whole, WIDTH, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )
    return [line.replace(NO_BREAK, " ") for line in lines]
