"""One self-contained HTML page: it opens offline and asks no network for anything."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

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


CODE = re.compile(r"`([^`]+)`")

PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5b6570; --paper: #ffffff; --card: #f4f6f8; --line: #d9dee3 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ec; --soft: #9aa5b1; --paper: #14181c; --card: #1e242a; --line: #343c45 } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto;
  max-width: 1180px; padding: 28px 24px 60px }
h1 { font-size: 26px; margin: 0 0 4px } h2 { font-size: 17px; margin: 28px 0 8px }
.summary { color: var(--soft); margin: 0 0 20px; max-width: 85ch }
.cards { display: flex; gap: 14px; flex-wrap: wrap; margin-bottom: 18px }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 12px 18px; flex: 1 1 200px }
.card h2 { font-size: 13px; font-weight: 500; color: var(--soft); margin: 0 }
.card strong { font-size: 28px; font-variant-numeric: tabular-nums } .card p { margin: 0; color: var(--soft) }
.wide { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th { text-align: left; font-weight: 600 } th, td { padding: 6px 14px 6px 0; border-bottom: 1px solid var(--line);
  vertical-align: top }
code { font-size: 13px; background: var(--card); padding: 1px 4px; border-radius: 4px }
@media print { body { max-width: none } section { break-inside: avoid } }
</style></head>
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
