"""Writes the manual pages of all detectors, causes and faults while the site is built, from their docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from trimtab.detectors import Detector, detectors
from trimtab.diagnosis import QUESTIONS, Kind, known_causes
from trimtab.faults import FOREVER, Fault, faults
from trimtab.policy import DEFAULT_LADDERS

CAUSES = "<!-- generated: causes -->"
"""Stands for the table of all causes on any page."""

DETECTORS_INTRO = """A detector is a pure function over the history of measurements. Those with a ladder act by
default; all others are advisory: recorded, shown and explained. `trimtab explain NAME` prints the same pages. How to
give one a ladder, or other settings, is in [Tune a policy](../../howto/policy.md), how to add one in
[Write a detector](../../howto/detector.md)."""

CAUSES_INTRO = """What [`trimtab diagnose`](../../howto/diagnosis.md) names, by the questions it asks, in their order.
`trimtab explain NAME` prints the manual page of one."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, and put them into the navigation."""
    pages = dict(write_pages())
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    reference = next(each["Reference"] for each in config.nav or () if "Reference" in each)
    for kind in ("detectors", "causes"):
        reference.append({kind.capitalize(): [path for path in pages if path.startswith(f"reference/{kind}/")]})
    reference.append({"Faults": "reference/faults.md"})
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Put the table of all causes where a page asks for it."""
    return markdown.replace(CAUSES, write_causes("../" * page.file.src_uri.count("/") + "reference/causes/"))


def write_pages() -> Iterator[tuple[str, str]]:
    """The pages that are generated whole: path and Markdown."""
    yield "reference/detectors/index.md", write_detector_index()
    for name, each in sorted(detectors.items()):
        yield f"reference/detectors/{name}.md", write_detector(each)
    yield "reference/causes/index.md", f"# Causes\n\n{CAUSES_INTRO}\n\n{write_causes('')}"
    for question, title in QUESTIONS.items():
        kinds = [kind for _, kind in sorted(known_causes.items()) if kind.question == question]
        yield f"reference/causes/{question}.md", f"# {title}\n\n" + "\n".join(map(write_cause, kinds))
    yield "reference/faults.md", write_faults()


def split_manual(manual: str) -> list[tuple[str, str]]:
    """A manual page as pairs of heading and text; the first heading is empty."""
    parts = re.split(r"^(\S.*):\n(?=    )", manual, flags=re.MULTILINE)
    return [("", parts[0].strip()), *zip(parts[1::2], map(inspect.cleandoc, parts[2::2]), strict=True)]


def first_sentence(manual: str) -> str:
    """What a table says of a manual page."""
    return manual.partition("\n")[0]


def write_entries(text: str) -> str:
    """The entries `name: meaning` of a section, as a list of definitions; other text as it is."""
    if not re.match(r"\w+: ", text):
        return text
    entries = re.split(r"^(\w+): ", text, flags=re.MULTILINE)
    pairs = zip(entries[1::2], entries[2::2], strict=True)
    return "\n".join(f"`{name}`\n:   {' '.join(meaning.split())}\n" for name, meaning in pairs)


def write_manual(manual: str, level: int) -> str:
    """A manual page as Markdown, its headings at a level."""
    return "\n\n".join(
        text if not heading else f"{'#' * level} {heading}\n\n{write_entries(text)}"
        for heading, text in split_manual(manual)
    )


def write_detector(each: Detector) -> str:
    """The page of one detector."""
    ladder = DEFAULT_LADDERS.get(each.name, ())
    acts = " → ".join(f"`{rung}`" for rung in ladder) or "none: it is advisory"
    needs = f"\n| asked where | `{each.needs}` was measured |" if each.needs else ""
    table = [f"[detectors.{each.name}]"]
    table += [
        f"{name} = {'true' if value is True else 'false' if value is False else value}"
        for name, value in each.settings.items()
    ]
    table += [f"ladder = [{', '.join(f'{rung!r}' for rung in ladder)}]".replace("'", '"')]
    causes = [kind for _, kind in sorted(known_causes.items()) if each.name in kind.detectors]
    told = ", ".join(f"[`{kind.name}`](../causes/{kind.question}.md#{kind.name})" for kind in causes)
    return "\n\n".join(
        [
            f"# {each.name}",
            f"**{first_sentence(each.manual)}**",
            f"| | |\n| --- | --- |\n| severity | {each.severity} |\n| judges | each {' and '.join(each.clocks)} |"
            f"\n| default ladder | {acts} |{needs}" + (f"\n| a diagnosis calls it | {told} |" if told else ""),
            write_manual(each.manual.partition("\n")[2].strip(), 2),
            "## In a policy",
            "With the numbers it has by default:",
            "```toml\n" + "\n".join(table) + "\n```",
        ]
    )


def write_detector_index() -> str:
    """The list of all detectors."""
    rows = "\n".join(
        f"| [`{name}`]({name}.md) | {first_sentence(each.manual)} | {each.severity} "
        f"| {' → '.join(DEFAULT_LADDERS[name]) if name in DEFAULT_LADDERS else 'advisory'} |"
        for name, each in sorted(detectors.items(), key=lambda pair: (pair[0] not in DEFAULT_LADDERS, pair[0]))
    )
    head = "| detector | what it finds | severity | answer by default |\n| --- | --- | --- | --- |"
    return f"# Detectors\n\n{DETECTORS_INTRO}\n\n{head}\n{rows}\n"


def write_cause(kind: Kind) -> str:
    """The section of one cause on the page of its question."""
    found = ", ".join(f"[`{name}`](../detectors/{name}.md)" for name in kind.detectors)
    beside = f"\n\nDetectors that look for the same: {found}." if found else ""
    body = write_manual(kind.manual.partition("\n")[2].strip(), 3)
    body = re.sub(r"^### (.*)$", r"**\1**", body, flags=re.MULTILINE)
    return f"## {kind.name} {{ #{kind.name} }}\n\n**{first_sentence(kind.manual)}**\n\n{body}{beside}\n"


def write_causes(folder: str) -> str:
    """All causes in tables, by the questions they answer; their pages lie in a folder."""
    lines: list[str] = []
    for question, text in QUESTIONS.items():
        kinds = [each for _, each in sorted(known_causes.items()) if each.question == question]
        lines += ["", f"### {text}", "", "| cause | what it is |", "| --- | --- |"]
        lines += [
            f"| [`{each.name}`]({folder}{question}.md#{each.name}) | {first_sentence(each.manual)} |" for each in kinds
        ]
    return "\n".join([*lines[1:], ""])


def write_faults() -> str:
    """The page of all faults, each with its manual page."""
    intro = "What can be caused on purpose, and how such a thing happens. [Cause faults](../howto/faults.md) says how."
    return f"# Faults\n\n{intro}\n\n" + "\n".join(write_fault(each) for _, each in sorted(faults.items()))


def write_fault(each: Fault) -> str:
    """The section of one fault."""
    steps = "for good" if each.duration == FOREVER else f"{each.duration}"
    body = re.sub(r"^### (.*)$", r"**\1**", write_manual(each.manual.partition("\n")[2].strip(), 3), flags=re.MULTILINE)
    signs = ", ".join(f"[`{sign}`](detectors/{sign}.md)" if sign in detectors else f"“{sign}”" for sign in each.signs)
    facts = f"Acts at: {each.place}. Strength: {each.strength:g}. Steps: {steps}. Needs: {each.needs or 'any loop'}."
    told = f" Named right by: {signs}." if signs else ""
    return f"## {each.name} {{ #{each.name} }}\n\n**{first_sentence(each.manual)}**\n\n{body}\n\n{facts}{told}\n"
