"""The command that prints manual pages."""

from __future__ import annotations

import difflib
import re
from typing import Annotated

import typer
from rich.padding import Padding

from trimtab.cli.doors import console, say_errors


def explain(
    name: Annotated[
        str | None, typer.Argument(help="The detector or the cause to explain; all of them in a list if left out.")
    ] = None,
) -> None:
    """Print the manual page of a detector, or of a cause that a diagnosis names; or the list of all of them."""
    from trimtab.detectors import detectors
    from trimtab.diagnosis import known_causes
    from trimtab.errors import InputError

    with say_errors():
        if name is None:
            _list_manuals()
            return
        if name not in detectors and name not in known_causes:
            near = difflib.get_close_matches(name, sorted({*detectors, *known_causes}), 3)
            meant = f"; did you mean {' or '.join(near)}" if near else ""
            raise InputError(
                f"explain: there is no detector or cause {name!r}{meant}; `trimtab explain` lists them all"
            )
        if name in detectors:
            _explain_detector(name)
        if name in known_causes:
            _explain_cause(name, is_second=name in detectors)


def _list_manuals() -> None:
    """Print the first sentence of every detector's manual page, and of every cause's."""
    from trimtab.detectors import detectors
    from trimtab.diagnosis import QUESTIONS, known_causes
    from trimtab.policy import DEFAULT_LADDERS

    console.print("Detectors: what is looked for at every step and review", highlight=False)
    for name, each in sorted(detectors.items()):
        ladder = " → ".join(DEFAULT_LADDERS.get(name, ())) or "advisory"
        console.print(f"[bold]{name}[/bold] ({each.severity}; {ladder})", highlight=False)
        console.print(Padding(each.manual.split("\n")[0], (0, 0, 0, 4)), markup=False, highlight=False)
    console.print("\nCauses: what `trimtab diagnose` names, by the question that it answers", highlight=False)
    for question, text in QUESTIONS.items():
        console.print(f"\n{text}", highlight=False)
        for name, kind in sorted(known_causes.items()):
            if kind.question == question:
                console.print(f"[bold]{name}[/bold]", highlight=False)
                console.print(Padding(kind.manual.split("\n")[0], (0, 0, 0, 4)), markup=False, highlight=False)


def _explain_detector(name: str) -> None:
    from trimtab.detectors import detectors
    from trimtab.policy import DEFAULT_LADDERS

    chosen = detectors[name]
    defaults = "".join(f"\n    {setting} = {value}" for setting, value in chosen.settings.items())
    ladder = ", ".join(DEFAULT_LADDERS.get(name, ())) or "none: advisory"
    console.print(f"[bold]{name}[/bold] ({chosen.severity})")
    _print_manual(chosen.manual)
    console.print(f"\n[bold]Defaults[/bold]{defaults}\n    ladder: {ladder}")


def _explain_cause(name: str, *, is_second: bool) -> None:
    from trimtab.diagnosis import QUESTIONS, known_causes

    kind = known_causes[name]
    between = "\n" if is_second else ""
    console.print(f"{between}[bold]{name}[/bold] (a cause that `trimtab diagnose` names)", highlight=False)
    _print_manual(kind.manual)
    console.print("\n[bold]Question[/bold]")
    console.print(Padding(QUESTIONS[kind.question], (0, 0, 0, 4)), markup=False, highlight=False)


def _print_manual(manual: str) -> None:
    for heading, text in _split_manual(manual):
        console.print(f"\n[bold]{heading}[/bold]" if heading else "")
        console.print(Padding(text, (0, 0, 0, 4 if heading else 0)), markup=False, highlight=False)


def _split_manual(manual: str) -> list[tuple[str, str]]:
    """A manual page as headings and their paragraphs, the lines of each joined; a `name:` begins a line of its own."""
    parts: list[tuple[str, str]] = [("", "")]
    for line in map(str.rstrip, manual.split("\n")):
        if line.endswith(":") and not line.startswith(" "):
            parts.append((line[:-1], ""))
            continue
        heading, text = parts[-1]
        starts_entry = re.match(r"    \w+: ", line) is not None
        parts[-1] = (heading, f"{text}\n{line.strip()}".strip() if starts_entry else f"{text} {line.strip()}".strip())
    return parts
