"""One self-contained HTML page: it opens offline and asks no network for anything."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from trimtab.journal import write_aside

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, slots=True)
class Card:
    """A number to see first."""

    title: str
    """What it is."""

    number: str
    """The number, formatted."""

    remark: str = ""
    """What it means beside the others."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A table."""

    title: str
    """Its heading."""

    head: Sequence[str]
    """The columns."""

    body: Sequence[Sequence[str]]
    """The rows, text as a person reads it."""


def write_report(path: str | Path, document: Mapping[str, Any]) -> None:
    """Write the page of a run, or of several: one file that opens offline.

    Args:
        path: the file to write.
        document: what `trimtab.report.document` says of it.
    """
    write_aside(Path(path), render_report(document))


def render_report(document: Mapping[str, Any] | None, *, script: str = "") -> str:
    """The page of a run, or of several.

    Its script has one entry, `trimtab.show(document)`, which is called with the document that is embedded, and may be
    called again with a newer one.

    Args:
        document: what `trimtab.report.document` says of it; None to embed none.
        script: more to run after it, by which the page may also talk to where it came from.
    """
    document = document or {}
    runs = document.get("runs", [document])
    held = json.dumps(document, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return RUN_PAGE.substitute(
        allowed=ALLOWED + (" connect-src 'self';" if script else ""),
        title=escape(str(document.get("title") or ", ".join(str(run.get("name", "")) for run in runs))),
        style=read_asset("page.css") + read_asset("run.css"),
        document=f'<script type="application/json" id="document">{held}</script>\n' if document else "",
        plotly=read_plotly(),
        script=read_asset("run.js"),
        more=f"<script>\n{script}</script>\n" if script else "",
    )


@cache
def read_asset(name: str) -> str:
    """A file of styles or of script that pages are made of."""
    return (Path(__file__).parent / "assets" / name).read_text(encoding="utf-8")


@cache
def read_plotly() -> str:
    """Plotly's script, from its installed package, which is not imported for it."""
    spec = find_spec("plotly")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return (Path(spec.submodule_search_locations[0]) / "package_data" / "plotly.min.js").read_text(encoding="utf-8")


def write_page(
    path: str | Path, title: str, summary: str, cards: Sequence[Card], figure: go.Figure, tables: Sequence[Rows]
) -> None:
    """Write a page with a headline, numbers, a figure and tables; every text is escaped.

    Args:
        path: the file to write.
        title: the heading.
        summary: a sentence or two under it.
        cards: numbers to see first.
        figure: a Plotly figure; its texts have to be escaped already.
        tables: tables below it.
    """
    drawing = figure.to_html(full_html=False, include_plotlyjs=True, config={"displaylogo": False, "responsive": True})
    shown = "".join(
        f"<div class=card><h2>{escape(card.title)}</h2><strong>{escape(card.number)}</strong>"
        f"<p>{escape(card.remark)}</p></div>"
        for card in cards
    )
    page = PAGE.substitute(
        style=read_asset("page.css"),
        title=escape(title),
        summary=escape(summary),
        cards=shown,
        figure=drawing,
        tables="".join(map(_format_rows, tables)),
    )
    write_aside(Path(path), page)


def _format_rows(rows: Rows) -> str:
    head = "".join(f"<th scope=col>{escape(each)}</th>" for each in rows.head)
    body = "".join("<tr>" + "".join(f"<td>{_format_cell(cell)}</td>" for cell in row) + "</tr>" for row in rows.body)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f"<section><h2>{escape(rows.title)}</h2><div class=wide>{table}</div></section>"


def _format_cell(text: str) -> str:
    """A cell: its lines one under the other, and what stands between backticks as code."""
    return CODE.sub(r"<code>\1</code>", escape(text)).replace("\n", "<br>")


ALLOWED = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:;"
"""What a page may do: run what it brings, and ask no network for anything."""

CODE = re.compile(r"`([^`]+)`")

PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
$style</style></head>
<body><h1>$title</h1><p class="summary">$summary</p>
<div class="cards">$cards</div>
$figure
$tables
<script>
const scheme = matchMedia("(prefers-color-scheme: dark)");
function tint() {
  const ink = getComputedStyle(document.documentElement).getPropertyValue("--ink").trim();
  document.querySelectorAll(".plotly-graph-div").forEach(drawing => Plotly.relayout(drawing, {"font.color": ink}));
}
addEventListener("load", tint); scheme.addEventListener("change", tint);
</script></body></html>
""")

RUN_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="$allowed">
<title>$title</title>
<style>
$style</style></head>
<body><main id="page"></main>
<noscript><p>This page draws a run with JavaScript; <code>trimtab diagnose</code> tells of it in text.</p></noscript>
$document<script>
$script</script>
$more<script>$plotly</script></body></html>
""")
