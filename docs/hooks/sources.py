"""Puts files from outside of the pages' folder into the site, and takes out of the pages what only their tests read.

The examples, the results of the benchmark, the change log and what contributors need become pages; a link that leads to
them in the repository leads to these pages in the site. Comments are left out.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent.parent

TEXTS = {
    "CHANGELOG.md": "why/changelog.md",
    "CONTRIBUTING.md": "why/contributing.md",
    "benchmarks/RESULTS.md": "why/results.md",
}
"""Files of the repository that become pages, and which."""

EXAMPLES = {
    f"examples/{path.name}": f"howto/examples/{path.stem}.md" for path in sorted((ROOT / "examples").glob("*.py"))
}
"""The same of the examples."""

LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")
"""A link to another file."""

COMMENT = re.compile(r"^<!--(?! generated:).*?-->\n?", re.MULTILINE | re.DOTALL)
"""A comment that begins a line."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, and put them into the navigation."""
    for source, path in TEXTS.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, path, content=lead_back(text, path)))
    for source, path in EXAMPLES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, path, content=f"# {source}\n\n```python\n{text}```\n"))
    sections = {name: entries for each in config.nav or () for name, entries in each.items()}
    sections["How to"].append({"Examples": list(EXAMPLES.values())})
    sections["Why"] += [
        {"Results of the benchmark": TEXTS["benchmarks/RESULTS.md"]},
        {"Contributing": TEXTS["CONTRIBUTING.md"]},
        {"Changes": TEXTS["CHANGELOG.md"]},
    ]
    return files


def lead_back(text: str, path: str) -> str:
    """A text of the repository's first folder, its links into `docs` as they are from a page."""
    up = "../" * path.count("/")
    return re.sub(r"\]\(docs/", f"]({up}", text)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Lead links into the repository to the pages there are of it, and leave comments out."""
    folder = posixpath.dirname(page.file.src_uri)

    def lead(link: re.Match[str]) -> str:
        meant = posixpath.normpath(posixpath.join("docs", folder, link[1]))
        target = {**TEXTS, **EXAMPLES}.get(meant)
        return link[0] if target is None else f"]({posixpath.relpath(target, folder or '.')}"

    return LINK.sub(lead, COMMENT.sub("", markdown))
